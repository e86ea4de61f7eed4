"""Networks by name: what a name may be, what is downloaded, timm, functions of one's own."""

import hashlib
import io
import random
import sys
from email.message import Message
from urllib.error import URLError

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from support import own_backbones
from support.refusals import wrong
from torchvision import models

from heads.networks import open_backbone
from heads.transforms import IMAGENET, ImageFlags, Preparation
from heads.whole_networks import downloads, made, own_call

OWN = "support.own_backbones"
SMALL = "shufflenet_v2_x0_5"
SIZE = ImageFlags(image_size=32)  # quick


@pytest.fixture(autouse=True)
def hub(monkeypatch, tmp_path):
    """The folder of downloaded files; nothing is fetched, what would be is noted in `asked`."""
    folder = tmp_path / "hub" / "checkpoints"
    folder.mkdir(parents=True)
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "hub"))
    monkeypatch.setattr(torch.hub, "urlopen", offline)
    return folder


def offline(request):
    raise URLError(OSError(-2, "Name or service not known"))


def content_of(model):
    buffer = io.BytesIO()
    torch.save(model.state_dict(), buffer)
    return buffer.getvalue()


def answering(monkeypatch, content):
    """Every download yields this."""
    answer = io.BytesIO(content)
    answer.info = Message
    asked = []
    monkeypatch.setattr(torch.hub, "urlopen", lambda request: asked.append(request.full_url) or answer)
    return asked


def same_weights(backbone, network):
    theirs = network.state_dict()
    return all(torch.equal(tensor, theirs[name]) for name, tensor in backbone.model.state_dict().items())


@pytest.mark.parametrize(
    ("name", "near"), [("ResNet50", "resnet50"), ("resnet-50", "resnet50"), ("efficientnet_b9", "efficientnet_b"),
                       ("vit_b16", "vit_b_16"), ("", "resnet50"), ("../resnet50", "resnet50"), ("fcn_resnet50", "resnet50")]
)  # fmt: skip
def test_a_name_that_is_none_is_told_near_ones(name, near):
    said = wrong(open_backbone, name, "DEFAULT", ImageFlags())
    assert said.startswith(f"--backbone {name} is no network of torchvision: ")
    assert near in said.partition(": ")[2]


@pytest.mark.parametrize("name", ["googlenet", "inception_v3"])
def test_a_network_whose_weights_change_its_input_is_refused(name):
    told = f"--backbone {name} cannot be used: its weights change its input, which a file does not tell"
    assert wrong(open_backbone, name, "DEFAULT", ImageFlags()) == told
    assert wrong(open_backbone, name, "some.pth", ImageFlags()) == told


def test_every_other_network_of_torchvision_can_be_downloaded():
    for name in set(models.list_models(module=models)) - {"googlenet", "inception_v3"}:
        assert downloads(name) == ["DEFAULT", *(entry.name for entry in models.get_model_weights(name))]
    assert downloads("timm:resnet50") == ["DEFAULT"]
    assert downloads("package:function") == []


@pytest.mark.parametrize("weights", ["DEFAULT", "IMAGENET1K_V1", "IMAGENET1K_V2"])
def test_without_a_network_one_line_says_what_to_fetch(weights):
    url = models.get_model_weights("mobilenet_v2")[weights].url
    said = wrong(open_backbone, "mobilenet_v2", weights, ImageFlags())
    assert said.startswith("the weights of mobilenet_v2 could not be downloaded (URLError: ")
    assert "Name or service not known" in said
    assert said.endswith(f": fetch {url} elsewhere and give the file by --pretrained")


def test_what_is_downloaded_must_have_the_right_hash(monkeypatch):
    network = models.get_model(SMALL)
    content = content_of(network)
    entry = models.get_model_weights(SMALL).DEFAULT
    url = f"https://example.org/small-{hashlib.sha256(content).hexdigest()[:8]}.pth"
    monkeypatch.setattr(entry.value, "url", url)
    changed = bytes([*content[:-1], content[-1] ^ 1])
    answering(monkeypatch, changed)
    said = wrong(open_backbone, SMALL, "DEFAULT", SIZE)
    assert "invalid hash value" in said
    assert said.endswith(f"fetch {url} elsewhere and give the file by --pretrained")
    asked = answering(monkeypatch, content)
    assert same_weights(open_backbone(SMALL, "DEFAULT", SIZE), network)
    assert asked == [url]
    asked = answering(monkeypatch, b"")
    assert same_weights(open_backbone(SMALL, "DEFAULT", SIZE), network)
    assert asked == []  # it is there


@pytest.mark.parametrize("content", [b"", b"no archive", b"PK\3\4 cut"])
def test_a_downloaded_file_that_is_damaged_ends_in_one_line(hub, content):
    (hub / models.get_model_weights(SMALL).DEFAULT.url.split("/")[-1]).write_bytes(content)
    said = wrong(open_backbone, SMALL, "DEFAULT", SIZE)
    assert said.startswith(f"the weights of {SMALL} could not be downloaded (")


@pytest.mark.parametrize(("weights", "resized"), [("IMAGENET1K_V1", 256), ("IMAGENET1K_V2", 232), ("DEFAULT", 232)])
def test_weights_by_the_name_that_torchvision_has_for_them(hub, weights, resized):
    networks = {}
    for entry in models.get_model_weights("mobilenet_v2"):
        networks[entry] = models.get_model("mobilenet_v2")
        (hub / entry.url.split("/")[-1]).write_bytes(content_of(networks[entry]))
    backbone = open_backbone("mobilenet_v2", weights, ImageFlags())
    chosen = networks.pop(models.get_model_weights("mobilenet_v2")[weights])
    assert same_weights(backbone, chosen)
    assert not same_weights(backbone, *networks.values())
    assert backbone.prepared.resize_size == resized


@pytest.mark.parametrize(("file", "resized"), [("mobilenet_v2-b0353104.pth", 256), ("mobilenet_v2-7ebf99e0.pth", 232),
                                               ("mine.pth", 256)])  # fmt: skip
def test_a_file_is_prepared_for_by_its_name(tmp_path, file, resized):
    network = models.get_model("mobilenet_v2")
    (tmp_path / file).write_bytes(content_of(network))
    backbone = open_backbone("mobilenet_v2", str(tmp_path / file), ImageFlags())
    assert same_weights(backbone, network)
    assert backbone.prepared.resize_size == resized


def test_where_weights_come_from_must_be_said_of_a_library_and_be_there(tmp_path):
    said = wrong(open_backbone, SMALL, None, ImageFlags())
    assert said == f"--backbone {SMALL} has random weights: give --pretrained DEFAULT or a file"
    for missing in ("IMAGENET1K_V3", str(tmp_path / "none.pth"), str(tmp_path)):
        said = wrong(open_backbone, "mobilenet_v2", missing, ImageFlags())
        names = "DEFAULT or IMAGENET1K_V1 or IMAGENET1K_V2"
        assert said == f"there is no file {missing}: give another by --pretrained, or {names} to download it"
    assert "is for torchvision's and timm's" in wrong(open_backbone, f"{OWN}:network", "DEFAULT", ImageFlags())
    said = wrong(open_backbone, f"{OWN}:network", "none.pth", ImageFlags())
    assert said == "there is no file none.pth: give another by --pretrained, or leave it out"


# timm


def test_without_timm_one_line_says_what_to_install(monkeypatch):
    monkeypatch.setattr(sys, "path", [])
    monkeypatch.delitem(sys.modules, "timm", raising=False)
    said = wrong(open_backbone, "timm:resnet18", "DEFAULT", ImageFlags())
    assert said == "--backbone timm:resnet18 needs timm: pip install timm"


@pytest.fixture
def timm(monkeypatch, tmp_path):
    """A package with the name of timm that knows one network; its configuration is what is put into `config`."""
    (tmp_path / "timm.py").write_text(
        "import torch\nfrom support.own_backbones import Named\nconfig, asked = {}, []\n"
        "def create_model(name, pretrained=False):\n"
        "    asked.append((name, pretrained))\n"
        "    if name != 'tiny.some_tag': raise RuntimeError(f'Unknown model\\n({name})')\n"
        "    made = Named(last='head')\n    made.pretrained_cfg = config\n"
        "    if pretrained: made.body[0].weight.data.fill_(0.25)\n"
        "    return made\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "timm", raising=False)
    import timm

    yield timm
    del sys.modules["timm"]


def test_a_network_of_timm_has_timms_weights_and_preparation(timm):
    timm.config |= {"input_size": (3, 48, 48), "crop_pct": 0.9, "interpolation": "bicubic", "mean": (0.5, 0.4, 0.3),
                    "std": (0.2, 0.3, 0.1), "classifier": "head"}  # fmt: skip
    backbone = open_backbone("timm:tiny.some_tag", "DEFAULT", ImageFlags())
    assert timm.asked == [("tiny.some_tag", True)]
    assert (backbone.name, backbone.head, backbone.features) == ("timm:tiny.some_tag", "head", 16)
    assert backbone.prepared == Preparation(48, 53, (0.5, 0.4, 0.3), (0.2, 0.3, 0.1), "bicubic")  # 48 / 0.9 is 53.3
    assert (backbone.model.body[0].weight == 0.25).all()
    assert open_backbone("timm:tiny.some_tag", "DEFAULT", ImageFlags(24)).prepared.resize_size == 26


def test_a_network_of_timm_with_a_file(timm, tmp_path):
    weights = own_backbones.Named(last="head", classes=9).state_dict()
    torch.save(weights, tmp_path / "weights.bin")
    backbone = open_backbone("timm:tiny.some_tag", str(tmp_path / "weights.bin"), ImageFlags(40))
    assert timm.asked == [("tiny.some_tag", False)]
    assert torch.equal(backbone.model.body[0].weight, weights["body.0.weight"])
    assert "random weights" in wrong(open_backbone, "timm:tiny.some_tag", None, ImageFlags())


def test_what_timm_cannot_make_ends_in_one_line(timm):
    said = wrong(open_backbone, "timm:other", "DEFAULT", ImageFlags())
    assert said.startswith("--backbone timm:other: timm cannot make it (RuntimeError: Unknown model (other)): ")
    with pytest.raises(Exception, match=r"timm\.list_models"):
        made("timm:other", None, ImageFlags())


@pytest.mark.parametrize(
    "config", [{}, {"interpolation": "random"}, {"input_size": (3, 224, 224), "crop_pct": 0.875}, {"unknown": 1}]
)
def test_what_a_configuration_does_not_say_is_usual(timm, config):
    timm.config |= config
    assert made("timm:tiny.some_tag", None, ImageFlags())[1] == Preparation()


@pytest.mark.parametrize(
    "config",
    [{"input_size": None}, {"input_size": ()}, {"input_size": (3, "wide")}, {"crop_pct": 0}, {"crop_pct": None},
     {"mean": 0.5}, {"mean": (0.5, 0.5)}, {"std": ("a", 1, 1)}, {"std": None}, {"crop_pct": float("nan")}],
)  # fmt: skip
def test_a_configuration_that_makes_no_sense_ends_in_one_line(timm, config):
    timm.config |= config
    said = wrong(made, "timm:tiny.some_tag", None, ImageFlags())
    assert said.startswith("--backbone timm:tiny.some_tag: its pretrained_cfg makes no sense (")


# Functions of one's own


@pytest.mark.parametrize(
    ("call", "head"),
    [("network", "fc"), ("Named", "fc"), ("Named.small", "fc"), ("Named.small('out')", "out"),
     ("Named.small(last='top')", "top"), ("network(first='a', last='b', classes=3)", "b"), ("network()", "fc"),
     ("ByName", "fc"), ("wrapped(name='module')", "module.fc")],
)  # fmt: skip
def test_a_function_a_method_or_a_call(call, head):
    backbone = open_backbone(f"{OWN}:{call}", None, ImageFlags(32))
    assert (backbone.head, backbone.features, backbone.prepared) == (head, 16, Preparation(32, 36))


def test_a_function_in_the_current_folder(tmp_path, monkeypatch):
    (tmp_path / "my_backbone.py").write_text("from support.own_backbones import Named as made\n")
    monkeypatch.chdir(tmp_path)
    assert open_backbone("my_backbone:made", None, ImageFlags(32)).features == 16


def test_a_network_that_says_how_its_images_are_prepared():
    name = f"{OWN}:with_config(input_size=(3, 40, 40), crop_pct=1.0, std=[1, 1, 1])"
    assert open_backbone(name, None, ImageFlags()).prepared == Preparation(40, 40, IMAGENET[0], (1, 1, 1))
    said = ImageFlags(mean=(0.0, 0.0, 0.0), std=(0.5, 0.5, 0.5))
    assert open_backbone(name, None, said).prepared == Preparation(40, 40, (0, 0, 0), (0.5, 0.5, 0.5))


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text() | st.binary(),
    lambda inner: st.lists(inner) | st.tuples(inner, inner) | st.dictionaries(st.text(), inner),
    max_leaves=8,
)


@given(st.lists(values, max_size=3), st.dictionaries(st.sampled_from(["a", "depth", "x_1"]), values))
def test_a_call_has_the_arguments_that_are_written(given_, named):
    words = [*map(repr, given_), *(f"{name}={value!r}" for name, value in named.items())]
    own_backbones.RAN.clear()
    call = own_call(f"{OWN}:recorded({', '.join(words)})")
    assert own_backbones.RAN == []
    call()
    [ran] = own_backbones.RAN
    assert ran == (tuple(given_), named)


@pytest.mark.parametrize(
    "text",
    ["recorded(recorded())", "recorded(x)", "recorded(a=open('made', 'w'))", "recorded(*[1])", "recorded(**{'a': 1})",
     "recorded(1 + recorded())", "recorded([x for x in (1, 2)])", "recorded(f'{recorded()}')", "recorded(", "recorded)(",
     "recorded(); recorded()", "recorded() or recorded()", "a = recorded()", "(lambda: 1)()", "recorded()()", "recorded\0",
     "recorded({[]: 1})", "", " ", "recorded[0]", "recorded.nothing", "nothing", "recorded(a=1, a=2)", "import os"],
)  # fmt: skip
def test_what_is_no_call_with_plain_values_is_refused_and_not_run(text, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    own_backbones.RAN.clear()
    assert wrong(open_backbone, f"{OWN}:{text}", None, ImageFlags()).startswith("--backbone")
    assert own_backbones.RAN == []
    assert list(tmp_path.iterdir()) == [tmp_path / "hub"]
    with pytest.raises(ValueError, match=r"package\.module:function"):
        own_call(f"{OWN}:{text}")


@pytest.mark.parametrize("name", ["no_such_package:f", ":f", ".relative:f", "a b:f", "support.nothing:f", ":"])
def test_a_module_that_is_not_there_ends_in_one_line(name):
    assert wrong(open_backbone, name, None, ImageFlags()).startswith("--backbone")


def test_a_module_that_fails_ends_in_one_line(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name, text in (("badly_written", "def f(:\n"), ("badly_made", "x = 1 / 0\n")):
        (tmp_path / f"{name}.py").write_text(text)
        assert wrong(open_backbone, f"{name}:f", None, ImageFlags()).startswith(f"--backbone {name}:f cannot be made (")


@pytest.mark.parametrize(
    ("call", "told"),
    [
        ("no_network", "returned a list, not an nn.Module: mend it"),
        ("failing", "cannot be made (KeyError: 'no such size'): mend the call or the function"),
        ("failing('two\\nlines')", "cannot be made (KeyError: 'two\\nlines'): mend the call or the function"),
        ("network(colour=3)", "cannot be made (TypeError: "),
        ("stem", "cannot be used: its answers are not those of an nn.Linear, its last layer"),
        ("pair", "cannot be used: its answers are not those of an nn.Linear, its last layer"),
        ("scaled", "cannot be used: its answers are not those of an nn.Linear, its last layer"),
        ("scaled_in_place", "cannot be used: its answers are not those of an nn.Linear, its last layer"),
        ("normalised", "cannot be used: its answers are not those of an nn.Linear, its last layer"),
        ("not_finite", "gives features that are not finite: take other weights"),
        ("TwoNames", "cannot be used: without its last layer, fc, it does not give that's input"),
        ("Asking", "fails without its last layer, fc (AttributeError: "),
        ("OneSize", "fails on images of 32 x 32 (ValueError: images must be 24 not 32): see --image_size"),
    ],
)
def test_a_network_that_does_not_serve_is_refused_with_the_reason(call, told):
    said = wrong(open_backbone, f"{OWN}:{call}", None, ImageFlags(32))
    assert said.startswith(f"--backbone {OWN}:{call} {told}")


def test_a_network_for_one_size_serves_at_that_size():
    assert open_backbone(f"{OWN}:OneSize", None, ImageFlags(24)).features == 16


def test_squeezenet_has_no_last_layer_that_is_linear(hub):
    (hub / "squeezenet1_1-b8a52dc0.pth").write_bytes(content_of(models.get_model("squeezenet1_1")))
    said = wrong(open_backbone, "squeezenet1_1", "DEFAULT", ImageFlags())
    assert said == "--backbone squeezenet1_1 cannot be used: its answers are not those of an nn.Linear, its last layer"


def test_a_vision_transformer_of_another_size_than_can_be_made():
    with pytest.raises(Exception, match=r"--backbone vit_b_16 fails on images of 100 x 100 \(.*\): see --image_size"):
        made("vit_b_16", None, ImageFlags(100))


def global_states():
    own = np.random.get_state()  # noqa: NPY002
    return [torch.get_rng_state().tolist(), str(own), random.getstate(), torch.get_default_dtype()]


@pytest.mark.parametrize("call", ["drawing", "at_random", "failing"])
def test_what_is_global_stays_as_it_was(call):
    for seed in (torch.manual_seed, np.random.seed, random.seed):
        seed(6)
    before = global_states()
    if call == "failing":
        wrong(open_backbone, f"{OWN}:{call}", None, ImageFlags(32))
    else:
        open_backbone(f"{OWN}:{call}", None, ImageFlags(32))
    assert global_states() == before
    own_backbones.drawing()  # the control
    after = global_states()
    torch.set_default_dtype(torch.float32)
    assert all(now != then for now, then in zip(after, before, strict=True))


def test_weights_at_random_are_the_same_wherever_they_are_made():
    torch.manual_seed(1)
    one = open_backbone(f"{OWN}:at_random", None, ImageFlags(32)).model.state_dict()
    torch.rand(5)
    two = open_backbone(f"{OWN}:at_random", None, ImageFlags(32)).model.state_dict()
    assert all(torch.equal(one[name], two[name]) for name in one)
    assert not torch.equal(own_backbones.Named().state_dict()["body.0.weight"], one["body.0.weight"])
