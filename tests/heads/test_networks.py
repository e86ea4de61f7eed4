"""Backbones: their features are those of timm, files of every form fit, and heads find them again."""

import csv
import hashlib
import io
import random
import re
from email.message import Message
from types import SimpleNamespace
from urllib.error import URLError

import huggingface_hub.constants
import numpy as np
import pytest
import timm
import torch
from PIL import Image
from safetensors.torch import save_file
from support import own_backbones
from support.own import BACKBONE, network, saved, write_photos
from support.refusals import wrong
from torch import nn
from torchvision import models
from torchvision.models.densenet import _load_state_dict as load_as_torchvision

from harness.checkpoint import save_checkpoint
from heads.backbone import make_head
from heads.networks import open_backbone, present_name
from heads.own_sources import head_weights
from heads.preparation import IMAGENET, ImageFlags, Preparation
from inference.classifiers import classifier
from resnet import own_function

OWN = "support.own_backbones"
SMALL, OF_TORCHVISION = "test_resnet", "shufflenet_v2_x0_5"
SIZE = ImageFlags(image_size=32)  # quick


@pytest.fixture(autouse=True)
def hub(monkeypatch, tmp_path_factory):
    """The folder of what torch.hub downloads; nothing is fetched."""
    folder = tmp_path_factory.mktemp("hub")
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(folder))
    monkeypatch.setattr(torch.hub, "urlopen", offline)
    (folder / "checkpoints").mkdir()
    return folder / "checkpoints"


def offline(request):
    raise URLError(OSError(-2, "Name or service not known"))


def lively(model, size=32, seed=0):
    """Let what goes through a network with weights at random not vanish, and no weight be 0; return it in eval mode."""
    generator = torch.Generator().manual_seed(seed)
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


@torch.no_grad()
def check_parts(backbone, network, last, size, tolerance):
    """Check that features times the last layer's weights are the logits of the network before it was taken apart."""
    features, logits = backbone.model(images(size)), network(images(size))
    layer = network.get_submodule(last)
    assert (backbone.head, backbone.features, *features.shape) == (last, layer.in_features, 3, layer.in_features)
    assert not any(parameter.requires_grad for parameter in backbone.model.parameters())
    assert not any(module.training for module in backbone.model.modules())
    bias = 0 if layer.bias is None else layer.bias
    expected = features @ layer.weight.T + bias
    span = (logits - logits.mean(0)).abs().max()  # what differs between the images, which a bias does not explain
    assert span > 1e-3 * logits.abs().max()
    assert (expected - logits).abs().max() < tolerance * span
    off = features.roll(1, 0) @ layer.weight.T + bias  # the control: another image's
    assert (off - logits).abs().max() > 0.1 * span


# Networks of torchvision


FAMILIES = [
    ("resnext50_32x4d", "fc"), ("wide_resnet50_2", "fc"), ("densenet121", "classifier"),
    ("efficientnet_b0", "classifier.1"), ("convnext_tiny", "classifier.2"), ("vit_b_16", "heads.head"), ("swin_t", "head"),
    ("swin_v2_t", "head"), ("maxvit_t", "classifier.5"), ("vgg11_bn", "classifier.6"), ("alexnet", "classifier.6"),
    ("mobilenet_v2", "classifier.1"), ("efficientnet_v2_s", "classifier.1"), ("regnet_x_400mf", "fc"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("name", "last", "size"),
    [("shufflenet_v2_x0_5", "fc", 32), ("mobilenet_v3_small", "classifier.3", 32), ("mnasnet0_5", "classifier.1", 32),
     ("resnet18", "fc", 32), ("regnet_y_400mf", "fc", 32),
     *(pytest.param(*family, None, marks=pytest.mark.slow) for family in FAMILIES)],
)  # fmt: skip
def test_features_times_the_last_layer_are_the_logits(tmp_path, name, last, size):
    crop = size or models.get_model_weights(name).IMAGENET1K_V1.transforms().crop_size[0]
    network = lively(models.get_model(name), crop)
    backbone = open_backbone(name, saved_as(tmp_path / "weights.pth", network.state_dict()), ImageFlags(size))
    assert backbone.prepared.image_size == crop
    check_parts(backbone, network, last, crop, 1e-2)


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

    said = wrong(opened, bytes([*content[:-1], content[-1] ^ 1]))
    assert "invalid hash value" in said
    assert said.endswith(f"fetch {url} elsewhere and give the file by --pretrained")
    assert same_weights(opened(content), network)
    assert same_weights(opened(b"it is not fetched again"), network)
    [file] = hub.iterdir()
    for damaged in (b"", b"no archive", content[:-9], content[:500] + bytes([content[500] ^ 1]) + content[501:]):
        file.write_bytes(damaged)
        assert wrong(open_backbone, OF_TORCHVISION, "DEFAULT", SIZE).startswith(f"{file} is ")


def older_vit(name):
    return re.sub(r"\.mlp\.([03])\.", lambda found: f".mlp.linear_{1 + int(found[1]) // 3}.", name)


def older_densenet(name):
    return re.sub(r"(denselayer\d+\.(?:norm|conv))(\d)", r"\1.\2", name)


def read_densenet(model, weights):
    load_as_torchvision(model, SimpleNamespace(get_state_dict=lambda **_: weights), progress=False)


def small_vit():
    return models.VisionTransformer(16, 8, 2, 2, 8, 16)


@pytest.mark.parametrize(
    ("make", "older", "read"),
    [(models.densenet121, older_densenet, read_densenet), (small_vit, older_vit, nn.Module.load_state_dict)],
)
def test_files_of_torchvision_may_have_older_names_which_its_own_readers_know(make, older, read):
    weights = {name: tensor for name, tensor in make().state_dict().items() if not name.endswith("num_batches_tracked")}
    renamed, twin = {older(name): tensor for name, tensor in weights.items()}, make()
    assert renamed.keys() != weights.keys()
    read(twin, {**renamed})  # the reference
    present = {present_name(name): tensor for name, tensor in renamed.items()}
    assert present.keys() == weights.keys()
    assert all(torch.equal(tensor, twin.state_dict()[name]) for name, tensor in present.items())
    assert [present_name(name) for name in weights] == list(weights)


def test_a_bare_name_is_torchvisions_first_and_then_timms(tmp_path):
    for name, library in (("resnet18", models), ("timm:resnet18", timm), ("mobilenetv3_small_050", timm)):
        make = models.get_model if library is models else timm.create_model
        network = lively(make(name.removeprefix("timm:")))
        backbone = open_backbone(name, saved_as(tmp_path / "weights.pth", network.state_dict()), SIZE)
        check_parts(backbone, network, "classifier" if "mobile" in name else "fc", 32, 1e-2)
        assert backbone.prepared.interpolation == ("bilinear" if library is models else "bicubic")


# Networks of timm


ENCODERS = [  # name, size of images, classes of the file: 0 is a network without a classifier
    ("mobilenetv3_small_050", 64, 1000), ("vit_small_patch14_dinov2", 56, 0),
    *(pytest.param(*words, marks=pytest.mark.slow) for words in (
        ("vit_base_patch16_clip_224", 64, 0), ("vit_base_patch16_siglip_224", 64, 0), ("vit_small_patch16_dinov3", 64, 0),
        ("convnext_tiny.dinov3_lvd1689m", 64, 0), ("convnextv2_tiny", 64, 1000), ("resnet50", 64, 1000),
        ("swin_tiny_patch4_window7_224", 224, 1000), ("deit_tiny_distilled_patch16_224", 64, 1000),
    )),
]  # fmt: skip


@pytest.mark.parametrize(("name", "size", "classes"), ENCODERS)
def test_any_network_of_timm_from_its_weights_to_predictions_and_an_export(run, tmp_path, name, size, classes):
    """Probabilities are those of the head on timm's own features of images that timm's own transform prepares."""
    torch.manual_seed(0)
    network = timm.create_model(name, num_classes=classes).eval()
    fixed = network.pretrained_cfg["fixed_input_size"]
    network = lively(network) if fixed else network  # as transformers begin, they hardly look at images
    weights = saved_as(tmp_path / ("w.pth" if classes else "w.safetensors"), network.state_dict())
    write_photos(tmp_path)
    run("train_own.py", "--data_root", "photos", "--backbone", name, "--pretrained", weights, "--image_size", size,
        "--way", "nearest_mean", "--transform", "none", "--no-cuda", "--workers", 0)  # fmt: skip
    path = tmp_path / "checkpoint/ours/own/head_last.pth.tar"
    head = saved(path)["state_dict"]
    assert set(head) == {"fc.weight", "fc.bias"}
    files = sorted(tmp_path.glob("photos/*/1 ö.png"))
    told = run("predict.py", "--checkpoint_path", path, *files, "--out", "p.csv", "--export", "onnx", "--no-cuda").stdout
    assert float(re.search(r"within (\S+) of PyTorch's", told)[1]) < 0.05
    if fixed:
        network.set_input_size(img_size=(size, size))
    config = {**timm.data.resolve_model_data_config(network), "input_size": (3, size, size)}
    transform = timm.data.create_transform(**config, is_training=False)
    with torch.no_grad():
        pixels = torch.stack([transform(Image.open(file).convert("RGB")) for file in files])
        features = network.forward_head(network.forward_features(pixels), pre_logits=True)
        expected = (features @ head["fc.weight"].T + head["fc.bias"]).softmax(dim=1)
    with open(tmp_path / "p.csv", encoding="utf-8", newline="") as file:
        for row, chances in zip(csv.DictReader(file), expected, strict=True):
            found = {row[f"class {k}"]: float(row[f"probability {k}"]) for k in range(1, 5)}
            assert [found[name] for name in saved(path)["class_names"]] == pytest.approx(chances.tolist(), abs=0.02)
    assert (expected - expected.mean(dim=0)).abs().max() > 0.2  # the control: they tell images apart


def test_a_file_of_timm_that_does_not_fit_ends_in_one_line(tmp_path):
    weights = timm.create_model(SMALL).state_dict()
    for name, change in (
        (SMALL, {"conv1.0.weight": weights["conv1.0.weight"][:5]}), (SMALL, {"bn1.bias": None}),
        (SMALL, {"more": torch.ones(3)}), ("mobilenetv3_small_050", {}),
    ):  # fmt: skip
        kept = {key: tensor for key, tensor in {**weights, **change}.items() if tensor is not None}
        path = saved_as(tmp_path / "weights.pth", kept)
        assert wrong(open_backbone, name, path, SIZE).startswith(f"{path} does not fit --backbone {name} (RuntimeError: ")


def test_without_a_network_one_line_says_what_of_timm_to_fetch_and_a_damaged_copy_is_named(monkeypatch, tmp_path):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
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
    backbone = open_backbone(SMALL, saved_as(tmp_path / "weights.pth", FORMS[form](small.state_dict())), SIZE)
    for name, tensor in backbone.model.state_dict().items():
        theirs = small.state_dict()[name]
        assert torch.equal(tensor, theirs.bfloat16().to(tensor.dtype) if form == "half" else theirs), name


def spoilt(tensor):
    return torch.full_like(tensor, float("nan"))


@pytest.mark.parametrize(
    ("name", "to", "told"),
    [
        ("body.0.weight", lambda t: t[:2], "body.0.weight is (2, 3, 3, 3), the one here is (4, 3, 3, 3)"),
        ("body.1.bias", None, "does not fit: missing body.1.bias, unexpected none"),
        ("body.1.weight", spoilt, "body.1.weight holds numbers that are not finite"),
        ("body.1.running_var", lambda t: -t - 1, "body.1.running_var holds variances below 0"),
        (None, None, "holds no weights"),
    ],
)
def test_what_does_not_fit_a_network_of_ones_own_is_named(tmp_path, name, to, told):
    weights = own_backbones.network().state_dict()
    changed = {k: to(v) if k == name else v for k, v in weights.items() if k != name or to is not None}
    path = saved_as(tmp_path / "weights.pth", changed if name else [1, 2])
    said = wrong(open_backbone, f"{OWN}:network", path, SIZE)
    assert said.startswith(f"{path}")
    assert told in said


# Networks of one's own


@pytest.mark.parametrize(
    ("name", "head", "features"),
    [(f"{OWN}:network", "fc", 16), (f"{OWN}:Named.small", "out", 16), (f"{OWN}:ByName", "fc", 16),
     (f"{OWN}:in_module", "module.fc", 16), ("torchvision.models:mobilenet_v3_small", "classifier.3", 1024)],
)  # fmt: skip
def test_features_of_a_function_times_the_last_layer_are_its_logits(tmp_path, name, head, features):
    network = lively(own_function(name)())
    backbone = open_backbone(name, saved_as(tmp_path / "weights.pth", network.state_dict()), SIZE)
    assert (backbone.features, backbone.prepared) == (features, Preparation(32, 36))
    check_parts(backbone, network, head, 32, 1e-2)


@pytest.mark.parametrize("call", ["stem", "scaled_in_place", "TwoNames", "Asking"])
def test_of_a_network_without_a_last_layer_that_can_be_taken_off_the_answers_are_the_features(tmp_path, call):
    name, network = f"{OWN}:{call}", getattr(own_backbones, call)().eval()
    backbone = open_backbone(name, saved_as(tmp_path / "weights.pth", network.state_dict()), SIZE)
    with torch.no_grad():
        assert torch.allclose(backbone.model(images(32)), network(images(32)), rtol=1e-4, atol=1e-5)
    assert sorted(backbone.whole(make_head(2, 0, backbone.features))) == sorted(
        ["fc.bias", "fc.weight", *(f"model.{key}" for key in network.state_dict())]
    )


def test_a_network_that_says_how_its_images_are_prepared():
    assert open_backbone(f"{OWN}:configured", None, ImageFlags()).prepared == Preparation(40, 40, IMAGENET[0], (1, 1, 1))
    said = ImageFlags(mean=(0.0, 0.0, 0.0), std=(0.5, 0.5, 0.5))
    assert open_backbone(f"{OWN}:configured", None, said).prepared == Preparation(40, 40, (0, 0, 0), (0.5, 0.5, 0.5))


@pytest.mark.parametrize(
    ("name", "pretrained", "told"),
    [
        ("no_such_package:f", None, "--backbone no_such_package:f cannot be made (ValueError: 'no_such_package:f'"),
        ("badly_written:f", None, "--backbone badly_written:f cannot be made (SyntaxError: "),
        (f"{OWN}:no_network", None, "cannot be made (TypeError: it returned a list, not an nn.Module): see --backbone"),
        (f"{OWN}:failing", None, "cannot be made (KeyError: 'no such size'): see --backbone"),
        (f"{OWN}:with_border", None, "crop_mode 'border' of 224 x 224, bicubic, is not known here"),
        (f"{OWN}:pair", None, "must return features (N, A), or logits of an nn.Linear, its last layer"),
        (f"{OWN}:not_finite", None, "gives numbers that are not finite: take other weights"),
        (f"{OWN}:OneSize", None, "fails on images of 224 x 224 (ValueError: images must be 24 not 224): see --image_size"),
        (f"{OWN}:network", "DEFAULT", "there is no file DEFAULT: give another by --pretrained"),
        (f"{OWN}:network", "none.pth", "there is no file none.pth: give another by --pretrained"),
        ("ResNet50", "DEFAULT", "--backbone ResNet50 cannot be made (ValueError: timm.list_models() knows the names)"),
        ("no/resnet", "DEFAULT", "--backbone no/resnet cannot be made ("),
    ],
)
def test_what_does_not_serve_is_refused_with_the_reason(name, pretrained, told, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    (tmp_path / "badly_written.py").write_text("def f(:\n")
    assert told in wrong(open_backbone, name, pretrained, ImageFlags())


def test_a_size_that_a_network_does_not_take_ends_in_one_line(tmp_path):
    assert open_backbone(f"{OWN}:OneSize", None, ImageFlags(24)).features == 16
    path = saved_as(tmp_path / "weights.pth", timm.create_model("convit_tiny").state_dict())
    assert "--image_size" in wrong(open_backbone, "convit_tiny", path, ImageFlags(100))


def global_states():
    own = np.random.get_state()  # noqa: NPY002
    return [torch.get_rng_state().tolist(), str(own), random.getstate(), torch.get_default_dtype()]


@pytest.mark.parametrize("call", ["drawing", "at_random", "failing"])
def test_what_is_global_stays_as_it_was_and_weights_at_random_are_the_same(call):
    for seed in (torch.manual_seed, np.random.seed, random.seed):
        seed(6)
    before, one = global_states(), f"{OWN}:{call}"
    if call == "failing":
        wrong(open_backbone, one, None, SIZE)
    else:
        first = open_backbone(one, None, SIZE)
        assert global_states() == before
        torch.rand(5)
        assert same_weights(first, open_backbone(one, None, SIZE).model)
        torch.set_rng_state(torch.tensor(before[0], dtype=torch.uint8))
    assert global_states() == before
    own_backbones.drawing()  # the control
    after = global_states()
    torch.set_default_dtype(torch.float32)
    assert all(now != then for now, then in zip(after, before, strict=True))


# Checkpoints


def checkpoint(path, made, head, whole=True, name=None, **more):
    """A checkpoint as train_own.py writes it."""
    facts = {**made.facts(whole), **({} if name is None else {"name": name})}
    weights = made.whole(head) if whole else head_weights(head)
    classes = [f"class {k}" for k in range(head.out_features)]
    save_checkpoint({"state_dict": weights, "class_names": classes, "backbone": facts, **more}, path)
    return path


@torch.no_grad()
def logits_by(read, size=24):
    """What a checkpoint's network says of prepared images."""
    return read.model(images(size))


NAMES = ("network", "inner", "in_module", "in_model", "compiled", "stem")


@pytest.mark.parametrize("whole", [True, False])
@pytest.mark.parametrize("case", NAMES)
def test_what_is_saved_is_the_same_network_again(tmp_path, case, whole):
    name = f"{OWN}:{case}"
    network = lively(getattr(own_backbones, case)())
    weights = saved_as(tmp_path / "weights.pth", network.state_dict())
    backbone = open_backbone(name, weights, ImageFlags(24, 29, (0.4, 0.5, 0.6), (0.2, 0.3, 0.4)))
    head = make_head(3, 1, backbone.features)
    path = checkpoint(tmp_path / "own.pth.tar", backbone, head, whole)
    if whole and case != "stem":
        assert sorted(saved(path)["state_dict"]) == sorted(network.state_dict())
    read = classifier(path, name, None)
    if case == "stem":
        network = nn.Sequential(network, head)
    else:
        network.set_submodule(backbone.head, head)
    with torch.no_grad():
        torch.testing.assert_close(logits_by(read), network(images(24)), rtol=0, atol=1e-5)
    assert read.prepared == backbone.prepared
    assert logits_by(read).std(dim=0).min() > 1e-3  # the control: they tell images apart
    if whole:  # as --pretrained, for another training
        again = open_backbone(name, str(path), ImageFlags())
        assert again.prepared == backbone.prepared
        assert same_weights(again, backbone.model)
        assert open_backbone(name, str(path), ImageFlags(48)).prepared.resize_size == 58


def test_a_head_finds_its_weights_or_says_what_to_give(small, tmp_path, monkeypatch):
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    monkeypatch.chdir(tmp_path / "a")
    saved_as(tmp_path / "a" / "weights.pth", small.state_dict())
    backbone = open_backbone(SMALL, "weights.pth", SIZE)
    path = checkpoint(tmp_path / "own.pth.tar", backbone, make_head(4, 1, backbone.features), whole=False)
    assert path.stat().st_size < 40_000
    expected = logits_by(classifier(path, None, None), 32)

    def found(pretrained=None):
        return torch.equal(logits_by(classifier(path, None, None, pretrained), 32), expected)

    monkeypatch.chdir(tmp_path / "b")
    assert found()  # where training found them
    (tmp_path / "a" / "weights.pth").rename(tmp_path / "b" / "weights.pth")
    assert found()  # as they were given
    (tmp_path / "b" / "weights.pth").rename(tmp_path / "moved.pth")
    told = f"{path}: its backbone cannot be created: there is no file {tmp_path}/a/weights.pth: give another by --pretrained"
    assert wrong(found).startswith(told)
    assert "there is no file gone.pth" in wrong(found, "gone.pth")
    assert found("../moved.pth")
    other = {**small.state_dict(), "bn1.running_mean": small.state_dict()["bn1.running_mean"] + 1e-6}
    saved_as(tmp_path / "a" / "weights.pth", other)
    told = f"{path} was trained on other weights than those of {tmp_path}/a/weights.pth: give them by --pretrained"
    assert wrong(found) == told
    assert found("../moved.pth")
    (tmp_path / "moved.pth").write_bytes((tmp_path / "moved.pth").read_bytes()[:-99])
    assert "moved.pth is damaged (it is truncated)" in wrong(found, "../moved.pth")


def test_embeddings_of_positions_are_resized_as_timm_does_and_not_in_the_digest(tmp_path):
    network = lively(timm.create_model("vit_tiny_patch16_224", num_classes=0))
    weights = saved_as(tmp_path / "w.pth", network.state_dict())
    backbone = open_backbone("vit_tiny_patch16_224", weights, ImageFlags(64))
    network.set_input_size(img_size=64)
    with torch.no_grad():
        torch.testing.assert_close(backbone.model(images(64)), network(images(64)), rtol=1e-4, atol=1e-4)
    digest = backbone.digest()
    with torch.no_grad():
        backbone.model.get_parameter("pos_embed" if hasattr(backbone.model, "pos_embed") else "model.pos_embed").mul_(1.001)
    assert backbone.digest() == digest
    next(iter(backbone.model.buffers()), backbone.model.get_parameter("norm.weight")).detach().mul_(1.001)
    assert backbone.digest() != digest


@pytest.fixture
def own(tmp_path):
    """A checkpoint of a small network of one's own, its backbone and its head."""
    backbone = open_backbone(f"{OWN}:network", None, ImageFlags(24))
    return tmp_path / "own.pth.tar", backbone, make_head(3, 1, 16)


USED = "cannot be used: "


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"name": None}, f"{USED}its backbone.name is of another kind or range: Expected str"),
        ({"image_size": 7}, "its backbone cannot be created: --image_size 7 is not valid"),
        ({"mean": [1e30, 0.5, 0.5]}, "its backbone cannot be created: --mean 1e+30,0.5,0.5 is not valid"),
        ({"interpolation": "nearest"}, f"{USED}its backbone.interpolation is of another kind or range: Invalid enum"),
        ({"digest": None}, "was trained on other weights than those of support.own_backbones:network"),
        ({"file": "/dev/zero", "pretrained": "no.pth"}, "its backbone cannot be created: there is no file /dev/zero"),
        ({"name": "resnet_of_mine"}, "its backbone cannot be created: --backbone resnet_of_mine "),
        ({"mean": ...}, "mean"),
        ("resnet50", "cannot be used"),
    ],
)
def test_damaged_facts_end_in_one_line(own, change, told):
    path, backbone, head = own
    facts, name = change, None
    if isinstance(change, dict):
        facts = {key: value for key, value in {**backbone.facts(False), **change}.items() if value is not ...}
        name = facts.get("name")
    checkpoint(path, backbone, head, whole=False, backbone=facts)
    said = wrong(classifier, path, name if isinstance(name, str) and name.startswith(OWN) else None, None)
    assert said.startswith(f"{path}")
    assert told in said


@pytest.mark.parametrize("whole", [True, False])
@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"fc.weight": None}, "has no last layer of 16 features: it does not fit"),
        ({"fc.weight": torch.zeros(3, 9)}, "has no last layer of 16 features: it does not fit"),
        ({"fc.bias": None}, "has no bias"),
        ({"fc.weight": torch.full((3, 16), float("inf"))}, "that are not finite"),
        ({"fc.weight": torch.zeros(4, 16), "fc.bias": torch.zeros(4)}, "has 3 entries"),
        ({"body.0.weight": None}, "the backbone, does not fit: missing body.0.weight"),
    ],
)
def test_weights_that_do_not_fit_what_a_checkpoint_says_end_in_one_line(own, change, told, whole):
    path, backbone, head = own
    if "body.0.weight" in change and not whole:
        return
    weights = {**(backbone.whole(head) if whole else head_weights(head)), **change}
    kept = {key: tensor for key, tensor in weights.items() if tensor is not None}
    checkpoint(path, backbone, head, whole, state_dict=kept)
    assert told in wrong(classifier, path, f"{OWN}:network", None)


@pytest.mark.parametrize("whole", [True, False])
def test_a_checkpoint_does_not_choose_what_is_run(own, whole):
    path, backbone, head = own
    call = f"{OWN}:recorded"
    backbone = open_backbone(call, None, ImageFlags(24))
    checkpoint(path, backbone, head, whole)
    own_backbones.RAN.clear()
    told = f"{path} holds the network {call}{{}}: give --arch {call} if that is code of yours"
    assert wrong(classifier, path, None, None) == told.format("")
    assert wrong(classifier, path, f"{OWN}:network", None) == told.format(f", not {OWN}:network")
    assert own_backbones.RAN == []
    before = torch.get_rng_state()
    assert classifier(path, call, None).names == ["class 0", "class 1", "class 2"]
    assert len(own_backbones.RAN) == 1
    assert torch.equal(torch.get_rng_state(), before)


def test_flags_that_a_checkpoint_answers_itself_are_refused(small, tmp_path, own):
    path, backbone, head = own
    checkpoint(path, backbone, head)
    assert wrong(classifier, path, f"{OWN}:network", "ImageNet_LT").endswith("leave --dataset out")
    library = open_backbone(SMALL, saved_as(tmp_path / "weights.pth", small.state_dict()), SIZE)
    head = make_head(3, 1, library.features)
    checkpoint(path, library, head)
    assert wrong(classifier, path, SMALL, None).endswith("leave --arch out")
    checkpoint(path, library, head, resume={})
    assert "is the state of an interrupted run" in wrong(classifier, path, None, None)
    checkpoint(path, library, head, whole=False, backbone=None)
    assert wrong(classifier, path, SMALL, None).endswith("leave --arch out")  # of features, there is no network
    assert wrong(classifier, path, None, None, "w.pth").endswith("leave --pretrained out")
    found = classifier(path, None, None)
    assert found.model is found.head


def test_what_a_run_leaves_is_its_head_or_with_whole_all_weights(run, tmp_path):
    """No file of before is left; predict.py says the same, and of whole networks needs no weights."""
    write_photos(tmp_path)
    torch.save(network(9).state_dict(), tmp_path / "w.pth")
    call = BACKBONE
    flags = ["--data_root", "photos", "--backbone", call, "--pretrained", "w.pth", "--image_size", "32", "--no-cuda"]
    tables = []
    for name in ("alone", "whole"):
        more = [f"--{name}"] if name == "whole" else []
        run("train_own.py", *flags, "--workers", 0, "--way", "lda", "--save_name", name, *more)
        path = f"checkpoint/ours/own/{name}_last.pth.tar"
        if more:
            (tmp_path / "w.pth").unlink()
        run("predict.py", "--checkpoint_path", path, "--arch", call, "photos", "--out", f"{name}.csv")
        tables.append((tmp_path / f"{name}.csv").read_text())
        assert (len(saved(tmp_path / path)["state_dict"]) > 2) == bool(more)
    assert tables[0] == tables[1]
    assert not list(tmp_path.rglob("*.previous"))
