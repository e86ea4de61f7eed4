"""The frozen ResNet-50 and the head: they are torchvision's, and a digest tells weights apart."""

from pathlib import Path

import torch
from support.refusals import wrong
from torch import nn
from torchvision.models import resnet50

from harness.checkpoint import load_checkpoint
from heads.backbone import fingerprint, load_network, make_backbone, make_head, parted_weights
from heads.batches import extractor

FILE = Path("some.pth")


def test_backbone_and_head_are_the_resnet50_of_torchvision_frozen():
    torch.manual_seed(0)
    model, images = resnet50(num_classes=3).eval(), torch.randn(2, 3, 64, 96)
    state = {"state_dict": model.state_dict()}
    backbone, head = load_network(state, 3, FILE)
    assert not any(parameter.requires_grad for parameter in backbone.parameters())
    assert not any(module.training for module in backbone.modules())
    with torch.no_grad():
        logits = model(images)
    features = extractor(backbone)(images)
    assert (features.shape, features.requires_grad) == ((2, 2048), False)
    torch.testing.assert_close(head(features), logits, rtol=1e-3, atol=1e-3 * float(logits.abs().max()))
    fresh = load_network(state, 5, FILE, seed=1, fresh_head=True)[1]
    assert torch.equal(fresh.weight, make_head(5, 1).weight)


def test_a_head_follows_the_seed_and_leaves_the_global_random_state_alone():
    state = torch.get_rng_state()
    one, same, other = (make_head(4, seed) for seed in (0, 0, 1))
    assert torch.equal(torch.get_rng_state(), state)
    for mine, again, theirs in zip(one.parameters(), same.parameters(), other.parameters(), strict=True):
        assert (torch.equal(mine, again), torch.equal(mine, theirs)) == (True, False)


def test_the_fingerprint_follows_every_weight_and_statistic_but_no_counter():
    model = nn.Sequential(nn.Conv2d(3, 4, 3, bias=False), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(4, 4))
    seen = [fingerprint(model)]
    for tensor in model.state_dict().values():
        tensor.view(-1)[-1] += 1
        seen.append(fingerprint(model.to(memory_format=torch.channels_last)))
    assert [seen.count(one) for one in seen] == [1] * 5 + [2, 2] + [1] * 2  # the counter changes nothing


def test_parts_of_a_file_that_others_wrote(tmp_path):
    """A head whose names lack fc., and none at all, with which a new one must be asked for."""
    body = {"feat_model": {"a": torch.ones(1)}}
    for parts, names in (({"classifier": {"module.weight": torch.ones(3)}}, ["weight"]), ({}, [])):
        torch.save({"state_dict_best": body | parts}, tmp_path / "x.pth")
        assert [*map(list, parted_weights(load_checkpoint(tmp_path / "x.pth")))] == [["a"], names]
    body = {"state_dict": make_backbone().state_dict()}
    assert wrong(load_network, body, 3, FILE).startswith("some.pth holds no head: train.py can begin with a new")
