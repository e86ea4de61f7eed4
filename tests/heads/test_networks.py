"""Backbones: features and last layer are the whole network, files of every form fit, checkpoints bring them back."""

import re
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from support import own_backbones
from support.refusals import wrong
from torch import nn
from torchvision import models
from torchvision.models.densenet import _load_state_dict as load_as_torchvision

from harness.checkpoint import save_checkpoint
from heads.backbone import make_head
from heads.networks import Backbone, open_backbone, restored_backbone
from heads.transforms import ImageFlags, Preparation
from heads.whole_networks import present_name
from inference.classifiers import classifier

OWN = "support.own_backbones"
SMALL = "shufflenet_v2_x0_5"
CRT = "resnet18"
SIZE = ImageFlags(image_size=32)  # quick
FILE = Path("some.pth")


@pytest.fixture(autouse=True)
def offline(monkeypatch):
    def fetch(*_):
        raise AssertionError("nothing is to be downloaded")

    monkeypatch.setattr(torch.hub, "urlopen", fetch)


def lively(model, size=32, seed=0):
    """Let what goes through a network with weights at random not vanish, and no weight be 0; return it in eval mode."""
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in model.named_parameters():
        if parameter.dim() == 1 or not parameter.any():
            scale = parameter.dim() == 1 and name.endswith("weight")
            parameter.data = 0.1 * torch.randn(parameter.shape, generator=generator) + scale
    for layer in model.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.momentum = 1.0
    with torch.no_grad():
        model.train()(images(size, 4))
    return model.eval()


def images(size, number=3):
    """Images with large areas, as photographs have: networks take those of noise alone for much the same."""
    coarse = torch.randn(number, 3, 4, 4, generator=torch.Generator().manual_seed(1))
    return 2 * nn.functional.interpolate(coarse, (size, size), mode="bilinear")


def saved(path, content):
    torch.save(content, path)
    return str(path)


@torch.no_grad()
def check_parts(backbone, network, last, size, tolerance):
    """Check that features times the last layer's weights are the logits of the network before it was taken apart."""
    features, logits = backbone.model(images(size)), network(images(size))
    assert features.shape == (3, backbone.features)
    assert (backbone.head, backbone.features) == (last, network.get_submodule(last).in_features)
    layer = network.get_submodule(last)
    bias = 0 if layer.bias is None else layer.bias
    expected = features @ layer.weight.T + bias
    span = (logits - logits.mean(0)).abs().max()  # what differs between the images, which a bias does not explain
    assert span > 1e-3 * logits.abs().max()
    assert (expected - logits).abs().max() < tolerance * span
    off = features.roll(1, 0) @ layer.weight.T + bias  # the control: another image's
    assert (off - logits).abs().max() > 0.1 * span


@pytest.mark.parametrize(
    ("name", "last"),
    [("shufflenet_v2_x0_5", "fc"), ("mobilenet_v3_small", "classifier.3"), ("mnasnet0_5", "classifier.1"),
     ("resnet18", "fc"), ("regnet_y_400mf", "fc")],
)  # fmt: skip
def test_features_times_the_last_layer_are_the_logits(float64, tmp_path, name, last):
    network = lively(models.get_model(name))
    backbone = open_backbone(name, saved(tmp_path / "weights.pth", network.state_dict()), SIZE)
    check_parts(backbone, network, last, 32, 1e-9)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "last"),
    [("resnext50_32x4d", "fc"), ("wide_resnet50_2", "fc"), ("densenet121", "classifier"),
     ("efficientnet_b0", "classifier.1"), ("convnext_tiny", "classifier.2"), ("vit_b_16", "heads.head"), ("swin_t", "head"),
     ("swin_v2_t", "head"), ("maxvit_t", "classifier.5"), ("vgg11_bn", "classifier.6"), ("alexnet", "classifier.6"),
     ("mobilenet_v2", "classifier.1"), ("efficientnet_v2_s", "classifier.1"), ("regnet_x_400mf", "fc")],
)  # fmt: skip
def test_so_are_those_of_all_families_at_their_own_size(tmp_path, name, last):
    crop = models.get_model_weights(name).IMAGENET1K_V1.transforms().crop_size[0]
    network = lively(models.get_model(name), crop)
    backbone = open_backbone(name, saved(tmp_path / "weights.pth", network.state_dict()), ImageFlags())
    assert backbone.prepared.image_size == crop
    check_parts(backbone, network, last, crop, 1e-2)


def test_a_backbone_is_frozen_and_in_eval_mode(tmp_path):
    network = models.get_model(SMALL)
    backbone = open_backbone(SMALL, saved(tmp_path / "weights.pth", network.state_dict()), SIZE)
    assert not any(parameter.requires_grad for parameter in backbone.model.parameters())
    assert not any(module.training for module in backbone.model.modules())


# Files of weights


@pytest.fixture(scope="module")
def small():
    return lively(models.get_model(SMALL, num_classes=7))


def headless(weights):
    return {name: tensor for name, tensor in weights.items() if not name.startswith("fc.")}


def prefixed(prefix, weights):
    return {f"{prefix}{name}": tensor for name, tensor in weights.items()}


FORMS = {
    "another class count": dict,
    "no last layer": headless,
    "module.": lambda weights: prefixed("module.", weights),
    "module. and no last layer": lambda weights: prefixed("module.", headless(weights)),
    "model.module. in a dict": lambda weights: {"state_dict": prefixed("model.module.", weights), "epoch": 3},
    "cRT's": lambda weights: {
        "state_dict_best": {"feat_model": prefixed("module.", headless(weights)),
                            "classifier": {f"module.fc.{part}": weights[f"fc.{part}"] for part in ("weight", "bias")}}},
    "ours": lambda weights: {"state_dict": {"feature": headless(weights), "classifier": {
        f"fc.{part}": weights[f"fc.{part}"] for part in ("weight", "bias")}}},
    "half": lambda weights: {k: v.bfloat16() if v.is_floating_point() else v for k, v in weights.items()},
}  # fmt: skip


@pytest.mark.parametrize("form", FORMS)
def test_every_form_of_a_file_gives_the_same_features(small, tmp_path, form):
    backbone = open_backbone(SMALL, saved(tmp_path / "weights.pth", FORMS[form](small.state_dict())), SIZE)
    for name, tensor in backbone.model.state_dict().items():
        theirs = small.state_dict()[name]
        assert torch.equal(tensor, theirs.bfloat16().to(tensor.dtype) if form == "half" else theirs), name


def test_a_file_of_the_kind_safetensors(small, tmp_path):
    path = tmp_path / "model.safetensors"
    save_file(prefixed("module.", small.state_dict()), path)
    check_parts(open_backbone(SMALL, str(path), SIZE), small, "fc", 32, 1e-3)
    path.write_bytes(path.read_bytes()[:-9])
    assert wrong(open_backbone, SMALL, str(path), SIZE).startswith(f"{path} cannot be read as .safetensors (")


def change(name, to):
    def changed(weights):
        return {k: to(v) if k == name else v for k, v in weights.items() if k != name or to is not None}

    return changed


def spoilt(tensor):
    return torch.full_like(tensor, float("nan"))


@pytest.mark.parametrize(
    ("name", "to", "told"),
    [
        ("conv1.0.weight", lambda t: t[:5], "conv1.0.weight is (5, 3, 3, 3), the one here is (24, 3, 3, 3)"),
        ("conv5.0.weight", lambda t: t.squeeze(), "conv5.0.weight is (1024, 192), the one here is (1024, 192, 1, 1)"),
        ("stage2.0.branch2.1.bias", None, "does not fit: missing stage2.0.branch2.1.bias, unexpected none"),
        ("conv1.1.weight", spoilt, "conv1.1.weight holds numbers that are not finite"),
        ("conv1.1.running_var", lambda t: -t, "conv1.1.running_var holds variances below 0"),
    ],
)
def test_what_does_not_fit_is_named(small, tmp_path, name, to, told):
    path = saved(tmp_path / "weights.pth", change(name, to)(small.state_dict()))
    said = wrong(open_backbone, SMALL, path, SIZE)
    assert said.startswith(f"{path}, the backbone, ")
    assert said.endswith(told)


def test_the_file_of_another_network_is_named(small, tmp_path):
    path = saved(tmp_path / "weights.pth", small.state_dict())
    assert "holds the weights of another network than" in wrong(open_backbone, CRT, path, SIZE)
    assert "holds no weights" in wrong(open_backbone, SMALL, saved(tmp_path / "list.pth", [1, 2]), SIZE)


def older_densenet(name):
    return re.sub(r"(denselayer\d+\.(?:norm|conv))(\d)", r"\1.\2", name)


def test_densenets_file_of_torchvision_has_older_names(tmp_path):
    network = lively(models.get_model("densenet121"))
    weights = {name: tensor for name, tensor in network.state_dict().items() if not name.endswith("num_batches_tracked")}
    older = {older_densenet(name): tensor for name, tensor in weights.items()}
    assert {"features.denseblock1.denselayer1.norm.1.weight"} <= older.keys() - network.state_dict().keys()
    backbone = open_backbone("densenet121", saved(tmp_path / "weights.pth", older), SIZE)
    check_parts(backbone, network, "classifier", 32, 1e-2)
    twin = models.get_model("densenet121")  # the reference: torchvision's own reader
    load_as_torchvision(twin, SimpleNamespace(get_state_dict=lambda **_: {**older}), progress=False)
    assert all(torch.equal(tensor, twin.state_dict()[name]) for name, tensor in weights.items())


def test_the_files_of_vision_transformers_have_older_names():
    network = models.VisionTransformer(16, 8, 2, 2, 8, 16)
    rows = {".mlp.0.": ".mlp.linear_1.", ".mlp.3.": ".mlp.linear_2."}
    older = {re.sub(r"\.mlp\.[03]\.", lambda found: rows[found[0]], k): v for k, v in network.state_dict().items()}
    twin = models.VisionTransformer(16, 8, 2, 2, 8, 16)
    twin.load_state_dict(older)  # the reference: without a version, torchvision reads older names
    assert older.keys() != network.state_dict().keys()
    present = {present_name(name): tensor for name, tensor in older.items()}
    assert present.keys() == network.state_dict().keys()
    assert all(torch.equal(tensor, present[name]) for name, tensor in twin.state_dict().items())


def test_present_names_stay_as_they_are():
    for name in ("densenet201", "vit_b_16", "resnet50", "swin_t", "convnext_tiny", "maxvit_t", "efficientnet_b0"):
        with torch.device("meta"):
            names = models.get_model(name).state_dict()
        assert [present_name(word) for word in names] == list(names)


# Checkpoints


def checkpoint(path, made, head, name=None, **more):
    """A checkpoint as train_own.py writes it."""
    facts = {**made.facts(), **({} if name is None else {"name": name})}
    classes = [f"class {k}" for k in range(head.out_features)]
    save_checkpoint({"state_dict": made.whole(head), "class_names": classes, "backbone": facts, **more}, path)
    return path


def photo(path):
    pixels = np.random.default_rng(0).integers(0, 256, (5, 6, 3), dtype=np.uint8)
    Image.fromarray(pixels).resize((60, 50), Image.Resampling.BICUBIC).save(path)
    return path


def slow_probabilities(network, prepared, path):
    """The middle of an image in float64, through the network as it was made."""
    with Image.open(path) as image:
        short, (width, height) = prepared.resize_size, image.size
        sides = (short * width // min(image.size), short * height // min(image.size))
        left, top = (round((side - prepared.image_size) / 2) for side in sides)
        box = (left, top, left + prepared.image_size, top + prepared.image_size)
        middle = image.resize(sides, Image.Resampling[prepared.interpolation.upper()]).crop(box)
    pixels = (np.asarray(middle, dtype=np.float64) / 255 - np.array(prepared.mean)) / np.array(prepared.std)
    with torch.no_grad():
        return network.double()(torch.from_numpy(pixels.transpose(2, 0, 1)).unsqueeze(0))[0].softmax(0)


NAMES = {
    "plain": "network()",
    "last": "network(last='out')",
    "an inner layer fc": "network(inner='fc', last='out')",
    "all names begin with fc.": "network(first='fc', last='out')",
    "in model": "wrapped(name='model')",
    "in module": "wrapped(name='module')",
    "in model, the last layer not fc": "wrapped(name='model', last='out', inner='fc')",
    "model and the last layer": "network(first='model', last='out')",
    "module and the last layer": "network(first='module', last='model')",
    "fc in model": "wrapped(name='model', first='fc', last='module')",
    "model in model": "wrapped(name='model', first='model', last='fc')",
    "of torch.compile": "wrapped(name='_orig_mod')",
}


@pytest.mark.parametrize("case", NAMES)
def test_what_is_saved_is_the_same_network_again(tmp_path, case):
    name = f"{OWN}:{NAMES[case]}"
    network = lively(eval(NAMES[case], vars(own_backbones)))  # the calls above
    weights = saved(tmp_path / "weights.pth", network.state_dict())
    backbone = open_backbone(name, weights, ImageFlags(24, 29, (0.4, 0.5, 0.6), (0.2, 0.3, 0.4)))
    head = make_head(3, 1, backbone.features)
    path = checkpoint(tmp_path / "own.pth.tar", backbone, head)
    names = [*network.state_dict()]
    assert sorted(torch.load(path, weights_only=True)["state_dict"]) == sorted(names)

    read = classifier(path, name, None)
    [found] = read.probabilities([read.read(photo(tmp_path / "photo.png"))], torch.zeros(3))
    *outer, last = backbone.head.split(".")
    setattr(network.get_submodule(".".join(outer)), last, head)
    expected = slow_probabilities(network, backbone.prepared, tmp_path / "photo.png")
    torch.testing.assert_close(torch.tensor(found, dtype=torch.float64), expected, rtol=0, atol=1e-5)
    assert expected.std() > 1e-3  # the control: they tell classes apart

    again = open_backbone(name, str(path), ImageFlags())  # as --pretrained, for another training
    assert again.prepared == backbone.prepared
    for key, tensor in again.model.state_dict().items():
        assert torch.equal(tensor, backbone.model.state_dict()[key]), key


def test_a_library_s_network_comes_back_with_its_preparation(small, tmp_path):
    weights = saved(tmp_path / "weights.pth", small.state_dict())
    backbone = open_backbone(SMALL, weights, ImageFlags(32, 40, (0.4, 0.5, 0.6), (0.2, 0.3, 0.4)))
    path = checkpoint(tmp_path / "own.pth.tar", backbone, make_head(4, 1, backbone.features))
    for images_, prepared in (
        (ImageFlags(), Preparation(32, 40, (0.4, 0.5, 0.6), (0.2, 0.3, 0.4))),
        (ImageFlags(64), Preparation(64, 80, (0.4, 0.5, 0.6), (0.2, 0.3, 0.4))),
        (ImageFlags(mean=(0.0, 0.0, 0.0)), Preparation(32, 40, (0, 0, 0), (0.2, 0.3, 0.4))),
    ):
        again = open_backbone(SMALL, str(path), images_)
        assert again.prepared == prepared
        assert all(torch.equal(t, backbone.model.state_dict()[name]) for name, t in again.model.state_dict().items())
    read = classifier(path, None, None)
    [found] = read.probabilities([read.read(photo(tmp_path / "photo.png"))], torch.zeros(4))
    small.fc, before = make_head(4, 1, backbone.features), small.fc
    expected = slow_probabilities(small, backbone.prepared, tmp_path / "photo.png")
    small.float().fc = before
    torch.testing.assert_close(torch.tensor(found, dtype=torch.float64), expected, rtol=0, atol=1e-5)


def test_a_checkpoint_for_another_network_has_no_say_in_the_preparation(tmp_path):
    backbone = open_backbone(f"{OWN}:network", None, ImageFlags(24))
    path = checkpoint(tmp_path / "own.pth.tar", backbone, make_head(3, 1, 16))
    assert open_backbone(f"{OWN}:Named", str(path), ImageFlags()).prepared == Preparation()
    assert open_backbone(f"{OWN}:network", str(path), ImageFlags()).prepared.image_size == 24
    assert "holds the weights of another network than" in wrong(open_backbone, SMALL, str(path), SIZE)


@pytest.mark.slow
def test_a_vision_transformer_for_other_images_comes_back(tmp_path):
    network = lively(models.get_model("vit_b_32", image_size=64), 64)
    weights = saved(tmp_path / "weights.pth", network.state_dict())
    assert "encoder.pos_embedding is (1, 5, 768), the one here" in wrong(open_backbone, "vit_b_32", weights, ImageFlags())
    backbone = open_backbone("vit_b_32", weights, ImageFlags(64))
    check_parts(backbone, network, "heads.head", 64, 1e-2)
    again = restored_backbone(backbone.facts(), FILE)
    again.part(backbone.whole(network.heads.head), FILE)
    check_parts(again, network, "heads.head", 64, 1e-2)


@pytest.fixture
def own(tmp_path):
    """A checkpoint of a small network of one's own, its backbone and its head."""
    backbone = open_backbone(f"{OWN}:network", None, ImageFlags(24))
    return tmp_path / "own.pth.tar", backbone, make_head(3, 1, 16)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"name": None}, "cannot be used: its backbone.name is None"),
        ({"name": 7}, "cannot be used: its backbone.name is 7"),
        ({"image_size": "24"}, "cannot be used: its backbone.image_size is 24"),
        ({"image_size": 24.5}, "cannot be used: its backbone.image_size is 24.5"),
        ({"image_size": 0}, "cannot be used: its backbone.image_size is 0"),
        ({"image_size": 7}, "its backbone cannot be made: --image_size 7 makes no sense"),
        ({"resize_size": 10**7}, "cannot be used: its backbone.resize_size is 10000000"),
        ({"resize_size": 23}, "its backbone cannot be made: --resize_size 23 makes no sense"),
        ({"mean": [0.5, 0.5]}, "cannot be used: its backbone.mean is"),
        ({"mean": 0.5}, "cannot be used: its backbone.mean is 0.5"),
        ({"mean": [0.5, 0.5, float("nan")]}, "cannot be used: its backbone.mean"),
        ({"mean": ["a", 0.5, 0.5]}, "cannot be used: its backbone.mean[0] is a"),
        ({"mean": [1e30, 0.5, 0.5]}, "its backbone cannot be made: --mean 1e+30,0.5,0.5 makes no sense"),
        ({"std": [0.5, 0.5, 0]}, "cannot be used: its backbone.std[2] is 0"),
        ({"std": [0.5, 0.5, 1e-320]}, "its backbone cannot be made: --std 0.5,0.5,"),
        ({"interpolation": "nearest"}, "cannot be used: invalid enum value 'nearest' in its backbone.interpolation"),
        ({"upright": 1}, "cannot be used: its backbone.upright is 1"),
        ({"more": 1}, "cannot be used: "),
        ({"name": "resnet_of_mine"}, "its backbone cannot be made: --backbone resnet_of_mine is no network of torchvision"),
        ({"name": "squeezenet1_1"}, "its backbone cannot be made: --backbone squeezenet1_1 "),
        ({"name": "timm:x"}, "its backbone cannot be made: --backbone timm:x "),
    ],
)
def test_damaged_facts_end_in_one_line(own, change, told):
    path, backbone, head = own
    facts = {**backbone.facts(), **change}
    checkpoint(path, backbone, head, backbone=facts)
    name = facts["name"]
    said = wrong(classifier, path, name if isinstance(name, str) and name.startswith(OWN) else None, None)
    assert said.startswith(f"{path}")
    assert told in said


@pytest.mark.parametrize("key", ["name", "image_size", "resize_size", "mean", "std", "interpolation", "upright", "jitter"])
def test_missing_facts_end_in_one_line(own, key):
    path, backbone, head = own
    facts = backbone.facts()
    del facts[key]
    checkpoint(path, backbone, head, backbone=facts)
    said = wrong(classifier, path, f"{OWN}:network", None)
    assert said.startswith(f"{path} cannot be used: ")
    assert key in said


@pytest.mark.parametrize("facts", [[], "resnet50", 3, {}, {"name": "resnet50"}, torch.zeros(3)])
def test_facts_that_are_none_end_in_one_line(own, facts):
    path, backbone, head = own
    checkpoint(path, backbone, head, backbone=facts)
    assert wrong(classifier, path, None, None).startswith(f"{path} ")


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda weights: weights.pop("fc.weight"), "has no last layer of 16 inputs named fc: it does not fit"),
        (lambda weights: weights.update({"fc.weight": torch.zeros(3, 9)}), "has no last layer of 16 inputs named fc"),
        (lambda weights: weights.update({"fc.weight": torch.zeros(16)}), "has no last layer of 16 inputs named fc"),
        (lambda weights: weights.pop("fc.bias"), "has no bias"),
        (lambda weights: weights.update({"fc.bias": torch.zeros(4)}), "bias is (4,), the one here is (3,)"),
        (lambda weights: weights.pop("body.0.weight"), "the backbone, does not fit: missing body.0.weight"),
        (lambda weights: weights.update({"fc.weight": torch.full((3, 16), float("inf"))}), "that are not finite"),
        (lambda weights: weights.update({"fc.weight": torch.zeros(4, 16), "fc.bias": torch.zeros(4)}), "has 3 entries"),
    ],
)
def test_weights_that_do_not_fit_what_a_checkpoint_says_end_in_one_line(own, change, told):
    path, backbone, head = own
    weights = backbone.whole(head)
    change(weights)
    checkpoint(path, backbone, head, state_dict=weights)
    assert told in wrong(classifier, path, f"{OWN}:network", None)


def test_a_checkpoint_does_not_choose_what_is_run(own):
    path, backbone, head = own
    call = f"{OWN}:recorded('some words')"
    checkpoint(path, backbone, head, name=call)
    own_backbones.RAN.clear()
    quoted = f"""'{OWN}:recorded('"'"'some words'"'"')'"""
    told = f"{path} holds the network {call}{{}}: give --arch {quoted} if that is code of yours"
    assert wrong(classifier, path, None, None) == told.format("")
    assert wrong(classifier, path, f"{OWN}:network", None) == told.format(f", not {OWN}:network")
    assert own_backbones.RAN == []
    assert classifier(path, call, None).names == ["class 0", "class 1", "class 2"]
    assert own_backbones.RAN == [(("some words",), {})]


def test_flags_that_a_checkpoint_answers_itself_are_refused(small, tmp_path, own):
    path, backbone, head = own
    checkpoint(path, backbone, head)
    assert wrong(classifier, path, f"{OWN}:network", "ImageNet_LT").endswith("leave --dataset out")
    library = open_backbone(SMALL, saved(tmp_path / "weights.pth", small.state_dict()), SIZE)
    checkpoint(path, library, make_head(3, 1, library.features))
    assert wrong(classifier, path, SMALL, None).endswith("leave --arch out")
    checkpoint(path, library, make_head(3, 1, library.features), resume={})
    assert "an interrupted run goes on from" in wrong(classifier, path, None, None)
    checkpoint(path, library, make_head(3, 1, library.features), backbone=None)
    assert wrong(classifier, path, SMALL, None).endswith("leave --arch out")  # of features, there is no network
    found = classifier(path, None, None)
    assert found.model is found.head


def test_reading_leaves_the_global_random_state_as_it_was(own):
    path, backbone, head = own
    checkpoint(path, backbone, head)
    before = torch.get_rng_state()
    classifier(path, f"{OWN}:network", None)
    assert torch.equal(torch.get_rng_state(), before)


def test_facts_are_plain_and_complete(own):
    backbone = own[1]
    facts = backbone.facts()
    assert facts == {
        "name": f"{OWN}:network", "image_size": 24, "resize_size": 27, "mean": [0.485, 0.456, 0.406],
        "std": [0.229, 0.224, 0.225], "interpolation": "bilinear", "upright": True, "jitter": True,
    }  # fmt: skip
    again = restored_backbone(facts, FILE)
    assert isinstance(again, Backbone)
    assert again.facts() == facts
