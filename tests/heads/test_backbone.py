"""The frozen ResNet-50 and the head: every form of file gives the same network, and every mistake is named."""

import copy
from pathlib import Path

import pytest
import torch
from support.refusals import wrong
from torch import nn
from torchvision.models import resnet50

from heads.backbone import fingerprint, load_head, load_network, make_backbone, make_head, read_weights
from heads.batches import extractor

CLASSES = 3
FILE = Path("some.pth")


@pytest.fixture(scope="module")
def network():
    """torchvision's ResNet-50 with a head for three classes and weights drawn at random.

    The large ones are views of one pool of numbers, so that a saved file is small.
    """
    generator = torch.Generator().manual_seed(0)
    pool = 0.05 * torch.randn(2_500_000, generator=generator)
    model = resnet50(num_classes=CLASSES)
    weights = {}
    for i, (name, tensor) in enumerate(model.state_dict().items()):
        if is_counter(name):
            weights[name] = torch.tensor(i)
        elif tensor.dim() > 1:
            weights[name] = pool[i : i + tensor.numel()].view(tensor.shape)
        else:
            weights[name] = 0.5 + torch.rand(tensor.shape, generator=generator)
    model.load_state_dict(weights)
    return model.eval(), weights


def saved(path, content, **options):
    torch.save(content, path, **options)
    return path


def is_counter(name):
    return name.endswith("num_batches_tracked")


def split(weights, prefix=""):
    """The weights of the backbone and of the head, names as in torchvision but for the prefix."""
    named = {f"{prefix}{name}": tensor for name, tensor in weights.items()}
    head = {name: tensor for name, tensor in named.items() if name.startswith(f"{prefix}fc.")}
    return {name: tensor for name, tensor in named.items() if name not in head}, head


def crt(weights):
    backbone, head = split(weights, "module.")
    return {"epoch": 89, "state_dict_best": {"feat_model": backbone, "classifier": head}}


def metasaug(weights):
    backbone, head = split({name: tensor for name, tensor in weights.items() if not is_counter(name)})
    return {"epoch": 20, "state_dict": {"feature": backbone, "classifier": head}, "best_acc1": 50.0, "optimizer": {}}


def prefixed(weights):
    return {f"module.{name}": tensor for name, tensor in weights.items()}


FORMS = {"cRT": crt, "MetaSAug": metasaug, "torchvision": dict, "torchvision with module.": prefixed}


@pytest.mark.parametrize("form", FORMS)
def test_every_form_gives_the_features_and_logits_of_torchvision(network, tmp_path, form):
    model, (weights, content) = network[0], read_weights(saved(tmp_path / "x.pth", FORMS[form](network[1])))
    backbone, head = load_network(weights, CLASSES, FILE)
    found = {**backbone.state_dict(), **{f"fc.{name}": tensor for name, tensor in head.state_dict().items()}}
    assert found.keys() == network[1].keys()
    assert all(is_counter(name) or torch.equal(tensor, network[1][name]) for name, tensor in found.items())
    if form != "MetaSAug":
        return
    assert (content["epoch"], content["best_acc1"]) == (20, 50.0)  # the whole content of the file comes too
    images = torch.randn(2, 3, 64, 96, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        logits = model(images)
    features = extractor(backbone)(images)
    assert (features.shape, features.requires_grad) == ((2, 2048), False)
    torch.testing.assert_close(head(features), logits, rtol=1e-3, atol=1e-3 * float(logits.abs().max()))


@pytest.fixture(scope="module")
def backbone():
    return make_backbone()


def test_the_backbone_is_frozen_in_eval_mode_and_takes_batches_of_none(backbone):
    assert not any(parameter.requires_grad for parameter in backbone.parameters())
    assert not any(module.training for module in backbone.modules())
    before = copy.deepcopy(backbone.state_dict())
    assert backbone(torch.zeros(0, 3, 64, 64)).shape == (0, 2048)
    backbone(torch.ones(1, 3, 64, 64))
    assert all(torch.equal(tensor, before[name]) for name, tensor in backbone.state_dict().items())


# The head


def test_a_head_follows_the_seed_and_leaves_the_global_random_state_alone():
    torch.manual_seed(5)
    state = torch.get_rng_state()
    heads = [make_head(4, seed) for seed in (0, 0, 1)]
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(6)
    heads.append(make_head(4, 0))
    assert heads[0].weight.shape == (4, 2048)
    assert all(parameter.requires_grad for parameter in heads[0].parameters())
    for name in ("weight", "bias"):
        a, *others = (getattr(head, name) for head in heads)
        assert [torch.equal(a, other) for other in others] == [True, False, True]


HEADS = [  # what the file holds instead, how the mistake begins, words of it
    ({"bias": None, "scales": torch.ones(3)}, "some.pth, the head,", ["has no bias, as a normalised (cosine)"]),
    ({"weight": None, "bias": None}, "some.pth holds no head", ["--fresh_head"]),
    ({"weight": torch.zeros(3, 512)}, "some.pth, the head,", ["weight is (3, 512), the one here is (3, 2048)"]),
    ({"weight": torch.zeros(5, 2048), "bias": torch.zeros(5)}, "some.pth, the head, was trained on 5 classes",
     ["the data set has 3: see --dataset"]),
]  # fmt: skip


@pytest.mark.parametrize(("change", "begin", "words"), HEADS)
def test_a_head_that_does_not_fit_is_named_and_nothing_is_copied(change, begin, words):
    head = make_head(3, 0)
    before = fingerprint(head)
    weights = {"weight": torch.zeros(3, 2048), "bias": torch.zeros(3)} | change
    said = wrong(load_head, head, {name: tensor for name, tensor in weights.items() if tensor is not None}, FILE)
    assert said.startswith(begin)
    assert all(word in said for word in words)
    assert fingerprint(head) == before


# The backbone


def test_the_fingerprint_follows_every_weight_and_statistic_but_no_counter():
    model = nn.Sequential(nn.Conv2d(3, 4, 3, bias=False), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(4, 4))
    names = [name for name in model.state_dict() if not is_counter(name)]
    assert len(names) == 7
    seen = {fingerprint(model)}
    for name in names:
        for place in (0, -1):
            model.state_dict()[name].view(-1)[place] += 0.5
            seen.add(fingerprint(model))
    assert len(seen) == 1 + 2 * len(names)
    before = fingerprint(model)
    model.state_dict()["1.num_batches_tracked"].add_(7)
    assert fingerprint(model) == before
    assert fingerprint(model.to(memory_format=torch.channels_last)) == before
    weight, bias = model[1].weight.detach(), model[1].bias.detach()
    weight[:], bias[:] = bias.clone(), weight.clone()  # the same numbers under other names
    assert fingerprint(model) != before


SOME = {"a": torch.ones(1)}


def test_parts_of_a_file_that_others_wrote(tmp_path):
    """A head whose names lack fc., and none at all, as where a new one is begun with."""
    head = {"weight": torch.ones(3, 2048), "bias": torch.ones(3)}
    prefixed = {f"module.{name}": tensor for name, tensor in head.items()}
    for parts in ({"feat_model": SOME, "classifier": head}, {"feature": SOME, "classifier": prefixed}):
        (body, found), _ = read_weights(saved(tmp_path / "x.pth", {"state_dict_best": parts}))
        assert (list(body), sorted(found)) == (["a"], ["bias", "weight"])
    assert read_weights(saved(tmp_path / "x.pth", {"state_dict_best": {"feat_model": SOME}}))[0] == ({"a": SOME["a"]}, {})
