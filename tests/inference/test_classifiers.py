"""Large photographs named by a head and its backbone, as lines and as tables."""

import csv
import json

import numpy as np
import pytest
import torch
from PIL import Image
from support.slim_resnet import slim_resnet50
from torchvision.models import resnet50

NAMES = ["Häher", "owl", "two words"]
STATISTICS = {
    "custom": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    "iNaturalist18": ((0.466, 0.471, 0.380), (0.195, 0.194, 0.192)),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Photographs of several sizes in folders, checkpoints as train.py writes them, and one as they were released."""
    root = tmp_path_factory.mktemp("photographs")
    generator = np.random.default_rng(3)
    for name, size in (("a b.jpg", (300, 400)), ("dä/c.png", (256, 256)), ("dä/d.png", (40, 90))):
        (root / "photos" / name).parent.mkdir(parents=True, exist_ok=True)
        coarse = Image.fromarray(generator.integers(0, 256, (6, 5, 3), dtype=np.uint8))
        coarse.resize(size, Image.Resampling.BICUBIC).save(root / "photos" / name)
    state, whole = ({"state_dict": random_weights(make)} for make in (slim_resnet50, resnet50))
    torch.save(state, root / "released.pth.tar")
    more = {"dataset": "custom", "class_names": NAMES, "cls_num_list": [9, 5, 2]}
    torch.save({**state, **more}, root / "own_last.pth.tar")
    torch.save({**whole, **more}, root / "whole_last.pth.tar")
    torch.save({**state, **more, "resume": {}}, root / "own_resume.pth.tar")
    return root


def random_weights(make):
    """A network's weights by parts, as a checkpoint holds them."""
    torch.manual_seed(0)
    net = make(num_classes=3, zero_init_residual=True)
    weights = {name: value for name, value in net.state_dict().items() if not name.endswith("num_batches_tracked")}
    weights["fc.weight"] *= 20
    parts = {"classifier": {}, "feature": {}}
    for name, value in weights.items():
        parts["classifier" if name.startswith("fc.") else "feature"][name] = value
    return parts


def slow_probabilities(path, photo, dataset="custom"):
    """The short side to 256, the middle 224 x 224, normalised, through the whole network in float64."""
    state = torch.load(path, weights_only=True)["state_dict"]
    make = resnet50 if path.name == "whole_last.pth.tar" else slim_resnet50
    model = make(num_classes=3).double().eval()
    model.load_state_dict({**state["feature"], **state["classifier"]}, strict=False)
    with Image.open(photo) as image:
        scale = 256 / min(image.size)
        sides = [round(scale * side) if side != min(image.size) else 256 for side in image.size]
        left, top = ((side - 224) // 2 for side in sides)
        middle = image.convert("RGB").resize(sides, Image.Resampling.BILINEAR).crop((left, top, left + 224, top + 224))
    mean, std = map(np.array, STATISTICS[dataset])
    pixels = torch.from_numpy(((np.asarray(middle, dtype=np.float64) / 255 - mean) / std).transpose(2, 0, 1))
    with torch.no_grad():
        return model(pixels.unsqueeze(0))[0].softmax(0)


def read_table(path):
    if path.suffix == ".jsonl":
        rows = map(json.loads, path.read_text(encoding="utf-8").splitlines())
        return {row["path"]: [(each["name"], each["probability"]) for each in row["classes"]] for row in rows}
    with open(path, newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    return {row["path"]: [(row[f"class {k}"], float(row[f"probability {k}"])) for k in (1, 2, 3)] for row in rows}


@pytest.mark.parametrize(("ending", "which"), [("csv", "own"), pytest.param("jsonl", "whole", marks=pytest.mark.slow)])
def test_a_table_of_photographs(run_in, folder, ending, which):
    flags = ["--checkpoint_path", f"{which}_last.pth.tar", "--no-cuda", "--out", f"found.{ending}"]
    for _ in range(2):  # the second takes the place of the first
        result = run_in("predict.py", *flags, "photos", cwd=folder, RESNET50=which)
        assert (result.stdout, result.stderr) == (f"wrote found.{ending}: 3 images\n", "")
    table = read_table(folder / f"found.{ending}")
    assert list(table) == ["photos/a b.jpg", "photos/dä/c.png", "photos/dä/d.png"]
    found = []
    for file, best in table.items():
        wanted = slow_probabilities(folder / f"{which}_last.pth.tar", folder / file)
        assert [name for name, _ in best] == [NAMES[k] for k in wanted.argsort(descending=True)]
        for name, probability in best:
            assert probability == pytest.approx(float(wanted[NAMES.index(name)]), abs=1e-4)
        found.append(np.array([dict(best)[name] for name in NAMES]))
    assert min(abs(one - other).max() for i, one in enumerate(found) for other in found[:i]) > 1e-3  # the control


def test_lines_say_the_same_and_photographs_are_turned(run_in, folder):
    with Image.open(folder / "photos" / "dä" / "d.png") as image:
        exif = Image.Exif()
        exif[0x0112] = 6  # to be turned by 270 degrees
        image.transpose(Image.Transpose.ROTATE_90).save(folder / "turned.png", exif=exif)
    flags = ["predict.py", "--checkpoint_path", "own_last.pth.tar", "--no-cuda", "--top", "2"]
    lines = run_in(*flags, "photos/dä/d.png", "turned.png", cwd=folder).stdout.splitlines()
    wanted = slow_probabilities(folder / "own_last.pth.tar", folder / "photos" / "dä" / "d.png")
    best = "\t".join(f"{NAMES[k]} {100 * wanted[k]:.2f}" for k in wanted.argsort(descending=True)[:2])
    assert lines == [f"photos/dä/d.png\t{best}", f"turned.png\t{best}"]


def test_a_released_head_has_no_names_and_is_told_its_set(run_in, folder):
    flags = ["--checkpoint_path", "released.pth.tar", "--no-cuda", "--dataset", "iNaturalist18", "--out", "released.csv"]
    run_in("predict.py", *flags, "photos", cwd=folder)
    for file, best in read_table(folder / "released.csv").items():
        other, wanted = (slow_probabilities(folder / "released.pth.tar", folder / file, of) for of in STATISTICS)
        for name, probability in best:
            assert probability == pytest.approx(float(wanted[int(name.removeprefix("class "))]), abs=1e-4)
        assert float((wanted - other).abs().max()) > 1e-3  # the control


def test_bad_photographs_are_named_and_the_others_are_in_the_table(run_in, folder):
    (folder / "bad.jpg").write_text("no image")
    Image.new("RGB", (40000, 2)).save(folder / "thin.png")
    flags = ["--checkpoint_path", "own_last.pth.tar", "--no-cuda", "--out", "some.csv"]
    result = run_in("predict.py", *flags, "bad.jpg", "photos/a b.jpg", "thin.png", cwd=folder, status=1)
    bad, thin, last = result.stderr.splitlines()
    assert bad.startswith("bad.jpg (8 bytes) cannot be read as an image")
    assert thin.startswith("thin.png is absurdly thin (40000 x 2)")
    assert last == "predict.py: error: 2 of 3 images cannot be read, see above"
    assert result.stdout == "wrote some.csv: 1 image\n"
    assert list(read_table(folder / "some.csv")) == ["photos/a b.jpg"]


@pytest.mark.slow
def test_a_released_head_is_taken_for_one_of_the_set_with_so_many_classes(run_in, folder, tmp_path):
    state = torch.load(folder / "released.pth.tar", weights_only=True)
    torch.manual_seed(1)
    state["state_dict"]["classifier"] = {"fc.weight": torch.randn(8142, 2048), "fc.bias": torch.zeros(8142)}
    torch.save(state, tmp_path / "inat.pth.tar")
    for path, of, classes in (
        (folder / "released.pth.tar", "ImageNet_LT", 3),
        (tmp_path / "inat.pth.tar", "iNaturalist18", 8142),
    ):
        flags = ["--checkpoint_path", path, "--no-cuda", folder / "photos" / "a b.jpg"]
        plain, said = (run_in("predict.py", *flags, *more, cwd=folder) for more in ([], ["--dataset", of]))
        assert plain.stdout == said.stdout
        told = f"note: {path} does not say its data set: by its {classes} classes it is taken for {of}, see --dataset\n"
        assert (plain.stderr, said.stderr) == (told, "")
        other = "ImageNet_LT" if of == "iNaturalist18" else "iNaturalist18"
        assert run_in("predict.py", *flags, "--dataset", other, cwd=folder).stdout != plain.stdout


def test_a_table_stays_where_no_image_could_be_read(refused, folder, tmp_path):
    (tmp_path / "kept.csv").write_text("path,class 1,probability 1\na.jpg,owl,1\n")
    before = (tmp_path / "kept.csv").read_bytes()
    flags = ["--checkpoint_path", folder / "own_last.pth.tar", "--out", "kept.csv"]
    assert "phtos is missing" in refused("predict.py", *flags, "phtos")
    assert (tmp_path / "kept.csv").read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == ["kept.csv"]


def test_mistakes(refused, folder):
    own = torch.load(folder / "own_last.pth.tar", weights_only=True)
    weights = {name: value for part in own["state_dict"].values() for name, value in part.items()}
    torch.save({"state_dict": weights, "arch": "my:net", "cls_num_list": [9, 5, 2]}, folder / "small.pth.tar")
    torch.save({**own, "dataset": "cifar10"}, folder / "cifar.pth.tar")
    (folder / "notes.csv").write_text("precious,notes\n")
    own = ["--checkpoint_path", "own_last.pth.tar"]
    for flags, words in (
        ([*own, "--out", "found.txt"], "--out found.txt makes no sense: its name must end in .csv or .jsonl"),
        ([*own, "--out", "notes.csv"], "--out notes.csv is another file than a table of this command: name another"),
        ([*own, "--out", "gone/x.csv"], "gone/x.csv cannot be written"),
        ([*own, "--arch", "resnet32"], "own_last.pth.tar holds a head of a ResNet-50: leave --arch out"),
        ([*own, "--dataset", "ImageNet_LT"], "was trained with --dataset custom, not ImageNet_LT: leave the flag out"),
        (["--checkpoint_path", "small.pth.tar"], "small.pth.tar holds the network my:net: give --arch my:net"),
        (["--checkpoint_path", "cifar.pth.tar"], "cifar.pth.tar cannot be used: it says that its data set is cifar10"),
        (["--checkpoint_path", "own_resume.pth.tar"], "take the one that ends in _last or _ckpt.pth.tar"),
    ):
        assert words in refused("predict.py", *flags, "photos", cwd=folder)
    assert (folder / "notes.csv").read_text() == "precious,notes\n"
