"""predict.py --export: a file for use without this code, whose logits are those of predict.py's own probabilities."""

import json

import numpy as np
import onnxruntime
import pytest
import torch
from PIL import Image, ImageOps
from support.own import BACKBONE, FLAGS, write_photos
from support.slim_resnet import slim_resnet50
from torch import nn
from torchvision.models import resnet50

from harness.errors import UserError
from inference.classifier_exports import exported_file
from inference.classifiers import Classifier
from inference.exports import ENDINGS
from resnet import make_model

OWN = "checkpoint/ours/own/head_last.pth.tar"
CODE = ["--arch", BACKBONE, "--no-cuda"]
pytestmark = pytest.mark.filterwarnings("ignore:`torch.jit.load`:FutureWarning")


@pytest.fixture(scope="module")
def folder(run_in, tmp_path_factory):
    """Photographs, one turned by its EXIF, the checkpoint of a network of one's own, and one of a CIFAR script."""
    made = tmp_path_factory.mktemp("exports")
    write_photos(made)
    run_in("train_own.py", *FLAGS, "--epochs", "1", cwd=made)
    (made / "new" / "deep").mkdir(parents=True)
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 270 degrees
    for k, name in enumerate(("a b.jpg", "deep/ü.png", "deep/x.png")):
        pixels = np.random.default_rng(k).integers(0, 256, (40 + 30 * k, 70, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(made / "new" / name, **({"exif": exif} if k == 2 else {}))
    (made / "new" / "bad.jpg").write_text("no image")
    small = {"state_dict": make_model("resnet8", 3, seed=1).state_dict(), "arch": "resnet8", "cls_num_list": [9, 3, 1]}
    torch.save({**small, "class_names": ["a", "b", "c"]}, made / "small_ckpt.pth.tar")
    return made


def loaded(path):
    """A function from pixels to logits in float64, and the class names."""
    if path.suffix == ".onnx":
        session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
        names = session.get_modelmeta().custom_metadata_map["class_names"]
        return lambda pixels: torch.from_numpy(session.run(None, {"pixels": pixels})[0]).double(), json.loads(names)
    facts = {"class_names": ""}
    model = torch.jit.load(path, _extra_files=facts)
    return lambda pixels: model(torch.from_numpy(pixels)).detach().double(), json.loads(facts["class_names"])


def pixels_of(file, size=None):
    image = ImageOps.exif_transpose(Image.open(file)).convert("RGB")
    return np.array(image if size is None else image.resize(size, Image.Resampling.BILINEAR))[None]


def table(path):
    rows = map(json.loads, path.read_text(encoding="utf-8").splitlines())
    return {row["path"]: {each["name"]: each["probability"] for each in row["classes"]} for row in rows}


@pytest.mark.parametrize(("form", "prior"), [("onnx", []), ("torchscript", ["--prior", "shares.csv"])])
def test_photographs_that_are_given_are_named_and_compared(run_in, folder, form, prior):
    (folder / "shares.csv").write_text("Bär ä,1\ncat,3\ndog,0\nowl,90\n", encoding="utf-8")
    flags = ["--checkpoint_path", OWN, *CODE, "--out", f"{form}.jsonl", "--export", form, *prior]
    result = run_in("predict.py", *flags, "new", cwd=folder, status=1)
    assert result.stderr.splitlines()[-1].startswith("predict.py: error: new/bad.jpg (8 bytes) cannot be read")
    path = folder / OWN.replace(".pth.tar", ENDINGS[form])
    first, last = result.stdout.splitlines()
    assert first == f"wrote {form}.jsonl: 3 images"
    assert last.startswith(f"wrote {path.relative_to(folder)}: logits of 3 images within ")
    assert last.endswith("of PyTorch's" + ("; what --prior shares.csv adds is in them" if prior else ""))
    logits, names = loaded(path)
    found = table(folder / f"{form}.jsonl")
    assert len(found) == 3
    for file, wanted in found.items():
        chances = logits(pixels_of(folder / file))[0].softmax(0)
        assert names == ["Bär ä", "cat", "dog", "owl"]
        for name, chance in zip(names, chances, strict=True):
            assert float(chance) == pytest.approx(wanted[name], abs=1e-5)
        assert (wanted["dog"] == 0) == bool(prior)
    turned = pixels_of(folder / "new" / "deep" / "x.png")
    apart = (logits(turned) - logits(np.ascontiguousarray(turned[:, ::-1])))[0]
    assert float(apart[[0, 1, 3]].abs().max()) > 1e-4  # the control


def test_without_images_some_are_made_up_and_the_earlier_file_is_kept(run_in, folder, tmp_path):
    path = tmp_path / "x.pth.tar"
    path.write_bytes((folder / OWN).read_bytes())
    (tmp_path / "x.pt").write_text("precious")
    result = run_in("predict.py", "--checkpoint_path", path, *CODE, "--export", "torchscript", cwd=folder)
    assert result.stdout.startswith(f"wrote {tmp_path}/x.pt: logits of 4 made-up images within ")
    assert result.stderr == ""
    assert (tmp_path / "x.pt.previous").read_text() == "precious"
    assert loaded(tmp_path / "x.pt")[0](np.zeros((2, 1, 9, 3), np.uint8)).shape == (2, 4)


def test_networks_of_the_cifar_scripts(run_in, folder):
    flags = ["--checkpoint_path", "small_ckpt.pth.tar", "--no-cuda", "--export", "torchscript"]
    result = run_in("predict.py", *flags, cwd=folder)
    assert result.stdout.startswith("wrote small_ckpt.pt: logits of 64 made-up images within ")
    plain, names = loaded(folder / "small_ckpt.pt")
    assert names == ["a", "b", "c"]
    photo = folder / "new" / "a b.jpg"
    result = run_in("predict.py", *flags, "--prior", "train", "--out", "small.jsonl", photo, cwd=folder)
    line = "wrote small_ckpt.pt: logits of 1 image within "
    assert result.stdout.splitlines()[-1].startswith(line)
    assert result.stdout.endswith("of PyTorch's; what --prior train adds is in them\n")
    pixels = pixels_of(photo, (32, 32))
    shifted = loaded(folder / "small_ckpt.pt")[0](pixels)[0]
    added = torch.tensor([9.0, 3.0, 1.0]).double().div(13).log() + np.log(3)  # Bayes' rule, from equal frequencies
    torch.testing.assert_close(shifted, plain(pixels)[0] + added, atol=1e-5, rtol=0)
    for name, chance in zip(names, shifted.softmax(0), strict=True):
        assert table(folder / "small.jsonl")[str(photo)][name] == pytest.approx(float(chance), abs=1e-5)


@pytest.mark.parametrize(("form", "size"), [("torchscript", "slim"), pytest.param("onnx", "whole", marks=pytest.mark.slow)])
def test_heads_of_a_resnet50(run_in, folder, tmp_path, form, size):
    torch.manual_seed(0)
    weights = (resnet50 if size == "whole" else slim_resnet50)(num_classes=3, zero_init_residual=True).state_dict()
    parts = {"classifier": {}, "feature": {}}
    for name, value in weights.items():
        if not name.endswith("num_batches_tracked"):
            parts["classifier" if name.startswith("fc.") else "feature"][name] = value
    torch.save({"state_dict": parts, "dataset": "iNaturalist18"}, tmp_path / "MetaSAug_iNat18.tar")
    flags = ["--checkpoint_path", tmp_path / "MetaSAug_iNat18.tar", "--no-cuda", "--export", form, "--out", "r.jsonl"]
    out = run_in("predict.py", *flags, "new/a b.jpg", cwd=folder, RESNET50=size).stdout
    path = tmp_path / ("MetaSAug_iNat18" + ENDINGS[form])
    assert out.splitlines()[-1].startswith(f"wrote {path}: logits of 1 image within ")
    logits, names = loaded(path)
    chances = logits(pixels_of(folder / "new" / "a b.jpg"))[0].softmax(0)
    found = table(folder / "r.jsonl")["new/a b.jpg"]
    assert names == ["class 0", "class 1", "class 2"]
    assert [found[name] for name in names] == pytest.approx(chances.tolist(), abs=1e-5)


def test_mistakes(refused, folder, tmp_path):
    small = ["--checkpoint_path", folder / "small_ckpt.pth.tar"]
    (tmp_path / "y.pt").mkdir()
    (tmp_path / "y.pth.tar").write_bytes((folder / "small_ckpt.pth.tar").read_bytes())
    for flags, words in (
        (small, "no image is given: name files, or folders of them"),
        ([*small, "--export", "onnx", "--out", "x.csv"], "no image is given: name files, or folders of them"),
        ([*small, "--export", "pickle"], "invalid choice: 'pickle'"),
        (["--checkpoint_path", "y.pth.tar", "--export", "torchscript"], "y.pt cannot be written"),
    ):
        assert words in refused("predict.py", *flags)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["y.pt", "y.pth.tar"]


def test_a_head_on_features_alone_is_refused(tmp_path):
    head = Classifier(["a", "b"], {}, nn.Linear(3, 2), lambda file: None, 1, lambda sizes, clear: [])
    with pytest.raises(UserError, match=r"x\.pth\.tar takes features and no images: leave --export out"):
        exported_file(head, tmp_path / "x.pth.tar", "onnx")
