"""Backbones: their features are those of timm, files of every form fit, and heads find them again."""

import hashlib
import io
import random
from email.message import Message
from itertools import product
from urllib.error import URLError

import huggingface_hub.constants
import numpy as np
import pytest
import timm
import torch
from PIL import Image
from safetensors.torch import save_file
from support import own_backbones
from support.compare import relative
from support.own import BACKBONE, network, saved, write_photos
from support.refusals import wrong
from torch import nn
from torchvision import models

from harness.checkpoint import save_checkpoint
from harness.weights import network_weights
from heads.backbone import make_head, trained_part
from heads.networks import open_backbone
from heads.preparation import IMAGENET, Preparation, transforms
from heads.registries import is_torchvision, present_name
from inference.classifiers import classifier
from resnet import own_function

OWN = "support.own_backbones"
SMALL, OF_TORCHVISION = "test_resnet", "shufflenet_v2_x0_5"
SIZE = {"image_size": 32}  # quick


@pytest.fixture(autouse=True)
def hub(monkeypatch, tmp_path):
    """The folder of what torch.hub downloads; nothing is fetched."""
    folder = tmp_path / "hub"
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(folder))
    monkeypatch.setattr(torch.hub, "urlopen", offline)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    (folder / "checkpoints").mkdir(parents=True)
    return folder / "checkpoints"


def offline(request):
    raise URLError(OSError(-2, "Name or service not known"))


def lively(model, size=32):
    """Let what goes through a network with weights at random not vanish, and no weight be 0; return it in eval mode."""
    generator = torch.Generator().manual_seed(0)
    for name, parameter in model.named_parameters():
        if parameter.dim() == 1 or not parameter.any():
            scale = parameter.dim() == 1 and name.endswith("weight")
            parameter.data = 0.1 * torch.randn(parameter.shape, generator=generator) + scale
    normed = [layer for layer in model.modules() if isinstance(layer, nn.BatchNorm2d)]
    for layer in normed:
        layer.momentum = 1.0
    if normed:
        with torch.no_grad():
            model.train()(images(size, 4))
    return model.eval()


def images(size, number=3):
    """Images with large areas, as photographs have: networks take those of noise alone for much the same."""
    coarse = torch.randn(number, 3, 4, 4, generator=torch.Generator().manual_seed(1))
    return 2 * nn.functional.interpolate(coarse, (size, size), mode="bilinear")


def saved_as(path, content):
    save_file(content, path) if path.suffix == ".safetensors" else torch.save(content, path)
    return str(path)


def same_weights(backbone, network):
    theirs = network.state_dict()
    return all(torch.equal(tensor, theirs[name]) for name, tensor in backbone.model.state_dict().items())


def built(name):
    """The network that a name is of, by its library or function."""
    if ":" in name.removeprefix("timm:"):
        return own_function(name)()
    return models.get_model(name) if is_torchvision(name) else timm.create_model(name.removeprefix("timm:"))


FAMILIES = [
    ("resnext50_32x4d", "fc"), ("densenet121", "classifier"), ("efficientnet_b0", "classifier.1"),
    ("convnext_tiny", "classifier.2"), ("vit_b_16", "heads.head"), ("swin_t", "head"), ("maxvit_t", "classifier.5"),
    ("vgg11_bn", "classifier.6"), ("mobilenet_v2", "classifier.1"), ("regnet_x_400mf", "fc"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("name", "last", "size"),
    [(OF_TORCHVISION, "fc", 32), ("mobilenet_v3_small", "classifier.3", 32), ("resnet18", "fc", 32),
     ("timm:resnet18", "fc", 32), ("mobilenetv3_small_050", "classifier", 32),
     (f"{OWN}:network", "fc", 32), (f"{OWN}:Named.small", "out", 32), (f"{OWN}:ByName", "fc", 32),
     (f"{OWN}:in_module", "module.fc", 32), ("torchvision.models:mobilenet_v3_small", "classifier.3", 32),
     *(pytest.param(*family, None, marks=pytest.mark.slow) for family in FAMILIES)],
)  # fmt: skip
def test_features_times_the_last_layer_are_the_logits(tmp_path, name, last, size):
    crop = size or models.get_model_weights(name).IMAGENET1K_V1.transforms().crop_size[0]
    network = lively(built(name), crop)
    said = {"image_size": size} if size else {}
    backbone = open_backbone(name, saved_as(tmp_path / "weights.pth", network.state_dict()), said)
    layer = network.get_submodule(last)
    assert (backbone.head, backbone.features, backbone.prepared.image_size) == (last, layer.in_features, crop)
    assert not any(parameter.requires_grad for parameter in backbone.model.parameters())
    assert not any(module.training for module in backbone.model.modules())
    with torch.no_grad():  # what differs between the images, which a bias does not explain
        found = backbone.model(images(crop)) @ layer.weight.T
        expected = network(images(crop))
    assert relative(found - found.mean(0), expected - expected.mean(0)) < 1e-2
    assert relative((found - found.mean(0)).roll(1, 0), expected - expected.mean(0)) > 0.1  # the control: another image's


def test_a_bare_name_is_torchvisions_first():
    for name, mode in (("resnet18", "bilinear"), ("timm:resnet18", "bicubic")):
        assert open_backbone(name, None, SIZE).prepared.interpolation == mode


def test_what_is_downloaded_must_have_the_right_hash_and_a_damaged_copy_is_named(monkeypatch, hub):
    network = models.get_model(OF_TORCHVISION)
    buffer = io.BytesIO()
    torch.save(network.state_dict(), buffer)
    content = buffer.getvalue()
    url = f"https://example.org/small-{hashlib.sha256(content).hexdigest()[:8]}.pth"
    monkeypatch.setattr(models.get_model_weights(OF_TORCHVISION).DEFAULT.value, "url", url)

    def opened(given):
        answer = io.BytesIO(given)
        answer.info = Message
        monkeypatch.setattr(torch.hub, "urlopen", lambda _: answer)
        return open_backbone(OF_TORCHVISION, "DEFAULT", SIZE)

    said = wrong(opened, content[:-1] + b"x")
    assert "invalid hash value" in said
    assert said.endswith(f"fetch {url} elsewhere and give the file by --pretrained")
    assert same_weights(opened(content), network)
    assert same_weights(opened(b"it is not fetched again"), network)
    [file] = hub.iterdir()
    file.write_bytes(content[:-9])
    assert wrong(opened, b"").startswith(f"{file} is damaged")


def test_files_of_torchvision_may_have_older_names():
    older = ["denselayer12.norm.1.weight", "denselayer12.conv.2.weight", "encoder_layer_3.mlp.linear_1.weight",
             "encoder_layer_3.mlp.linear_2.bias"]  # fmt: skip
    now = ["denselayer12.norm1.weight", "denselayer12.conv2.weight", "encoder_layer_3.mlp.0.weight",
           "encoder_layer_3.mlp.3.bias"]  # fmt: skip
    assert [*map(present_name, older)] == [*map(present_name, now)] == now


# Networks of timm


ENCODERS = [  # name, size of images, classes of the file: 0 is a network without a classifier
    ("mobilenetv3_small_050", 64, 1000), ("vit_small_patch14_dinov2", 56, 0),
    *(pytest.param(*words, marks=pytest.mark.slow) for words in (
        ("vit_base_patch16_clip_224", 64, 0), ("vit_base_patch16_siglip_224", 64, 0), ("vit_small_patch16_dinov3", 64, 0),
        ("convnext_tiny.dinov3_lvd1689m", 64, 0), ("convnextv2_tiny", 64, 1000), ("timm:resnet50", 64, 1000),
        ("swin_tiny_patch4_window7_224", 224, 1000), ("deit_tiny_distilled_patch16_224", 64, 1000),
    )),
]  # fmt: skip


@pytest.mark.parametrize(("name", "size", "classes"), ENCODERS)
def test_features_of_photographs_are_those_of_timm(tmp_path, name, size, classes):
    """And the images are those of timm's own transform."""
    torch.manual_seed(0)
    network = timm.create_model(name.removeprefix("timm:"), num_classes=classes).eval()
    fixed = network.pretrained_cfg["fixed_input_size"]
    network = lively(network) if fixed else network  # as transformers begin, they hardly look at images
    weights = saved_as(tmp_path / ("w.pth" if classes else "w.safetensors"), network.state_dict())
    backbone = open_backbone(name, weights, {"image_size": size} if size else {})
    if fixed:
        network.set_input_size(img_size=(size, size))
    config = {**timm.data.resolve_model_data_config(network), "input_size": (3, size, size)}
    write_photos(tmp_path)
    photos = [Image.open(file).convert("RGB") for file in sorted(tmp_path.glob("photos/*/1 ö.png"))]
    ours, theirs = (torch.stack([transform(photo) for photo in photos]) for transform in (
        transforms(backbone.prepared, train=False), timm.data.create_transform(**config, is_training=False)
    ))  # fmt: skip
    with torch.no_grad():
        found = backbone.model(ours)
        expected = network.forward_head(network.forward_features(theirs), pre_logits=True)
    assert relative(found, expected) < 1e-2
    assert relative(found.roll(1, 0), expected) > 0.1  # the control: another image's


def test_without_a_network_one_line_says_what_of_timm_to_fetch_and_a_damaged_copy_is_named(monkeypatch, tmp_path):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    said = wrong(open_backbone, "timm:resnet18", "DEFAULT", SIZE)
    assert said.startswith("the weights of resnet18 could not be downloaded (")
    assert said.endswith(": fetch timm/resnet18.a1_in1k elsewhere and give the file by --pretrained")
    file = tmp_path / "models--timm--resnet18.a1_in1k" / "snapshots" / "x" / "model.safetensors"
    file.parent.mkdir(parents=True)
    file.write_bytes(b"cut")
    assert wrong(open_backbone, "timm:resnet18", "DEFAULT", SIZE).startswith(f"{file} cannot be read as .safetensors (")


# Files of weights


@pytest.fixture(scope="module")
def small():
    return lively(timm.create_model(SMALL, num_classes=7))


# Networks of one's own


def test_a_network_may_say_how_its_images_are_prepared():
    assert open_backbone(f"{OWN}:network", None, SIZE).prepared == Preparation(32, 36)
    assert open_backbone(f"{OWN}:configured", None, {}).prepared == Preparation(40, 40, IMAGENET[0], (1, 1, 1))


@pytest.mark.parametrize(
    ("name", "pretrained", "told"),
    [
        ("no_such_package:f", None, "--backbone no_such_package:f cannot be made (ValueError: 'no_such_package:f'"),
        ("badly_written:f", None, "--backbone badly_written:f cannot be made (SyntaxError: "),
        (f"{OWN}:no_network", None, "cannot be made (TypeError: it returned a list, not an nn.Module): see --backbone"),
        (f"{OWN}:failing", None, "cannot be made (KeyError: 'no such size'): see --backbone"),
        (f"{OWN}:with_border", None, "crop_mode 'border' of 224 x 224, bicubic, is not known here"),
        (f"{OWN}:pair", None, "must return features (N, A), or logits from a last nn.Linear"),
        (f"{OWN}:not_finite", None, "gives numbers that are not finite: take other weights"),
        (f"{OWN}:OneSize", None, "fails on images of 224 x 224 (ValueError: images must be 24 not 224): see --image_size"),
        (f"{OWN}:network", "DEFAULT", "there is no file DEFAULT: give another by --pretrained"),
        ("ResNet50", "DEFAULT", "--backbone ResNet50 cannot be made (ValueError: timm.list_models() lists the names; a "),
        ("googlenet", "DEFAULT", "--backbone googlenet cannot be used: its weights change its input"),
        ("no/resnet", "DEFAULT", "--backbone no/resnet cannot be made ("),
        (SMALL, {"conv1.0.weight": torch.ones(5)}, "w.pth does not fit --backbone test_resnet (RuntimeError: "),
        (SMALL, {"more": torch.ones(3)}, "w.pth does not fit --backbone test_resnet (RuntimeError: "),
        ("mobilenetv3_small_050", {}, "w.pth does not fit --backbone mobilenetv3_small_050 (RuntimeError: "),
        (f"{OWN}:network", {}, "w.pth, the backbone, does not fit: missing "),
    ],
)
def test_what_does_not_serve_is_refused_with_the_reason(name, pretrained, told, small, tmp_path, monkeypatch):
    """A dictionary is what a file holds besides the weights of a small network."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "badly_written.py").write_text("def f(:\n")
    if isinstance(pretrained, dict):
        pretrained = saved_as(tmp_path / "w.pth", {**small.state_dict(), **pretrained})
    assert told in wrong(open_backbone, name, pretrained, {})


def global_states():
    numpy = str(np.random.get_state())  # noqa: NPY002
    return torch.get_rng_state().tolist(), numpy, random.getstate(), torch.get_default_dtype()


def test_what_is_global_stays_as_it_was_and_weights_at_random_are_the_same():
    before = global_states()
    first = open_backbone(f"{OWN}:drawing", None, SIZE)
    wrong(open_backbone, f"{OWN}:failing", None, SIZE)
    assert global_states() == before
    torch.rand(5)
    assert same_weights(first, open_backbone(f"{OWN}:drawing", None, SIZE).model)
    own_backbones.drawing()  # the control
    after = global_states()
    torch.set_default_dtype(torch.float32)
    assert all(now != then for now, then in zip(after, before, strict=True))


# Checkpoints


def checkpoint(path, made, head, whole=True, **more):
    """A checkpoint as train_own.py writes it."""
    weights = made.whole(head) if whole else network_weights(trained_part(head))
    names = [f"class {k}" for k in range(head.out_features)]
    save_checkpoint({"state_dict": weights, "class_names": names, "backbone": made.facts(whole), **more}, path)
    return path


@torch.no_grad()
def logits_by(read, size=24):
    """What a checkpoint's network says of prepared images."""
    return read.model(images(size))


WITHOUT_LAST = ["stem", "scaled_in_place", "TwoNames", "Asking"]  # that can be taken off: the answers are the features
SAVED = [*product(["inner", "in_module", "in_model", "compiled", *WITHOUT_LAST], [True, False])]


@pytest.mark.parametrize(("case", "whole"), SAVED)
def test_what_is_saved_is_the_same_network_again(tmp_path, case, whole):
    name = f"{OWN}:{case}"
    network = lively(getattr(own_backbones, case)())
    weights = saved_as(tmp_path / "weights.pth", network.state_dict())
    said = {"image_size": 24, "resize_size": 29, "mean": (0.4, 0.5, 0.6), "std": (0.2, 0.3, 0.4)}
    backbone = open_backbone(name, weights, said)
    head = make_head(3, 1, backbone.features)
    path = checkpoint(tmp_path / "own.pth.tar", backbone, head, whole)
    read = classifier(path, name, None)
    if case in WITHOUT_LAST:
        network = nn.Sequential(network, head)
    else:
        assert not whole or saved(path)["state_dict"].keys() == network.state_dict().keys()
        network.set_submodule(backbone.head, head)
    with torch.no_grad():
        torch.testing.assert_close(logits_by(read), network(images(24)), rtol=0, atol=1e-5)
    assert read.prepared == backbone.prepared
    assert logits_by(read).std(dim=0).min() > 1e-3  # the control: they tell images apart
    if whole:  # as --pretrained, for another training
        again = open_backbone(name, str(path), {})
        assert again.prepared == backbone.prepared
        assert same_weights(again, backbone.model)


def test_a_head_finds_its_weights_or_says_what_to_give(small, tmp_path, monkeypatch):
    a, b, moved = tmp_path / "a", tmp_path / "b", tmp_path / "moved.pth"
    for place in (b, a):
        place.mkdir()
        monkeypatch.chdir(place)
    saved_as(a / "weights.pth", small.state_dict())
    backbone = open_backbone(SMALL, "weights.pth", SIZE)
    path = checkpoint(tmp_path / "own.pth.tar", backbone, make_head(4, 1, backbone.features), whole=False)
    expected = logits_by(classifier(path, None, None), 32)

    def found(pretrained=None):
        return torch.equal(logits_by(classifier(path, None, None, pretrained), 32), expected)

    monkeypatch.chdir(b)
    assert found()  # where training found them
    (a / "weights.pth").rename(b / "weights.pth")
    assert found()  # as they were given
    (b / "weights.pth").rename(moved)
    told = f"{path}: its backbone cannot be created: there is no file {a}/weights.pth: give another by --pretrained"
    assert wrong(found).startswith(told)
    assert found("../moved.pth")
    other = {**small.state_dict(), "bn1.running_mean": small.state_dict()["bn1.running_mean"] + 1e-6}
    saved_as(a / "weights.pth", other)
    told = f"{path} was trained on other weights than those of {a}/weights.pth: give them by --pretrained"
    assert wrong(found) == told


def test_embeddings_of_positions_are_not_in_the_digest():
    backbone = open_backbone("vit_tiny_patch16_224", None, {"image_size": 64})
    before = backbone.digest()
    for name, same in (("pos_embed", True), ("norm.weight", False)):
        backbone.model.get_parameter(name).data += 1
        assert (backbone.digest() == before) == same


@pytest.fixture
def own(tmp_path):
    """A checkpoint of a small network of one's own, its backbone and its head."""
    return tmp_path / "own.pth.tar", open_backbone(f"{OWN}:recorded", None, {"image_size": 24}), make_head(3, 1, 16)


CREATED = "its backbone cannot be created: "


@pytest.mark.parametrize(
    ("facts", "weights", "told"),
    [
        ({"image_size": 7}, {}, f"{CREATED}--image_size 7 is not valid"),
        ({"digest": None}, {}, "was trained on other weights than those of support.own_backbones:recorded"),
        ({"file": "/dev/zero", "pretrained": "no.pth"}, {}, f"{CREATED}there is no file /dev/zero"),
        ({"name": "resnet_of_mine"}, {}, f"{CREATED}--backbone resnet_of_mine "),
        ({}, {"state_dict": {"fc.weight": torch.zeros(3, 9)}}, "has no last layer of 16 features: it does not fit"),
        ({}, {"state_dict": {"fc.weight": torch.zeros(3, 16)}}, "the head, does not fit: missing bias"),
        ({}, {"class_names": ["a"] * 4}, "has 4 entries"),
    ],
)
def test_facts_and_weights_that_make_no_sense_end_in_one_line(own, facts, weights, told):
    path, backbone, head = own
    checkpoint(path, backbone, head, False, backbone={**backbone.facts(False), **facts}, **weights)
    said = wrong(classifier, path, None if "name" in facts else backbone.name, None)
    assert said.startswith(f"{path}")
    assert told in said


def test_a_checkpoint_does_not_choose_what_is_run(own):
    path, backbone, head = own
    checkpoint(path, backbone, head)
    own_backbones.RAN.clear()
    told = f"{path} holds the network {backbone.name}{{}}: give --arch {backbone.name} if that is code of yours"
    assert wrong(classifier, path, None, None) == told.format("")
    assert wrong(classifier, path, f"{OWN}:network", None) == told.format(f", not {OWN}:network")
    assert own_backbones.RAN == []
    assert classifier(path, backbone.name, None).names == ["class 0", "class 1", "class 2"]
    assert len(own_backbones.RAN) == 1
    # Flags that it answers itself.
    assert wrong(classifier, path, backbone.name, "ImageNet_LT").endswith("leave --dataset out")
    assert wrong(classifier, path, backbone.name, None, "w.pth").endswith("leave --pretrained out")
    checkpoint(path, backbone, head, backbone=None)  # of features, there is no network
    assert wrong(classifier, path, SMALL, None).endswith("leave --arch out")


def test_what_a_run_leaves_is_its_head_or_with_whole_all_weights(run, tmp_path):
    """No file of before is left; predict.py says the same, and of whole networks needs no weights."""
    write_photos(tmp_path)
    torch.save(network(9).state_dict(), tmp_path / "w.pth")
    path, tables = "checkpoint/ours/own/head_last.pth.tar", []
    flags = f"--data_root photos --backbone {BACKBONE} --pretrained w.pth --image_size 32 --no-cuda --workers 0 --way lda"
    for more in ("", "--whole"):
        run(f"train_own.py {flags} {more}")
        if more:
            (tmp_path / "w.pth").unlink()
        run(f"predict.py --checkpoint_path {path} --arch {BACKBONE} photos --out all.csv")
        tables.append((tmp_path / "all.csv").read_text())
        assert (len(saved(tmp_path / path)["state_dict"]) > 2) == bool(more)
    assert tables[0] == tables[1]
    assert not list(tmp_path.rglob("*.previous"))
