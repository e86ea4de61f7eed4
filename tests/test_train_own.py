"""train_own.py: heads of any network for one's own images, or for features that one has."""

import csv
import json
from collections import Counter
from functools import cache
from signal import SIGKILL, SIGTERM

import numpy as np
import pytest
import torch
from PIL import Image
from support.compare import distance
from support.defined_heads import by_definition
from support.own import BACKBONE, COUNTS, FLAGS, network, saved, write_features, write_photos
from support.ranks import together
from torch.nn import functional as F

from data_utils import TRAIN_STREAM, seeded

OURS = "checkpoint/ours/own"
TAIL = [40, 14, 5]
ROWS = ["--features", "f.npz", "--no-cuda"]
MEAN, STD = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with photos, among odd files, and a network; and a run `head` on them."""
    made = tmp_path_factory.mktemp("own")
    write_photos(made)
    (made / "photos" / "cat" / "notes.txt").write_text("x")
    (made / "photos" / "cat" / "plan.pdf").write_bytes(b"x")
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
    assert "train 25  meta 5  test 7  (11 to 2 training images a class)" in first  # a fifth of each class is tested
    assert "photos: files left out: 1 .pdf" in first
    assert "from epoch 2: MetaSAug, --meta_update relative" in first
    lists = [(folder / OURS / f"head_{part}.txt").read_text(encoding="utf-8").splitlines() for part in ("train", "val")]
    assert Counter(line.split("/")[0] for line in lists[1]) == {name: round(n / 5) for name, n in COUNTS.items()}
    assert len({line.rsplit(" ", 1)[0] for part in lists for line in part}) == sum(COUNTS.values())

    images = sorted((folder / "photos").glob("*/1 ö.png"))
    path = folder / OURS / "head_last.pth.tar"
    run_in("predict.py", "--arch", BACKBONE, "--checkpoint_path", path, *images, "--out", "p.csv", "--no-cuda", cwd=folder)
    state = saved(path)
    head = state["state_dict"]
    with torch.no_grad():
        features = network(5)[:4](torch.stack([prepared(file) for file in images]))
        expected = (features @ head["fc.weight"].T + head["fc.bias"]).softmax(dim=1)
    assert state["class_names"] == sorted(COUNTS)
    with open(folder / "p.csv", encoding="utf-8", newline="") as file:
        for row, chances in zip(csv.DictReader(file), expected, strict=True):
            found = {row[f"class {k}"]: float(row[f"probability {k}"]) for k in range(1, 5)}
            assert [found[name] for name in state["class_names"]] == pytest.approx(chances.tolist(), abs=6e-5)


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
    assert len(list(folder.joinpath("feature_cache").glob("augmented_[01]_*/*.f16"))) == 2


def test_scores_of_images_that_are_prepared_otherwise_are_others(run, tmp_path):
    write_photos(tmp_path)
    for size in ("32", "32", "40"):
        flags = [*FLAGS[:4], "--image_size", size, *FLAGS[6:9], "--way", "nearest_mean", "--save_name", f"of{size}"]
        run("train_own.py", *flags)
        scores = len(list(tmp_path.joinpath(OURS, "folds").glob("*.npz")))
        assert scores == {"32": 4, "40": 8}[size]  # as they are, and three transforms


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
    assert "in epoch 0 after step 2; to resume, give the same command with --resume auto" in result.stderr
    train("--save_name", "cut", "--resume", "auto", status=143, STOP_AT="7", STOP_BY="15")
    assert "going on in epoch 2 after step 1" in train("--save_name", "cut", "--resume", "auto")
    for kind in ("last", "ckpt"):
        whole, cut = (saved(folder / OURS / f"{name}_{kind}.pth.tar") for name in ("head", "cut"))
        for name, tensor in whole["state_dict"].items():
            assert torch.equal(tensor, cut["state_dict"][name])
        assert whole["backbone"] == cut["backbone"]
    assert "is finished" in train("--save_name", "cut", "--resume", "auto")


def test_a_folder_val_beside_a_folder_test_is_trained_on_or_chosen_on(run, tmp_path):
    write_photos(tmp_path)
    root = tmp_path / "split"
    for path in sorted((tmp_path / "photos").glob("*/*")):
        number = int(path.name.split()[0])
        part = ("val", "test", "train")[min(number, 2)]
        (root / part / path.parent.name).mkdir(parents=True, exist_ok=True)
        path.rename(root / part / path.parent.name / path.name)
    flags = [*FLAGS[2:], "--data_root", "split", "--epochs", "1", "--num_meta", "1"]
    out = run("train_own.py", *flags).stdout
    assert "train 28  meta 4  test 4 " in out
    assert "the 4 images of split/val are trained on too: --select_on heldout keeps them" in out
    out = run("train_own.py", *flags, "--select_on", "heldout", "--save_name", "b").stdout
    assert "train 24  meta 4  test 4  held out 4 " in out


def sgd_head(scaled, target, epochs, drop, lr, batch_size, seed):
    """The head of plain cross-entropy on scaled features, in float64."""
    z, y = torch.from_numpy(scaled), torch.from_numpy(target)
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


@pytest.mark.parametrize(("tau", "more"), [(0, ["--meta_images", "apart"]), (1, [])])
def test_features_of_a_file_are_trained_by_the_recipe(run, tmp_path, tau, more):
    """The saved head takes features as they are; with --logit_adjust its bias has the log prior taken off.

    Rows for meta batches are trained on as well, after the others, unless they are to be apart.
    """
    counts = [30, 12, 5]
    meta = np.random.default_rng(5).permutation(sum(counts))[:9]
    split = np.array(["train"] * sum(counts) + ["val"] * 18)
    split[meta] = "meta"
    split[[0, 30, 42]] = "meta"  # one of each class at least
    arrays = write_features(tmp_path / "f.npz", counts)
    arrays["features"] += 3 * arrays["features"][:1]  # a mean that is not zero
    np.savez(tmp_path / "f.npz", **{**arrays, "split": split, "class_names": np.array(["a", "b", "ü"])})
    flags = ["--features", "f.npz", "--no-cuda", "--epochs", "6", "--batch_size", "7", "--seed", "4", "--stage2", "none",
             "--lr", "0.05", "--logit_adjust", tau, *more]  # fmt: skip
    out = run("train_own.py", *flags).stdout
    state = saved(tmp_path / OURS / "head_last.pth.tar")
    train, test = split == "train", split == "val"
    assert "head of the 12 features in f.npz" in out
    assert (state["class_names"], state["cls_num_list"]) == (["a", "b", "ü"], np.bincount(arrays["labels"][train]).tolist())
    trained = np.concatenate([np.flatnonzero(train), np.flatnonzero((split == "meta") & (not more))])
    z, y = arrays["features"].astype(np.float64), arrays["labels"][trained]
    z = z - z[train].mean(axis=0)
    z /= np.sqrt(np.square(z[train]).mean())
    head = sgd_head(z[trained], y, 6, 4, 0.05, 7, 4)
    logits = head(torch.from_numpy(z[test])).detach() - tau * torch.tensor(np.bincount(y) / len(y)).log()
    kept = state["state_dict"]
    own = torch.from_numpy(arrays["features"][test]) @ kept["fc.weight"].T + kept["fc.bias"]
    torch.testing.assert_close(own.double(), logits, rtol=1e-4, atol=1e-4)
    right = 100 * float((logits.argmax(dim=1).numpy() == arrays["labels"][test]).mean())
    assert summary(tmp_path)["last"]["acc1"] == pytest.approx(right)
    assert not [*tmp_path.rglob("feature_cache"), *tmp_path.rglob("*_mistakes.json")]


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
        torch.testing.assert_close(rows["state_dict"][f"fc.{key}"], whole["state_dict"][f"fc.{key}"], rtol=1e-3, atol=1e-3)
    assert rows["backbone"] is None
    assert whole["backbone"]["name"] == BACKBONE


@pytest.mark.parametrize(
    "flags",
    [
        ["--epochs", "1", "--stage2", "none", "--logit_adjust", "1"],
        [],
        ["--way", "balanced"],
        ["--way", "nearest_mean"],
        ["--way", "lda"],
    ],
)
def test_probabilities_follow_the_prior_of_heads_that_make_up_for_the_tail(run_in, tmp_path, flags):
    """Those with the log prior subtracted are taken to be for equally frequent classes, and so are the others."""
    write_features(tmp_path / "f.npz", [30, 12, 6])
    run_in("train_own.py", *ROWS, *flags, cwd=tmp_path)
    tables = {}
    for name, prior in (("plain", []), ("uniform", ["--prior", "uniform"]), ("train", ["--prior", "train"])):
        tables[name] = np.array(list(predicted(run_in, tmp_path, "f.npz", *prior).values()))
    np.testing.assert_allclose(tables["uniform"], tables["plain"], atol=1.1e-4)
    weighted = tables["plain"] * saved(tmp_path / OURS / "head_last.pth.tar")["cls_num_list"]
    np.testing.assert_allclose(tables["train"], weighted / weighted.sum(axis=1, keepdims=True), atol=1e-3)


# The ways of --way, each at the constants that its run's summary names.


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    """A folder with a file of features that are not negative, and what the file holds."""
    made = tmp_path_factory.mktemp("ways")
    arrays = write_features(made / "f.npz", TAIL, val=8, spread=1.2)
    arrays["features"] = np.abs(arrays["features"] + [3, *[0.3] * 10, 30]).astype(np.float32)
    np.savez(made / "f.npz", **arrays)
    return made, arrays


@pytest.fixture(scope="module")
def made(run_in, table):
    """Train on that file, each command once; return what was printed."""

    @cache
    def call(name, *flags):
        return run_in("train_own.py", *ROWS, *flags, "--save_name", name, cwd=table[0]).stdout

    return call


def constants(folder, name="head"):
    """What folds choose, by flag."""
    flags = summary(folder, name)["flags"]
    return {key: flags[key] for key in ("transform", "C", "lam", "meta_step_size", "lr")}


def weights(folder, name="head"):
    return saved(folder / OURS / f"{name}_last.pth.tar")["state_dict"]


def predicted(run_in, folder, *images, path=f"{OURS}/head_last.pth.tar"):
    """The probabilities (C,) that predict.py says of each example, by name, the classes in their order."""
    run_in("predict.py", "--checkpoint_path", path, *images, "--out", "all.csv", "--top", "9", "--no-cuda", cwd=folder)
    names = list(map(str, saved(folder / path)["class_names"]))
    with open(folder / "all.csv", encoding="utf-8", newline="") as file:
        found = {row[0]: dict(zip(row[1:-1:2], map(float, row[2:-1:2]), strict=True)) for row in list(csv.reader(file))[1:]}
    return {name: [chances[one] for one in names] for name, chances in found.items()}


STILL = ["--lr", "1e-12", "--epochs", "1"]  # steps that leave MetaSAug where it begins


@pytest.mark.parametrize(
    ("way", "more"),
    [
        ("logistic", []),
        ("logistic", ["--transform", "unit"]),
        ("logistic", ["--transform", "sqrt", "--C", "30"]),
        ("logistic", ["--transform", "standard", "--C", "0.5"]),
        ("balanced", []),
        ("balanced", ["--transform", "unit", "--C", "3"]),
        ("nearest_mean", []),
        ("nearest_mean", ["--transform", "standard"]),
        ("lda", []),
        ("lda", ["--transform", "sqrt"]),
        ("isda", []),
        ("isda", ["--transform", "sqrt", "--C", "3", "--lam", "2"]),
        ("metasaug", STILL),
        ("metasaug", [*STILL, "--transform", "standard", "--C", "3", "--lam", "1", "--meta_step_size", "0.5"]),
    ],
)
def test_the_head_of_a_way_is_what_it_is_by_definition(made, run_in, table, way, more):
    """All training rows have their part; MetaSAug begins where ISDA ends."""
    folder, arrays = table
    name = f"{way}_{'_'.join(more).replace('-', '')}" if more else "default" if way == "logistic" else way
    made(name, *(["--way", way] if name != "default" else []), *more)
    told, state = summary(folder, name), saved(folder / OURS / f"{name}_last.pth.tar")
    assert (state["cls_num_list"], told["flags"]["way"]) == (TAIL, way)
    for flag, value in zip(more[::2], more[1::2], strict=True):
        assert str(told["flags"][flag[2:]]).removesuffix(".0") == value
    train = arrays["split"] == "train"
    logits = by_definition(way, told["flags"], arrays["features"], arrays["labels"], train)
    chances = np.array(list(predicted(run_in, folder, "f.npz", path=f"{OURS}/{name}_last.pth.tar").values()))
    np.testing.assert_allclose(chances, logits.softmax(dim=1), atol=2e-3)
    right = chances.argmax(axis=1) == arrays["labels"]
    assert told["last"]["acc1"] == pytest.approx(100 * right[~train].mean())
    assert 100 / len(TAIL) < told["last"]["acc1"]


def test_rows_for_tests_choose_nothing(made, run_in, table, tmp_path):
    made("default")
    folder, arrays = table
    generator = np.random.default_rng(1)
    test = arrays["split"] == "val"
    features = np.where(test[:, None], generator.normal(0, 9, arrays["features"].shape), arrays["features"])
    np.savez(tmp_path / "f.npz", **{**arrays, "features": features.astype(np.float32)})
    run_in("train_own.py", *ROWS, cwd=tmp_path)
    assert distance(weights(tmp_path), weights(folder, "default")) == 0
    assert constants(tmp_path) == constants(folder, "default")
    assert summary(tmp_path)["last"]["acc1"] != summary(folder, "default")["last"]["acc1"]


@pytest.mark.parametrize(
    ("flags", "sets", "counts"),
    [
        (["--way", "metasaug", "--epochs", "1"], "train 59  meta 11 ", [40, 14, 5]),  # a fifth of a class, one at least
        (["--way", "metasaug", "--epochs", "1", "--num_meta", "2"], "train 59  meta 5 ", [40, 14, 5]),
        (["--stage2", "metasaug", "--meta_images", "apart", "--num_meta", "2"], "train 53  meta 6 ", [38, 12, 3]),
        (["--stage2", "none"], "train 59  meta 0 ", [40, 14, 5]),
    ],
)
def test_meta_rows_are_trained_on_unless_they_are_to_be_apart(made, table, flags, sets, counts):
    name = f"meta{len(flags)}{flags[1]}"
    assert sets in made(name, *flags)
    assert saved(table[0] / OURS / f"{name}_last.pth.tar")["cls_num_list"] == counts


STEPS = ["--way", "metasaug", "--epochs", "2", "--batch_size", "8"]


def test_steps_are_the_same_with_constants_that_are_given(made, table):
    """Those that the folds chose are in the summary. Where the steps are others the folds are scored anew."""
    folder = table[0]
    made("steps", *STEPS)
    made("given", *STEPS, *(word for key, value in constants(folder, "steps").items() for word in (f"--{key}", value)))
    assert distance(weights(folder, "given"), weights(folder, "steps")) == 0
    for number, more in enumerate((["--epochs", "3"], ["--batch_size", "16"], ["--num_meta", "1"])):
        before = scores(folder)
        made(f"others{number}", *STEPS, *more)
        assert scores(folder).items() > before.items()


def test_all_images_are_trained_on_where_none_is_to_be_tested(run, refused, tmp_path):
    """The head is that of a file whose training rows are the same; of several epochs the last one counts as the best."""
    rng = np.random.default_rng(0)
    features, labels = rng.normal(size=(60, 5)).astype(np.float32), np.repeat([0, 1, 2], [40, 14, 6])
    np.savez(tmp_path / "all.npz", features=features, labels=labels)
    more = {"features": np.vstack([features, features[:3] + 1]), "labels": np.append(labels, [0, 1, 2])}
    np.savez(tmp_path / "f.npz", **more, split=["train"] * 60 + ["val"] * 3)
    way = ["--way", "logistic", "--C", "1", "--transform", "none", "--no-cuda"]
    run("train_own.py", "--features", "f.npz", *way, "--save_name", "split")
    everything = ["--features", "all.npz", "--val_fraction", "0"]
    out = run("train_own.py", *everything, *way, "--save_name", "all").stdout
    assert "train 60  meta 0  test 0" in out
    assert "no test images" in out
    assert "to make its report" not in out
    assert summary(tmp_path, "all")["last"]["acc1"] is None
    assert distance(weights(tmp_path, "all"), weights(tmp_path, "split")) == 0
    steps = [*everything, "--no-cuda", "--way", "recipe", "--save_name", "steps", "--epochs"]
    for epochs in (3, 4):  # the second goes on with the first
        run("train_own.py", *steps, epochs, "--resume", "auto")
        states = [saved(tmp_path / OURS / f"steps_{kind}.pth.tar") for kind in ("ckpt", "last")]
        assert [(state["epoch"], state["best_acc1"]) for state in states] == [(epochs, -1)] * 2
    assert run("predict.py", "--checkpoint_path", f"{OURS}/all_last.pth.tar", "all.npz").stdout.count("\n") == 60
    assert "a run that tested nothing" in refused("report.py", f"{OURS}/all_summary.json")
    assert "--val_fraction 0 " in refused("scripts/compare_own.py", *everything, "--no-cuda")


def scores(folder):
    """When each score of the folds was written, by file."""
    return {path.name: path.stat().st_mtime_ns for path in folder.joinpath(OURS, "folds").glob("*.npz")}


@pytest.mark.parametrize("number", [SIGTERM, SIGKILL])
def test_a_run_that_is_killed_amid_the_folds_goes_on(made, run_in, table, tmp_path, number):
    """As it scores the third constants it dies; what is scored is not scored again."""
    made("default")
    (tmp_path / "f.npz").symlink_to(table[0] / "f.npz")
    flags = [*ROWS, "--resume", "auto"]
    fault = f"open ????????????????.lock 3 {number.name}"
    result = run_in("train_own.py", *flags, cwd=tmp_path, status=128 + number, FAULT=fault)
    if number == SIGTERM:
        assert "choosing hyperparameters; finished work is kept; to resume, give the same command again" in result.stderr
    before = scores(tmp_path)
    assert len(before) == 2
    run_in("train_own.py", *flags, cwd=tmp_path)
    assert scores(tmp_path).items() > before.items()
    assert distance(weights(tmp_path), weights(table[0], "default")) == 0
    before = scores(tmp_path)
    assert "is finished" in run_in("train_own.py", *flags, cwd=tmp_path).stdout
    assert scores(tmp_path) == before


def test_metasaug_that_is_stopped_between_steps_ends_as_if_it_had_not_been(made, run_in, table):
    folder = table[0]
    made("steps", *STEPS)  # whose folds are those of the next
    flags = [*ROWS, *STEPS, "--save_name", "cut", "--resume", "auto"]
    run_in("train_own.py", *flags, cwd=folder, status=143, STOP_AT="11", STOP_BY="15")
    assert "going on in epoch 1 after step 3" in run_in("train_own.py", *flags, cwd=folder).stdout
    assert distance(weights(folder, "cut"), weights(folder, "steps")) == 0


@pytest.mark.parametrize("flags", [[], [*STEPS[:-1], "4"]])
def test_two_processes_make_the_head_of_one(made, start, table, tmp_path, flags):
    """The folds too, which they share."""
    name = "steps" if flags else "default"
    made(name, *(STEPS if flags else []))
    (tmp_path / "f.npz").symlink_to(table[0] / "f.npz")
    for status, out, err in together(start, 2, "train_own.py", *ROWS, *flags):
        assert status == 0, out + err
    assert distance(weights(tmp_path), weights(table[0], name)) < 1e-6
    assert constants(tmp_path) == constants(table[0], name)


def test_a_transform_is_part_of_the_network_that_is_saved_and_exported(first, run_in, folder):
    """Photographs through the small network, square roots of its features, a head; the same in ONNX."""
    flags = [*FLAGS[:9], "--transform", "sqrt", "--save_name", "root"]
    run_in("train_own.py", *flags, cwd=folder)
    path = f"{OURS}/root_last.pth.tar"
    images = [f"photos/{name}/1 ö.png" for name in COUNTS]
    found = predicted(run_in, folder, *images, "--arch", BACKBONE, "--export", "onnx", path=path)
    state = saved(folder / path)
    assert state["transform"] == "sqrt"
    with torch.no_grad():
        features = network(5)[:4](torch.stack([prepared(folder / image) for image in found]))
        logits = features.sqrt() @ state["state_dict"]["fc.weight"].T + state["state_dict"]["fc.bias"]
    np.testing.assert_allclose(list(found.values()), logits.softmax(dim=1), atol=6e-5)
    session = pytest.importorskip("onnxruntime").InferenceSession(folder / path.replace(".pth.tar", ".onnx"))
    for image, expected in zip(found, logits, strict=True):
        pixels = np.array(Image.open(folder / image).convert("RGB"))[None]
        np.testing.assert_allclose(session.run(None, {"pixels": pixels})[0][0], expected, atol=1e-3)
