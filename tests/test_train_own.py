"""train_own.py: heads of any network for one's own images, or for features that one has."""

import csv
import json
from collections import Counter

import numpy as np
import pytest
import torch
from PIL import Image
from support.compare import distance
from support.own import BACKBONE, COUNTS, FLAGS, network, saved, write_features, write_photos
from support.ranks import together
from torch.nn import functional as F

from data_utils import TRAIN_STREAM, seeded

OURS = "checkpoint/ours/own"
MEAN, STD = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with photos, among odd files, and a network; and a run `head` on them."""
    made = tmp_path_factory.mktemp("own")
    write_photos(made)
    (made / "photos" / "cat" / "notes.txt").write_text("x")
    (made / "photos" / "cat" / "live.heic").write_bytes(b"x")
    (made / "photos" / ".hidden").mkdir()
    return made


@pytest.fixture(scope="module")
def train(run_in, folder):
    def call(*more, **settings):
        return run_in("train_own.py", *FLAGS, *more, cwd=folder, **settings).stdout

    return call


@pytest.fixture(scope="module")
def first(train):
    """What the run `head` printed."""
    return train()


def summary(folder, name="head"):
    return json.loads((folder / OURS / f"{name}_summary.json").read_text(encoding="utf-8"))


def prepared(file):
    """An image as the network takes it: the short side 36 pixels, of which the middle 32, normalised."""
    image = Image.open(file).convert("RGB")
    short = min(image.size)
    image = image.resize([int(36 * side / short) for side in image.size], Image.Resampling.BILINEAR)
    left, top = (round((side - 32) / 2) for side in image.size)
    pixels = torch.from_numpy(np.array(image.crop((left, top, left + 32, top + 32)))).float() / 255
    return ((pixels - MEAN) / STD).permute(2, 0, 1)


def test_from_a_folder_of_photographs_to_a_table_of_predictions(first, run_in, folder):
    assert "own, 4 classes, head of my_network:make, on cpu, 1 process" in first
    assert "train 19  meta 8  test 7  (9 to 2 training images a class)" in first  # a fifth of each class is tested
    assert "photos: files left out: 1 in a format that cannot be read here" in first
    assert "from epoch 2: MetaSAug, --meta_update relative" in first
    lists = [(folder / OURS / f"head_{part}.txt").read_text(encoding="utf-8").splitlines() for part in ("train", "val")]
    assert Counter(line.split("/")[0] for line in lists[1]) == {name: round(n / 5) for name, n in COUNTS.items()}
    assert len({line.rsplit(" ", 1)[0] for part in lists for line in part}) == sum(COUNTS.values())

    images = sorted((folder / "photos").glob("*/1 ö.png"))
    path = folder / OURS / "head_last.pth.tar"
    run_in("predict.py", "--arch", BACKBONE, "--checkpoint_path", path, *images, "--out", "p.csv", "--no-cuda", cwd=folder)
    state = saved(path)
    whole = network(len(COUNTS))  # its own names are those of the checkpoint
    whole.load_state_dict(state["state_dict"])
    with torch.no_grad():
        expected = whole(torch.stack([prepared(file) for file in images])).softmax(dim=1)
    assert state["class_names"] == sorted(COUNTS)
    with open(folder / "p.csv", encoding="utf-8", newline="") as file:
        for row, chances in zip(csv.DictReader(file), expected, strict=True):
            found = {row[f"class {k}"]: float(row[f"probability {k}"]) for k in range(1, 5)}
            assert [found[name] for name in state["class_names"]] == pytest.approx(chances.tolist(), abs=1e-5)


def test_features_are_computed_once_for_all_ways_of_training(first, train, folder):
    cache = sorted(folder.joinpath("feature_cache").iterdir())
    for number, more in enumerate((["--stage2", "isda", "--seed", "7"], ["--val_seed", "3", "--select_on", "heldout"],
                                   ["--meta_images", "train", "--stage2", "reweight", "--balance", "prior"])):  # fmt: skip
        out = train("--save_name", f"other{number}", *more)
        assert out.count("read from") == 1
        assert "left" not in out.partition("epoch 0")[0].replace("files left out", "")
    assert sorted(folder.joinpath("feature_cache").iterdir()) == cache
    out = train("--save_name", "viewed", "--views", "2")
    assert out.count("read from") == 1
    assert len(list(folder.joinpath("feature_cache").glob("augmented_[01]_*.f16"))) == 2


def test_lists_that_were_drawn_can_be_given_again(first, train, folder):
    lists = ["--train_list", f"{OURS}/head_train.txt", "--val_list", f"{OURS}/head_val.txt"]
    train("--save_name", "listed", *lists)
    weights = [saved(folder / OURS / f"{name}_last.pth.tar")["state_dict"] for name in ("head", "listed")]
    assert distance(*weights) == 0
    train("--save_name", "drawn", "--val_seed", "1")
    assert distance(weights[0], saved(folder / OURS / "drawn_last.pth.tar")["state_dict"]) > 1e-3


def test_two_processes_train_as_one(first, start, folder):
    flags = [*FLAGS, "--batch_size", "4", "--save_name", "two"]
    for status, out, err in together(start, 2, "train_own.py", *flags, cwd=folder):
        assert status == 0, out + err
    one, two = (saved(folder / OURS / f"{name}_last.pth.tar")["state_dict"] for name in ("head", "two"))
    assert distance(two, one) < 1e-6


def test_an_interrupted_run_ends_as_an_uninterrupted_one(first, train, run_in, folder):
    """Stopped in stage 1 and in stage 2, which have another rate."""
    result = run_in("train_own.py", *FLAGS, "--save_name", "cut", cwd=folder, status=143, STOP_AT="2", STOP_BY="15")
    assert "in epoch 0 after step 2; to go on, give the same command with --resume auto" in result.stderr
    train("--save_name", "cut", "--resume", "auto", status=143, STOP_AT="5", STOP_BY="15")
    assert "going on in epoch 2 after step 1" in train("--save_name", "cut", "--resume", "auto")
    for kind in ("last", "ckpt"):
        whole, cut = (saved(folder / OURS / f"{name}_{kind}.pth.tar") for name in ("head", "cut"))
        for name, tensor in whole["state_dict"].items():
            assert torch.equal(tensor, cut["state_dict"][name])
        assert whole["backbone"] == cut["backbone"]
    assert "is finished" in train("--save_name", "cut", "--resume", "auto")


def test_a_folder_val_beside_a_folder_test_is_chosen_on(run, tmp_path):
    write_photos(tmp_path)
    root = tmp_path / "split"
    for path in sorted((tmp_path / "photos").glob("*/*")):
        number = int(path.name.split()[0])
        part = ("val", "test", "train")[min(number, 2)]
        (root / part / path.parent.name).mkdir(parents=True, exist_ok=True)
        path.rename(root / part / path.parent.name / path.name)
    flags = [*FLAGS[2:], "--data_root", "split", "--epochs", "1", "--num_meta", "1"]
    out = run("train_own.py", *flags).stdout
    assert "train 21  meta 4  test 4 " in out
    assert "4 of split/val are not used: --select_on heldout chooses on them" in out
    out = run("train_own.py", *flags, "--select_on", "heldout", "--save_name", "b").stdout
    assert "train 21  meta 4  test 4  held out 4 " in out


def reference(features, target, epochs, drop, lr, batch_size, seed):
    """The head of plain cross-entropy on features that are scaled to mean zero and mean variance one, in float64."""
    z, y = torch.from_numpy(features).double(), torch.from_numpy(target)
    z = z - z.mean(dim=0)
    z = z / z.square().mean().sqrt()
    torch.manual_seed(seed)
    head = torch.nn.Linear(z.shape[1], int(y.max()) + 1).double()
    optimizer = torch.optim.SGD(head.parameters(), lr, momentum=0.9, nesterov=True, weight_decay=5e-4)
    for epoch in range(epochs):
        optimizer.param_groups[0]["lr"] = lr / 10 if epoch >= drop else lr
        for index in torch.randperm(len(y), generator=seeded(seed, TRAIN_STREAM, epoch)).split(batch_size):
            optimizer.zero_grad()
            F.cross_entropy(head(z[index]), y[index]).backward()
            optimizer.step()
    return head


@pytest.mark.parametrize("tau", [0, 1])
def test_features_of_a_file_are_trained_by_the_recipe(run, tmp_path, tau):
    """The saved head takes features as they are; with --logit_adjust its bias has the log prior taken off."""
    counts = [30, 12, 5]
    meta = np.random.default_rng(5).permutation(sum(counts))[:9]
    split = np.array(["train"] * sum(counts) + ["val"] * 18)
    split[meta] = "meta"
    split[[0, 30, 42]] = "meta"  # one of each class at least
    arrays = write_features(tmp_path / "f.npz", counts)
    arrays["features"] += 3 * arrays["features"][:1]  # a mean that is not zero
    np.savez(tmp_path / "f.npz", **{**arrays, "split": split, "class_names": np.array(["a", "b", "ü"])})
    flags = ["--features", "f.npz", "--no-cuda", "--epochs", "6", "--batch_size", "7", "--seed", "4", "--stage2", "none",
             "--lr", "0.05", "--logit_adjust", tau]  # fmt: skip
    out = run("train_own.py", *flags).stdout
    state = saved(tmp_path / OURS / "head_last.pth.tar")
    train, test = split == "train", split == "val"
    assert "head of the 12 features in f.npz" in out
    assert (state["class_names"], state["cls_num_list"]) == (["a", "b", "ü"], np.bincount(arrays["labels"][train]).tolist())
    z, y = arrays["features"][train], arrays["labels"][train]
    head = reference(z, y, 6, 4, 0.05, 7, 4)
    mean, factor = z.mean(axis=0, dtype=np.float64), np.sqrt(np.square(z - z.mean(axis=0, dtype=np.float64)).mean())
    rows = torch.from_numpy((arrays["features"][test] - mean) / factor)
    logits = head(rows).detach() - tau * torch.tensor(np.bincount(y) / len(y)).log()
    kept = state["state_dict"]
    own = torch.from_numpy(arrays["features"][test]) @ kept["fc.weight"].T + kept["fc.bias"]
    torch.testing.assert_close(own.double(), logits, rtol=1e-4, atol=1e-4)
    right = 100 * float((logits.argmax(dim=1).numpy() == arrays["labels"][test]).mean())
    assert summary(tmp_path)["last"]["acc1"] == pytest.approx(right)
    assert not (tmp_path / "feature_cache").exists()


def test_images_and_the_file_of_their_features_give_the_same_head(first, run_in, folder):
    """The rows of the file are in the order of the lists that the run drew."""
    paths, labels, split = [], [], []
    for part in ("train", "val"):
        for line in (folder / OURS / f"head_{part}.txt").read_text(encoding="utf-8").splitlines():
            path, label = line.rsplit(" ", 1)
            paths, labels, split = [*paths, path], [*labels, int(label)], [*split, part]
    backbone = network(5)[:4]
    with torch.no_grad():
        features = backbone(torch.stack([prepared(folder / "photos" / path) for path in paths]))
    np.savez(folder / "own.npz", features=features.half().numpy(), labels=labels, split=split, paths=paths)
    flags = ["--features", "own.npz", *FLAGS[6:], "--save_name", "rows"]
    run_in("train_own.py", *flags, cwd=folder)
    whole, rows = (saved(folder / OURS / f"{name}_last.pth.tar") for name in ("head", "rows"))
    for key in ("weight", "bias"):
        torch.testing.assert_close(rows["state_dict"][f"fc.{key}"], whole["state_dict"][f"4.{key}"], rtol=1e-3, atol=1e-3)
    assert rows["backbone"] is None
    assert whole["backbone"]["name"] == BACKBONE


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ([], "nothing to train on: give --data_root, a folder with a folder for each class, or --features"),
        (["--data_root", "photos", "--features", "f.npz"], "--features and --data_root do not go together"),
        (["--features", "f.npz", "--backbone", "resnet18"], "--features and --backbone do not go together"),
        (["--data_root", "photos", "--val_features", "f.npz"], "--val_features goes with --features"),
        (["--data_root", "photos", "--mean", "0.5,0.5"], "--mean 0.5,0.5 makes no sense: it must be three numbers"),
        (["--data_root", "photos", "--lr_drop", "0"], "--lr_drop 0.0 makes no sense: it must be above 0 and at most 1"),
        (["--data_root", "photos", "--views", "-1"], "--views -1 makes no sense"),
        (["--data_root", "photos", "--meta_start", "-1"], "--meta_start -1 makes no sense"),
        (["--data_root", "photos", "--idx", "../x"], "--idx '../x' makes no sense"),
        (["--data_root", "photos", "--backbone", "my_network:nothing"], "'my_network:nothing' cannot be imported"),
        (["--data_root", "photos", "--pretrained", "no.pth"], "there is no file no.pth"),
        (["--data_root", "nowhere"], "nowhere"),
        (["--features", "nowhere.npz"], "nowhere.npz"),
    ],
)
def test_flags_that_make_no_sense_end_in_one_line(refused, tmp_path, flags, words):
    write_photos(tmp_path)
    assert words in refused("train_own.py", *flags, "--no-cuda")
    assert not (tmp_path / "feature_cache").exists()


def test_rows_of_features_are_predicted(run, refused, tmp_path):
    """By a head of features alone, and by one that has its network beside, which takes images too."""
    arrays = write_features(tmp_path / "f.npz", [30, 12, 5], class_names=np.array(["a", "b", "ü"]))
    run("train_own.py", "--features", "f.npz", "--no-cuda", "--epochs", "1")
    path = f"{OURS}/head_last.pth.tar"
    names = np.array([f"row ä{i}" for i in range(5)])
    np.savez(tmp_path / "new.npz", features=arrays["features"][:5], names=names)
    out = run("predict.py", "--checkpoint_path", path, "new.npz", "f.npz", "--out", "p.jsonl", "--top", 3).stdout
    assert "wrote p.jsonl: 70 rows of features" in out
    lines = [json.loads(line) for line in (tmp_path / "p.jsonl").read_text(encoding="utf-8").splitlines()]
    assert [line["path"] for line in lines[:6]] == [*names, "f.npz row 0"]
    kept = saved(tmp_path / path)["state_dict"]
    rows = torch.from_numpy(arrays["features"])
    for line, chances in zip(lines[5:], (rows @ kept["fc.weight"].T + kept["fc.bias"]).softmax(dim=1), strict=True):
        found = {one["name"]: one["probability"] for one in line["classes"]}
        assert [found[name] for name in ("a", "b", "ü")] == pytest.approx(chances.tolist(), abs=1e-5)
    write_photos(tmp_path)
    line = refused("predict.py", "--checkpoint_path", path, "photos")
    assert "was trained on features of a file, not on images" in line
    np.savez(tmp_path / "other.npz", features=arrays["features"][:, 1:])
    assert "has 11 features a row, the network takes 12 features a row" in refused(
        "predict.py", "--checkpoint_path", path, "other.npz"
    )
    run("train_own.py", *FLAGS, "--epochs", "1", "--save_name", "both")
    np.savez(tmp_path / "own.npz", features=np.ones((2, 24), np.float32))
    flags = ["--arch", BACKBONE, "--checkpoint_path", f"{OURS}/both_last.pth.tar", "--out", "q.csv"]
    out = run("predict.py", *flags, "own.npz", "photos/cat").stdout
    assert "wrote q.csv: 9 images and 2 rows of features" in out


@pytest.mark.parametrize("given", ["uniform", "train"])
def test_probabilities_follow_the_prior_where_the_log_prior_is_subtracted(run, tmp_path, given):
    """Such a head is taken to be for equally frequent classes, as others that make up for the tail."""
    write_features(tmp_path / "f.npz", [30, 12, 6])
    run("train_own.py", "--features", "f.npz", "--no-cuda", "--epochs", "1", "--stage2", "none", "--logit_adjust", "1")
    flags = ["--checkpoint_path", f"{OURS}/head_last.pth.tar", "f.npz", "--top", "3"]
    run("predict.py", *flags, "--out", "p.csv", "--prior", given)
    run("predict.py", *flags, "--out", "q.csv")
    counts = saved(tmp_path / OURS / "head_last.pth.tar")["cls_num_list"]
    tables = []
    for name in ("p.csv", "q.csv"):
        with open(tmp_path / name, encoding="utf-8", newline="") as file:
            rows = list(csv.DictReader(file))
        tables.append([{row[f"class {k}"]: float(row[f"probability {k}"]) for k in (1, 2, 3)} for row in rows])
    for shifted, plain in zip(*tables, strict=True):
        weights = [plain[str(k)] * (counts[k] if given == "train" else 1) for k in range(3)]
        assert [shifted[str(k)] for k in range(3)] == pytest.approx([w / sum(weights) for w in weights], abs=1e-4)
