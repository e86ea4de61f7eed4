"""The frozen ResNet-50 and the head: they are torchvision's, and a digest tells weights apart."""

from pathlib import Path

import pytest
import torch
from support.refusals import wrong
from torch import nn
from torchvision.models import resnet50

from heads.backbone import fingerprint, load_head, load_network, make_head, parted_weights, read_weights
from heads.batches import extractor

FILE = Path("some.pth")


def test_backbone_and_head_are_the_resnet50_of_torchvision_frozen():
    torch.manual_seed(0)
    model, images = resnet50(num_classes=3).eval(), torch.randn(2, 3, 64, 96)
    weights = parted_weights({"state_dict": model.state_dict()})
    backbone, head = load_network(weights, 3, FILE)
    assert not any(parameter.requires_grad for parameter in backbone.parameters())
    assert not any(module.training for module in backbone.modules())
    with torch.no_grad():
        logits = model(images)
    features = extractor(backbone)(images)
    assert (features.shape, features.requires_grad) == ((2, 2048), False)
    torch.testing.assert_close(head(features), logits, rtol=1e-3, atol=1e-3 * float(logits.abs().max()))
    assert backbone(torch.zeros(0, 3, 64, 64)).shape == (0, 2048)
    fresh = load_network(weights, 5, FILE, seed=1, fresh_head=True)[1]
    assert torch.equal(fresh.weight, make_head(5, 1).weight)


def test_a_head_follows_the_seed_and_leaves_the_global_random_state_alone():
    torch.manual_seed(5)
    state = torch.get_rng_state()
    heads = [make_head(4, seed) for seed in (0, 0, 1)]
    assert torch.equal(torch.get_rng_state(), state)
    for name in ("weight", "bias"):
        a, *others = (getattr(head, name) for head in heads)
        assert [torch.equal(a, other) for other in others] == [True, False]


def test_the_fingerprint_follows_every_weight_and_statistic_but_no_counter():
    model = nn.Sequential(nn.Conv2d(3, 4, 3, bias=False), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(4, 4))
    names = [name for name in model.state_dict() if name != "1.num_batches_tracked"]
    seen = {fingerprint(model)}
    for name in names:
        for place in (0, -1):
            model.state_dict()[name].view(-1)[place] += 0.5
            seen.add(fingerprint(model))
    assert len(seen) == 1 + 2 * len(names) == 15
    before = fingerprint(model)
    model.state_dict()["1.num_batches_tracked"].add_(7)
    assert fingerprint(model.to(memory_format=torch.channels_last)) == before
    weight, bias = model[1].weight.detach(), model[1].bias.detach()
    weight[:], bias[:] = bias.clone(), weight.clone()  # the same numbers under other names
    assert fingerprint(model) != before


@pytest.mark.parametrize("prefix", ["", "module."])
def test_parts_of_a_file_that_others_wrote(tmp_path, prefix):
    """A head whose names lack fc., and none at all, with which a new one must be asked for."""
    classifier = {f"{prefix}{name}": torch.ones(3) for name in ("weight", "bias")}
    parts = {"feat_model": {"a": torch.ones(1)}, "classifier": classifier}
    for names in (["bias", "weight"], []):
        torch.save({"state_dict_best": parts}, tmp_path / "x.pth")
        (body, head), _ = read_weights(tmp_path / "x.pth")
        assert ([*body], sorted(head)) == (["a"], names)
        parts.pop("classifier", None)
    assert wrong(load_head, make_head(3, 0), head, FILE).startswith("some.pth holds no head: train.py can begin with a new")
