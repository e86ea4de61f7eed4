"""train_own.py: heads of any network for one's own images, or for features that one has."""

import csv
import re
from functools import cache

import numpy as np
import pytest
import torch
from PIL import Image
from support.classifiers import PREPARED, prepared
from support.compare import distance
from support.defined_heads import by_definition
from support.own import BACKBONE, COUNTS, FLAGS, network, saved, write_features, write_photos
from support.ranks import together
from support.runs import summary_of
from torch.nn import functional as F

from data_utils import TRAIN_STREAM, seeded

OURS = "checkpoint/ours/own"
TAIL = [40, 14, 5]
OWN = f"train_own.py {' '.join(FLAGS)}"
ROWS = "train_own.py --features f.npz --no-cuda"


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
    return lambda more="": run_in(f"{OWN} --transform sqrt {more}", cwd=folder).stdout


@pytest.fixture(scope="module")
def first(train):
    """What the run `head` printed."""
    return train()


def summary(folder, name="head"):
    return summary_of(folder / OURS, name)


def weights(folder, name="head"):
    return saved(folder / OURS / f"{name}_last.pth.tar")["state_dict"]


def predicted(run_in, folder, name, *words):
    """The probabilities (C,) that predict.py says of each example, by a run's head, the classes in their order."""
    path = f"{OURS}/{name}_last.pth.tar"
    run_in(f"predict.py --checkpoint_path {path} --out all.csv --top 9 --no-cuda", *words, cwd=folder)
    with open(folder / "all.csv", encoding="utf-8", newline="") as file:
        rows = [dict(zip(row[1:-1:2], map(float, row[2:-1:2]), strict=True)) for row in list(csv.reader(file))[1:]]
    return np.array([[row[str(one)] for one in saved(folder / path)["class_names"]] for row in rows])


@torch.no_grad()
def features_of(files):
    """What the network says of images whose short side is made 36 pixels, of which the middle 32 are taken, normalised."""
    images = [prepared(Image.open(file).convert("RGB"), *PREPARED["own.pth.tar"]) for file in files]
    return network(5)[:4](torch.cat(images).float())


def test_from_a_folder_of_photographs_to_predictions_and_an_exported_network(first, run_in, folder):
    """Photographs through the small network, square roots of its features, a head; an export compares itself with that."""
    assert "own, 4 classes, head of my_network:make, on cpu, 1 process" in first
    assert "train 25  meta 5  test 7  (11 to 2 training images a class)" in first  # a fifth of each class is tested
    assert "photos: files left out: 1 .pdf" in first
    assert "from epoch 2: MetaSAug, --meta_update relative" in first
    images = [f"photos/{name}/1 ö.png" for name in COUNTS]
    found, head = predicted(run_in, folder, "head", *images, f"--arch={BACKBONE}", "--export=onnx"), weights(folder)
    logits = features_of(folder / image for image in images).sqrt() @ head["fc.weight"].T + head["fc.bias"]
    np.testing.assert_allclose(found, logits.softmax(dim=1), atol=6e-5)


def test_features_are_computed_once_for_all_ways_of_training(first, train, folder):
    cache = sorted(folder.joinpath("feature_cache").iterdir())
    more = "--save_name other --stage2 isda --seed 7 --val_seed 3 --select_on heldout --meta_images train"
    assert train(more).count("read from") == 1
    assert sorted(folder.joinpath("feature_cache").iterdir()) == cache
    assert train("--save_name viewed --views 2").count("read from") == 1
    assert len(list(folder.joinpath("feature_cache").glob("augmented_[01]_*/*.f16"))) == 2


def test_scores_of_images_that_are_prepared_otherwise_are_others(run, tmp_path):
    write_photos(tmp_path)
    for size, count in ((32, 4), (40, 8)):  # as they are, and three transforms
        flags = f"--backbone {BACKBONE} --image_size {size} --no-cuda --workers 0 --way nearest_mean"
        run(f"train_own.py --data_root photos {flags}")
        assert len(scores(tmp_path)) == count


def test_lists_that_were_drawn_can_be_given_again(first, train, folder):
    train(f"--save_name listed --train_list {OURS}/head_train.txt --val_list {OURS}/head_val.txt")
    assert distance(weights(folder, "listed"), weights(folder)) == 0
    train("--save_name drawn --val_seed 1")
    assert distance(weights(folder, "drawn"), weights(folder)) > 1e-3


def test_a_folder_val_beside_a_folder_test_is_trained_on_or_chosen_on(run, tmp_path):
    write_photos(tmp_path)
    for path in sorted(tmp_path.glob("photos/*/*")):
        part = ("val", "test", "train")[min(int(path.name.split()[0]), 2)]
        moved = tmp_path / "split" / part / path.parent.name / path.name
        moved.parent.mkdir(parents=True, exist_ok=True)
        path.rename(moved)
    command = f"{OWN} --data_root split --epochs 1 --num_meta 1"
    out = run(command).stdout
    assert "train 28  meta 4  test 4 " in out
    assert "the 4 images of split/val are trained on too: --select_on heldout keeps them" in out
    assert "held out 4 " in run(f"{command} --select_on heldout --save_name b").stdout


def sgd_head(z, y):
    """The head of plain cross-entropy on scaled features, in float64: six epochs, the last two with a tenth of the rate."""
    torch.manual_seed(4)
    head = torch.nn.Linear(z.shape[1], 3).double()
    optimizer = torch.optim.SGD(head.parameters(), 0.05, momentum=0.9, nesterov=True, weight_decay=5e-4)
    for epoch in range(6):
        optimizer.param_groups[0]["lr"] = 0.005 if epoch >= 4 else 0.05
        for index in torch.randperm(len(y), generator=seeded(4, TRAIN_STREAM, epoch)).split(7):
            optimizer.zero_grad()
            F.cross_entropy(head(z[index]), y[index]).backward()
            optimizer.step()
    return head


def test_features_of_a_file_are_trained_by_the_recipe(run, tmp_path):
    """The saved head takes features as they are; with --logit_adjust its bias has the log prior taken off.

    Rows for meta batches are trained on as well, after the others.
    """
    arrays = write_features(tmp_path / "f.npz", [30, 12, 5])
    arrays["features"] += 3 * arrays["features"][:1]  # a mean that is not zero
    split = arrays["split"].astype("<U5")
    split[[0, 5, 7, 13, 30, 33, 42]] = "meta"
    np.savez(tmp_path / "f.npz", **{**arrays, "split": split, "class_names": np.array(["a", "b", "ü"])})
    flags = "--epochs 6 --batch_size 7 --seed 4 --stage2 none --lr 0.05 --logit_adjust 1"
    assert "head of the 12 features in f.npz" in run(f"{ROWS} {flags}").stdout
    state = saved(tmp_path / OURS / "head_last.pth.tar")
    assert (state["class_names"], state["cls_num_list"]) == (["a", "b", "ü"], [26, 10, 4])
    x, y = torch.from_numpy(arrays["features"]), torch.from_numpy(arrays["labels"])
    train, meta, test = (torch.from_numpy(np.flatnonzero(split == name)) for name in ("train", "meta", "val"))
    z = x.double() - x[train].double().mean(dim=0)
    z /= z[train].square().mean().sqrt()
    trained = torch.cat([train, meta])
    logits = sgd_head(z[trained], y[trained])(z[test]).detach() - (y[trained].bincount() / len(trained)).log()
    own = x[test] @ state["state_dict"]["fc.weight"].T + state["state_dict"]["fc.bias"]
    torch.testing.assert_close(own.double(), logits, rtol=1e-4, atol=1e-4)
    right = 100 * float((logits.argmax(dim=1) == y[test]).double().mean())
    assert summary(tmp_path)["last"]["acc1"] == pytest.approx(right)
    assert not [*tmp_path.rglob("feature_cache"), *tmp_path.rglob("*_mistakes.json")]


def test_images_and_the_file_of_their_features_give_the_same_head(first, run_in, folder):
    """The rows of the file are in the order of the lists that the run drew."""
    lists = [(folder / OURS / f"head_{part}.txt").read_text(encoding="utf-8").splitlines() for part in ("train", "val")]
    paths, labels = zip(*(line.rsplit(" ", 1) for part in lists for line in part), strict=True)
    split = np.repeat(["train", "val"], list(map(len, lists)))
    features = features_of(folder / "photos" / path for path in paths)
    np.savez(folder / "own.npz", features=features.half().numpy(), labels=np.int64(labels), split=split, paths=paths)
    flags = "--epochs 3 --batch_size 8 --num_meta 2 --transform sqrt --save_name rows"
    run_in(f"train_own.py --features own.npz --no-cuda {flags}", cwd=folder)
    assert distance(weights(folder, "rows"), weights(folder)) < 1e-3
    assert saved(folder / OURS / "rows_last.pth.tar")["backbone"] is None


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    """A folder with a file of features that are not negative, and what it holds; another file has the first two classes."""
    made = tmp_path_factory.mktemp("ways")
    arrays = write_features(made / "f.npz", TAIL, val=8, spread=1.2)
    arrays["features"] = np.abs(arrays["features"] + [3, *[0.3] * 10, 30]).astype(np.float32)
    np.savez(made / "f.npz", **arrays)
    np.savez(made / "two.npz", **{key: value[arrays["labels"] < 2] for key, value in arrays.items()})
    return made, arrays


@pytest.fixture(scope="module")
def made(run_in, table):
    """Train on that file, each command once; return what was printed."""

    return cache(lambda name, flags: run_in(f"{ROWS} {flags} --save_name {name}", cwd=table[0]).stdout)


def constants(folder, name="head"):
    """What folds choose, by flag."""
    flags = summary(folder, name)["flags"]
    return {key: flags[key] for key in ("transform", "C", "lam", "meta_step_size", "lr")}


STILL = "--lr 1e-12 --epochs 1"  # steps that leave MetaSAug where it begins
TWO = "--features two.npz"


@pytest.mark.parametrize(
    ("way", "more"),
    [
        ("logistic", ""),
        ("logistic", f"--transform unit {TWO}"),
        ("balanced", TWO),
        ("balanced", "--transform sqrt --C 30"),
        ("nearest_mean", "--transform standard"),
        ("lda", TWO),
        ("isda", TWO),
        ("isda", "--transform sqrt --C 3 --lam 2"),
        ("metasaug", STILL),
        ("metasaug", f"{STILL} --transform standard --C 3 --lam 1 --meta_step_size 0.5 {TWO}"),
    ],
)
def test_the_head_of_a_way_is_what_it_is_by_definition(made, run_in, table, way, more):
    """All training rows have their part; MetaSAug begins where ISDA ends. All are for equally frequent classes."""
    folder, arrays = table
    name, file = f"{way}_{len(more)}" if more else "default", "two.npz" if TWO in more else "f.npz"
    made(name, f"--way {way} {more}" if more else "")
    told, state = summary(folder, name), saved(folder / OURS / f"{name}_last.pth.tar")
    if file == "two.npz":
        arrays = {key: value[arrays["labels"] < 2] for key, value in arrays.items()}
    assert (state["cls_num_list"], told["flags"]["way"]) == (TAIL[: 1 + arrays["labels"].max()], way)
    for flag, value in re.findall(r"--(\S+) (\S+)", more):
        assert str(told["flags"][flag]).removesuffix(".0") == value
    train = arrays["split"] == "train"
    logits = by_definition(way, told["flags"], arrays["features"], arrays["labels"], train)
    chances, frequent = (predicted(run_in, folder, name, file, "--prior", prior) for prior in ("uniform", "train"))
    np.testing.assert_allclose(chances, logits.softmax(dim=1), atol=2e-3)
    weighted = chances * state["cls_num_list"]
    np.testing.assert_allclose(frequent, weighted / weighted.sum(axis=1, keepdims=True), atol=1e-3)
    right = chances.argmax(axis=1) == arrays["labels"]
    assert told["last"]["acc1"] == pytest.approx(100 * right[~train].mean())
    assert told["last"]["acc1"] > 100 / len(TAIL)


def test_rows_for_tests_choose_nothing(made, table):
    made("default", "")
    folder, arrays = table
    test = arrays["split"] == "val"
    noise = np.random.default_rng(1).normal(0, 9, arrays["features"].shape)
    features = np.where(test[:, None], noise, arrays["features"]).astype(np.float32)
    np.savez(folder / "noise.npz", **{**arrays, "features": features})
    made("noise", "--features noise.npz")
    assert distance(weights(folder, "noise"), weights(folder, "default")) == 0
    assert constants(folder, "noise") == constants(folder, "default")
    assert summary(folder, "noise")["last"]["acc1"] != summary(folder, "default")["last"]["acc1"]


STEPS = "--way metasaug --epochs 2 --batch_size 8"


def test_meta_rows_are_trained_on_unless_they_are_to_be_apart(made, table):
    assert "train 59  meta 11 " in made("steps", STEPS)  # a fifth of a class, one at least
    assert "train 53  meta 6 " in made("apart", "--stage2 metasaug --meta_images apart --num_meta 2")
    states = [saved(table[0] / OURS / f"{name}_last.pth.tar") for name in ("steps", "apart")]
    assert [state["cls_num_list"] for state in states] == [TAIL, [38, 12, 3]]


def test_steps_are_the_same_with_constants_that_are_given(made, table):
    """Those that the folds chose are in the summary. Where the steps are others the folds are scored anew."""
    folder = table[0]
    made("steps", STEPS)
    made("given", f"{STEPS} {' '.join(f'--{key} {value}' for key, value in constants(folder, 'steps').items())}")
    assert distance(weights(folder, "given"), weights(folder, "steps")) == 0
    before = scores(folder)
    made("others", f"{STEPS} --num_meta 1")
    assert scores(folder).items() > before.items()


def test_all_images_are_trained_on_where_none_is_to_be_tested(made, table, refused, run, tmp_path):
    """The head is that of a file whose training rows are the same; of several epochs the last one counts as the best."""
    folder, arrays = table
    train = arrays["split"] == "train"
    np.savez(folder / "all.npz", features=arrays["features"][train], labels=arrays["labels"][train])
    way, everything = "--way logistic --C 1 --transform none", "--features all.npz --val_fraction 0"
    made("split", way)
    out = made("all", f"{everything} {way}")
    assert "train 59  meta 0  test 0" in out
    assert "no test images" in out
    assert summary(folder, "all")["last"]["acc1"] is None
    assert distance(weights(folder, "all"), weights(folder, "split")) == 0
    for epochs in (3, 4):  # the second goes on with the first
        made("steps4", f"{everything} --way recipe --resume auto --epochs {epochs}")
        states = [saved(folder / OURS / f"steps4_{kind}.pth.tar") for kind in ("ckpt", "last")]
        assert [(state["epoch"], state["best_acc1"]) for state in states] == [(epochs, -1)] * 2
    assert "a run that tested nothing" in refused("report.py", folder / OURS / "all_summary.json")
    assert "--val_fraction 0 " in refused(f"scripts/compare_own.py {everything} --no-cuda")


def scores(folder):
    """When each score of the folds was written, by file."""
    return {path.name: path.stat().st_mtime_ns for path in folder.joinpath(OURS, "folds").glob("*.npz")}


def test_metasaug_that_is_stopped_between_steps_ends_as_if_it_had_not_been(made, run_in, table):
    folder = table[0]
    made("steps", STEPS)  # whose folds are those of the next
    command = f"{ROWS} {STEPS} --save_name cut --resume auto"
    run_in(command, cwd=folder, status=143, STOP_AT="11", STOP_BY="15")
    assert "going on in epoch 1 after step 3" in run_in(command, cwd=folder).stdout
    assert distance(weights(folder, "cut"), weights(folder, "steps")) == 0


@pytest.mark.parametrize(("name", "flags", "halved"), [("default", "", ""), ("steps", STEPS, "--batch_size 4")])
def test_two_processes_make_the_head_of_one(made, start, table, tmp_path, name, flags, halved):
    """The folds too, which they share."""
    made(name, flags)
    (tmp_path / "f.npz").symlink_to(table[0] / "f.npz")
    for status, out, err in together(start, 2, f"{ROWS} {flags} {halved}"):
        assert status == 0, out + err
    assert distance(weights(tmp_path), weights(table[0], name)) < 1e-6
    assert constants(tmp_path) == constants(table[0], name)
