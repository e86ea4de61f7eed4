"""The scripts as their users call them: trainings, what these leave behind, mistakes."""

import json
import math
import re
import shutil
from html import unescape
from pathlib import Path

import numpy as np
import pytest
import torch
from onnxruntime import InferenceSession
from PIL import Image
from sklearn.metrics import f1_score
from support.compare import distance
from support.data import write_image
from support.places import ROOT

from data_utils import build_dataset
from harness.flags import STAGE2
from harness.metrics import Accuracy
from harness.record import Record

# The published command, word for word (python3.6 read as python3), in its script.
PUBLISHED = [
    *("--gpu", "0", "--lr", "0.1", "--lam", "0.75", "--imb_factor", "0.05", "--dataset", "cifar100"),
    *("--num_classes", "100", "--save_name", "MetaSAug_cifar100_LDAM_imb0.05", "--idx", "1"),
]
DIGITS = ["--dataset", "digits", "--imb_factor", "0.1", "--batch-size", "64", "--no-cuda"]
TINY = [*DIGITS, "--arch", "tiny_networks:logits"]
OURS = "checkpoint/ours"
TINY_NETWORKS = ROOT / "tests" / "support" / "tiny_networks.py"
SHOTS = ("many", "medium", "few")


@pytest.fixture
def tiny_folder(tmp_path):
    """Where a run of TINY leaves its files."""
    shutil.copy(TINY_NETWORKS, tmp_path)
    return tmp_path / OURS / "0"


@pytest.fixture(scope="module")
def trained(run_in, tmp_path_factory):
    """A run of CE through both stages: the folder of its files a_*, and what it printed."""
    root = tmp_path_factory.mktemp("trained")
    shutil.copy(TINY_NETWORKS, root)
    flags = [*TINY, "--epochs", "3", "--meta_start", "1", "--idx", "d/1", "--save_name", "a", "-p", "2"]
    return root / OURS / "d" / "1", run_in("MetaSAug_CE_train.py", *flags, cwd=root).stdout


def weights(path):
    return torch.load(path, weights_only=True)["state_dict"]


def log_of(folder, name):
    return [json.loads(line) for line in (folder / f"{name}_metrics.jsonl").read_text().splitlines()]


def summary_of(folder, name):
    return json.loads((folder / f"{name}_summary.json").read_text())


def test_published_command_trains_and_its_checkpoint_is_tested_with_the_same_accuracy(run, cifar100_files, tmp_path):
    root, sums = cifar100_files
    (tmp_path / "data").symlink_to(root)
    short = ["--epochs", "2", "--meta_start", "1", "--no-cuda", "--arch", "resnet8"]
    out = run("MetaSAug_LDAM_train.py", *PUBLISHED, *short, CIFAR_MD5=sums).stdout
    best, last = (tmp_path / OURS / "1" / f"MetaSAug_cifar100_LDAM_imb0.05_{kind}.pth.tar" for kind in ("ckpt", "last"))
    printed = re.findall(r"^epoch (\d)  .*test loss ([\d.]+)  test acc ([\d.]+)", out, re.M)
    epochs, losses, accuracies = zip(*printed, strict=True)
    assert epochs == ("0", "1")
    assert all(float(loss) > 0 for loss in losses)  # the published code always printed 0
    counts = [int(20 * 0.05 ** (k / 99)) for k in range(100)]
    assert f"({max(counts)} to {min(counts)} training images a class)" in out
    state = torch.load(best, weights_only=True)
    released = tmp_path / "released.pth.tar"
    published = {k: state[k] for k in ("epoch", "state_dict", "best_acc1", "optimizer")}
    torch.save(published, released, _use_new_zipfile_serialization=False)
    named, found, highest = ["--dataset", "cifar100", "--imb_factor", "0.05"], {}, float(accuracies[1])  # of stage 2
    for path, flags, accuracy in ((best, [], highest), (released, named, highest), (last, named, float(accuracies[1]))):
        tested = run("MetaSAug_test.py", *flags, "--checkpoint_path", path, "--no-cuda", CIFAR_MD5=sums).stdout.splitlines()
        assert tested[0] == f"Dataset: cifar100\tImb_factor: 20\tAccuracy: {accuracy:.2f}\tError: {100 - accuracy:.2f}"
        found[path] = tested[2:]
    assert [line.split()[-1] for line in found[released]] == [line.split()[-1] for line in found[best]]
    published = r"(?s)class000 +490 training images, many.*class099 +24 training images, medium"
    for path, words in ((released, published), (best, r"class000 +20 training images, medium")):
        assert re.search(words, "\n".join(found[path]))  # a released file has the published counts


def test_a_run_leaves_its_files_and_says_which(trained):
    folder, out = trained
    kinds = [f"a_{kind}.pth.tar" for kind in ("ckpt", "last", "resume", "stage1")]
    names = {*kinds, "a_metrics.jsonl", "a_mistakes.json", "a_summary.json", "a_tensorboard"}
    names |= {f"a_{kind}_predictions.npz" for kind in ("ckpt", "last")}
    assert {path.name for path in folder.iterdir()} == names  # none of those before
    assert next((folder / "a_tensorboard").iterdir()).stat().st_size > 0
    words = ("the best epoch is chosen on the test set from epoch 1 on;", "epochs: 3, stage 2 from epoch 1 on: MetaSAug\n")
    assert all(each in out for each in words)
    assert re.search(r"epoch 1/3 stage 2  \[2/\d+\]  Loss [\d.]+  Acc@1 [\d.]+  left \d", out)
    assert "\r" not in out  # no bar where nobody looks
    assert re.match("done in .*a_ckpt.pth.tar", out.splitlines()[-2])
    assert re.match("to make its report: python3 .*report.py .*a_summary.json", out.splitlines()[-1])


def test_log_summary_and_predictions_of_a_run(trained):
    folder, out = trained
    lines, summary = log_of(folder, "a"), summary_of(folder, "a")
    assert [line["stage"] for line in lines] == [1, 2, 2]
    assert lines[0]["meta_loss"] is None
    assert "trace_estimated_many" not in lines[0]
    assert min(lines[1][key] for key in ("meta_loss", "trace_estimated_many")) > 0
    assert abs(lines[1]["trace_learned_few"] - lines[1]["trace_estimated_few"]) > 0
    assert re.fullmatch(r"[0-9a-f]{40}\+?" if (ROOT / ".git").exists() else "None", str(summary["commit"]))
    assert summary["machine"]["cores"] >= 1
    accuracies = [line["test_acc1"] for line in lines]
    assert (summary["best"]["acc1"], summary["last"]["acc1"]) == (max(accuracies[1:]), accuracies[-1])
    assert summary["since"] == 1
    assert math.isclose(torch.load(folder / "a_last.pth.tar", weights_only=True)["best_acc1"], max(accuracies[1:]))
    for which, kind in (("best", "ckpt"), ("last", "last")):
        kept = np.load(folder / f"a_{kind}_predictions.npz")
        target, predicted, confidence = (kept[name] for name in ("target", "predicted", "confidence"))
        assert 100 * (target == predicted).mean() == pytest.approx(summary[which]["acc1"])
        assert 100 * f1_score(target, predicted, average="macro") == pytest.approx(summary[which]["macro_f1"])
        assert 0.1 <= confidence.min() <= confidence.max() <= 1
        groups = {shot: [] for shot in SHOTS}
        for value, count in zip(summary[which]["per_class"], summary["cls_num_list"], strict=True):
            groups["many" if count > 100 else "few" if count < 20 else "medium"].append(value)
        for shot, values in groups.items():
            assert math.isclose(summary[which][shot], sum(values) / len(values))
        line = next(line for line in out.splitlines() if line.startswith(f"{which} epoch"))
        assert line.endswith("  ".join(f"{shot} {summary[which][shot]:.2f}" for shot in groups))
    estimated, learned = (np.array(summary["last"][f"trace_{kind}"]) for kind in ("estimated", "learned"))
    assert estimated.min() >= 0 < estimated.max()
    assert 0 < abs(estimated - learned).max() < estimated.max()


def test_a_meta_lr_so_large_that_a_trace_turns_negative_is_said(run, trained, tmp_path):
    flags = [*DIGITS, "--arch", "resnet8", "--epochs", "2", "--meta_start", "1", "--save_name", "a", "--meta_lr", "1e4"]
    out = run("MetaSAug_CE_train.py", *flags).stdout
    first, second = (line.get("negative_traces") for line in log_of(tmp_path / OURS / "0", "a"))
    assert first is None  # stage 1
    told = re.findall(r"^note: in (\d+) of 8 steps the learned covariance of some class had a negative", out, re.M)
    assert list(map(int, told)) == [second]
    assert 1 <= second <= 8
    assert [line.get("negative_traces") for line in log_of(trained[0], "a")] == [None, 0, 0]
    assert "negative trace" not in trained[1]


def test_weights_from_before_stage_2_are_said_to_be_plain_ones(run, trained, tiny_folder, tmp_path):
    plain = "these weights are of plain cross-entropy, without MetaSAug"
    flags = ["MetaSAug_CE_train.py", *TINY, "--epochs", "1", "--meta_start", "1", "--save_name", "a"]
    assert f"note: no stage 2 up to epoch 0 (--meta_start 1): {plain}\n" in run(*flags).stdout
    assert plain not in trained[1]
    for path, expected in ((tiny_folder / "a_ckpt.pth.tar", True), (trained[0] / "a_stage1.pth.tar", True),
                           (trained[0] / "a_ckpt.pth.tar", False)):  # fmt: skip
        assert (plain in run("MetaSAug_test.py", "--checkpoint_path", path, *TINY[-2:]).stdout) == expected
    out = run("report.py", tiny_folder, trained[0], "--out", "compared").stdout
    marked = [[cell.strip() for cell in line.split("|")[1:3]] for line in out.splitlines()
              if re.match(r"\|.* (best|last) ", line)]  # fmt: skip
    assert [epoch for name, epoch in marked if name.endswith("ours/0/a")] == ["last (0, stage 1)", "best (0, stage 1)"]
    assert len([epoch for _, epoch in marked if "stage 1" in epoch]) == 2
    page = unescape((tmp_path / "compared" / "report.html").read_text(encoding="utf-8"))
    assert re.search(r"Not come to stage 2, and so plain cross-entropy: \S+ours/0/a\.", page)


def test_uneven_test_sets_have_the_mean_over_classes_everywhere(run, trained, tiny_folder, tmp_path):
    """Digits have 53 to 55 test images a class; as many of each, by a folder, and nothing is said of it."""
    folder, out = trained
    lines, summary = log_of(folder, "a"), summary_of(folder, "a")
    for which in ("best", "last"):
        found = summary[which]["mean_per_class"]
        assert found == pytest.approx(np.mean(summary[which]["per_class"]))
        assert found != pytest.approx(summary[which]["acc1"], abs=1e-6)
        words = "{epoch}: accuracy {acc1:.2f}  mean over classes {mean_per_class:.2f}  many".format(**summary[which])
        assert f"{which} epoch {words}" in out
    assert [line["test_mean_per_class"] for line in lines][-1] == found
    assert f"  test acc {summary['last']['acc1']:.2f}  mean over classes {found:.2f}  " in out
    last = folder / "a_last.pth.tar"
    assert torch.load(last, weights_only=True)["best_mean_per_class"] == summary["best"]["mean_per_class"]
    tested = run("MetaSAug_test.py", "--checkpoint_path", last, *TINY[-2:]).stdout
    assert tested.splitlines()[0].endswith(f"\tMean over classes: {found:.2f}")
    for k in range(2):
        for split, number in (("train", 4), ("test", 2)):
            for i in range(number):
                write_image(tmp_path / "even" / split / str(k) / f"{i}.png", 10 * k + i)
    own = ["--dataset", "folder", "--data_root", "even", "--num_meta", "1", "--no-cuda", *TINY[-2:]]
    even = run("MetaSAug_CE_train.py", *own, "--epochs", "2", "--save_name", "even").stdout
    last = tiny_folder / "even_last.pth.tar"
    even += run("MetaSAug_test.py", "--data_root", "even", "--checkpoint_path", last, *TINY[-2:]).stdout
    assert "mean over classes" not in even.lower()
    for name in ("even_summary.json", "even_metrics.jsonl"):
        assert "mean_per_class" not in (tiny_folder / name).read_text()
    shutil.rmtree(tmp_path / "even" / "test" / "1")  # a class without test images counts for neither
    gap = run("MetaSAug_CE_train.py", *own, "--epochs", "1", "--save_name", "gap").stdout
    assert "classes: 0 many, 0 medium, 2 few; 1 of them without test images, in none of these figures)" in gap
    assert "mean over classes" not in gap
    assert "without test images" not in even + out
    run("report.py", tiny_folder / "gap_summary.json", "--out", "gap")
    page = unescape((tmp_path / "gap" / "report.html").read_text(encoding="utf-8"))
    assert "1 of 2 classes have no test images and are in none of the figures: 1." in page
    for place, shown in ((folder, True), (tiny_folder, False)):
        table = run("report.py", place, "--out", "out", "--force").stdout
        rows = (tmp_path / "out" / "runs.csv").read_text()
        assert ("| mean over classes |" in table, "in the mean over classes" in table) == (shown, shown)
        if shown:
            assert f"| {found:.2f} " in table
            assert repr(found) in rows


@pytest.mark.usefixtures("tiny_folder")
def test_a_run_is_tested_and_reported_with_its_own_figures(run, trained, tmp_path):
    folder = trained[0]
    last = summary_of(folder, "a")["last"]
    tested = run("MetaSAug_test.py", "--checkpoint_path", folder / "a_last.pth.tar", *TINY[-2:]).stdout.splitlines()
    assert tested[0].startswith("Dataset: digits\tImb_factor: 10\t")
    assert tested[1] == f"Accuracy per shot: {'  '.join(f'{shot} {last[shot]:.2f}' for shot in SHOTS)}"
    assert tested[2] == "Macro-F1: {macro_f1:.2f}  calibration error (ECE): {ece:.2f}".format(**last)
    assert [float(line.split()[-1]) for line in tested[3:]] == pytest.approx(last["per_class"], abs=0.01)
    report = run("report.py", folder, "--out", "compared").stdout
    assert [line.split("|")[1].strip() for line in report.splitlines() if "| a " in line] == ["a", "a", "a"], report
    page = (tmp_path / "compared" / "report.html").read_text()
    for part in ("shots", "classes", "reliability", "confusion", "curve_train_loss", "curve_grad_norm"):
        assert f'id="set0-{part}"' in page


def test_the_choices_of_stage_2(run, tiny_folder):
    """Each equals the full method with its parts switched off, and all go on from one stage 1 to the last bit."""
    flags = [*TINY, "--epochs", "4", "--lam", "0.75", "--meta_lr", "300"]  # so large that a network so small moves
    printed = {}

    def train(name, *more, script="LDAM", stage1="whole", meta_start=2):
        begin = [] if stage1 is None else ["--stage1", tiny_folder / f"{stage1}_stage1.pth.tar"]
        words = [*flags, "--meta_start", meta_start, "--save_name", name, *more, *begin]
        printed[name] = run(f"MetaSAug_{script}_train.py", *words).stdout
        return weights(tiny_folder / f"{name}_last.pth.tar")

    whole = train("whole", stage1=None)
    assert distance(train("metasaug"), whole) == 0
    choices = {name: train(name, "--stage2", name) for name in ("isda", "reweight", "none")}
    assert distance(choices["isda"], train("isda_twin", "--meta_lr", "0")) <= 1e-5
    assert distance(choices["reweight"], train("reweight_twin", "--meta_lr", "0", "--lam", "0")) <= 1e-5
    assert distance(choices["none"], train("none_twin", meta_start=4, stage1=None)) == 0
    unlike = (("isda", whole), ("isda", choices["reweight"]), ("none", choices["reweight"]))
    assert all(distance(choices[name], other) > 1e-4 for name, other in unlike)
    assert distance(train("ce", script="CE"), whole) > 1e-4
    assert [line["stage"] for line in log_of(tiny_folder, "whole")] == [1, 1, 2, 2]
    for name in (*choices, "metasaug"):
        lines = log_of(tiny_folder, name)
        assert [(line["epoch"], line["stage"]) for line in lines] == [(2, 2), (3, 2)]
        for key in ("meta_loss", "grad_norm"):
            assert [line[key] is None for line in lines] == [name != "metasaug"] * 2
        assert f"epochs: 4, stage 2 from epoch 2 on: {STAGE2[name]}\n" in printed[name]
        assert f"stage 1 to epoch 1: taken from {tiny_folder / 'whole_stage1.pth.tar'}" in printed[name]
    assert log_of(tiny_folder, "metasaug")[1]["grad_norm"] > 0


def test_a_run_repeats_itself_and_sets_the_earlier_one_aside(run, tiny_folder):
    words = ["MetaSAug_CE_train.py", *TINY, "--epochs", "2", "--meta_start", "1", "--save_name", "a"]
    last, aside = tiny_folder / "a_last.pth.tar", tiny_folder / "earlier" / "1"
    run(*words)
    first = {path.name for path in tiny_folder.iterdir()}
    assert f"note: the files of an earlier run a are now in {OURS}/0/earlier/1" in run(*words).stdout
    assert {path.name for path in aside.iterdir()} == first
    assert distance(weights(last), weights(aside / last.name)) == 0
    run(*words, "--seed", "1")
    assert distance(weights(last), weights(aside / last.name)) > 0.01


def test_bf16_trains_like_float32_and_saves_float32(run, refused, tiny_folder):
    flags = [*TINY, "--epochs", "2", "--meta_start", "1", "--threads", "1"]
    for amp in ("off", "bf16"):
        run("MetaSAug_CE_train.py", *flags, "--save_name", amp, "--amp", amp)
    for ours, theirs in zip(log_of(tiny_folder, "bf16"), log_of(tiny_folder, "off"), strict=True):
        assert ours["train_loss"] != theirs["train_loss"]
        assert ours["train_loss"] == pytest.approx(theirs["train_loss"], rel=0.05)
    kept = {name: value.dtype for name, value in weights(tiny_folder / "bf16_last.pth.tar").items()}
    assert {kept.pop("1.num_batches_tracked"), *kept.values()} == {torch.int64, torch.float32}
    assert summary_of(tiny_folder, "bf16")["threads"] == 1
    stage1 = tiny_folder / "bf16_stage1.pth.tar"
    assert "amp bf16, this run has off" in refused("MetaSAug_CE_train.py", *flags, "--stage1", stage1, "--save_name", "x")


@pytest.mark.usefixtures("tiny_folder")
def test_a_stage_1_that_does_not_serve_is_refused(refused, trained, tmp_path):
    folder = trained[0]
    stage1, later = (folder / f"a_{kind}.pth.tar" for kind in ("stage1", "last"))
    inside = tmp_path / "inside.pth.tar"
    state = torch.load(later, weights_only=True)
    torch.save({k: v for k, v in state.items() if k != "checksum"} | {"epoch": 2}, inside)
    for path, changed, words in (
        (later, ["--meta_start", "2"], "stands at epoch 3, which must be one of stage 1, from 1 to 1 here"),
        (inside, ["--meta_start", "2"], "stands at epoch 2, which must be one of stage 1, from 1 to 1 here"),
        (stage1, ["--meta_start", "0"], "from 1 to 0 here"),
        (stage1, ["--imb_factor", "0.2"], "cls_num_list"),
        (stage1, ["--seed", "7"], "seed 42"),
        (stage1, ["--arch", "resnet8"], "missing bn1.bias"),
    ):
        flags = [*TINY, "--epochs", "3", "--meta_start", "1", "--stage1", path, *changed]
        assert words in refused("MetaSAug_LDAM_train.py", *flags)


def test_a_stage_1_of_the_images_now_held_out_is_refused(run, refused, tiny_folder):
    """As many images a class, but others: 15 to the meta set, or 10 to it and 5 held out."""
    flags = ["MetaSAug_CE_train.py", *TINY, "--imb_factor", "1", "--epochs", "2", "--meta_start", "1"]
    run(*flags, "--num_meta", "15", "--save_name", "a")
    path = tiny_folder / "a_stage1.pth.tar"
    held = [*flags, "--select_on", "heldout", "--num_heldout", "5", "--save_name", "b", "--stage1", path]
    assert "was trained with train_digest" in refused(*held)
    state = torch.load(path, weights_only=True)
    assert state["cls_num_list"] == build_dataset("digits", 10, 1.0, num_heldout=5).cls_num_list  # so counts do not tell


def test_the_best_epoch_is_chosen_on_held_out_images(run, tiny_folder):
    flags = [*TINY, "--epochs", "4", "--meta_start", "1", "--select_on", "heldout", "--num_heldout", "20"]
    out = run("MetaSAug_CE_train.py", *flags, "--save_name", "held").stdout
    lines, summary = log_of(tiny_folder, "held"), summary_of(tiny_folder, "held")
    best, accuracies = summary["best"], [line["heldout_acc1"] for line in lines]
    highest = max(accuracies[1:])
    assert (best["epoch"], best["heldout_acc1"]) == (accuracies.index(highest, 1), highest)
    assert summary["last"]["heldout_acc1"] == accuracies[-1]
    assert best["acc1"] == lines[best["epoch"]]["test_acc1"]
    assert re.search(r"meta 100  test 540  held out \d+", out)  # the log says what the choice was made on
    for words in (f"held-out acc {accuracies[-1]:.2f}", "best epoch is chosen on held-out training images"):
        assert words in out
    state = torch.load(tiny_folder / "held_ckpt.pth.tar", weights_only=True)
    assert (state["epoch"], state["cls_num_list"]) == (best["epoch"] + 1, summary["cls_num_list"])


@pytest.mark.parametrize(("chosen_by", "best"), [("acc1", 2), ("heldout_acc1", 1)])
def test_which_figure_chooses_the_best_epoch(tmp_path, chosen_by, best):
    record = Record(tmp_path, "a", [3, 2])
    for epoch, (test, heldout) in enumerate(((50.0, 10.0), (60.0, 30.0), (70.0, 20.0))):
        tested = Accuracy(test, [test, test], {"many": test, "medium": test, "few": test}, test).figures()
        more = {"heldout_acc1": heldout} if chosen_by == "heldout_acc1" else {}
        record.epoch(epoch, tested, {}, more, lambda: {"state_dict": {}}, {})
    assert record.best["epoch"] == best


def test_a_training_whose_output_nobody_reads_says_how_to_go_on(run, tiny_folder):
    command = f'{{ "$PYTHON" {ROOT}/MetaSAug_CE_train.py "$@"; echo status $? >&2; }} | head -n 8'
    result = run("sh", "-c", command, "sh", *TINY, "--epochs", "1000", "-p", "1")
    assert result.stdout.count("\n") == 8
    said, status = result.stderr.splitlines()
    assert "the reader of its output has exited; to resume, give the same command with --resume auto" in said
    assert status == "status 141"


@pytest.mark.filterwarnings("ignore:`torch.jit.load`:FutureWarning")
@pytest.mark.parametrize(("make", "beside"), [("logits", False), ("Pair", True)])
def test_own_images_and_a_network_of_ones_own(run, tiny_folder, tmp_path, make, beside):
    """Trained, gone on with, tested, used and exported; its file lies in the current folder or beside the scripts."""
    scripts = ROOT
    if beside:
        scripts = tmp_path / "checkout"
        for name in ("datasets", "harness", "heads", "inference", "reporting"):
            shutil.copytree(ROOT / name, scripts / name)
        for path in (*ROOT.glob("*.py"), tmp_path / "tiny_networks.py"):
            shutil.copy(path, scripts)
        (tmp_path / "tiny_networks.py").unlink()
    for split, counts in (("train", {"cat": 30, "dog": 16}), ("test", {"cat": 1})):
        for label, count in counts.items():
            folder = tmp_path / "my" / split / label
            folder.mkdir(parents=True)
            for i in range(count):
                Image.new("RGB", (50, 40), (i, 200 * (label == "cat"), 0)).save(folder / f"{i}.png")
    arch, data = ["--arch", f"tiny_networks:{make}", "--no-cuda"], ["--data_root", "my"]
    words = ["--dataset", "folder", *data, *arch, "--epochs", "3", "--meta_start", "1", "--batch-size", "8"]
    out = run(scripts / "MetaSAug_LDAM_train.py", *words).stdout
    assert "(20 to 6 training images a class)" in out
    stopped = {"status": 143, "STOP_AT": "7", "STOP_BY": "15"}
    run(scripts / "MetaSAug_LDAM_train.py", *words, "--save_name", "cut", **stopped)
    middle = tiny_folder / "cut_resume.pth.tar"
    out = run(scripts / "MetaSAug_LDAM_train.py", *words, "--resume", middle, "--save_name", "again").stdout
    assert re.search(r"going on in epoch [12] after step \d", out)
    path = tiny_folder / "again_last.pth.tar"
    assert distance(weights(path), weights(tiny_folder / "name_last.pth.tar")) == 0
    form, ending = ("torchscript", ".pt") if beside else ("onnx", ".onnx")
    tested = run(scripts / "MetaSAug_test.py", *data, "--checkpoint_path", path, *arch, "--export", form).stdout
    assert re.match(r"Dataset: folder\tAccuracy: [\d.]+\tError: [\d.]+\n", tested)
    assert re.search(r"^  cat +20 training images", tested, re.M)
    exported = path.with_name(f"again_last{ending}")
    assert f"wrote {exported}: logits of made-up inputs" in tested
    pixels = torch.zeros(4, 32, 32, 3, dtype=torch.uint8)  # any number, though it was made with one
    if beside:
        assert torch.jit.load(exported)(pixels).shape == (4, 2)
    else:
        assert InferenceSession(exported).run(None, {"pixels": pixels.numpy()})[0].shape == (4, 2)
    predicted = run(scripts / "predict.py", "--checkpoint_path", path, *arch, "my/test/cat/0.png").stdout
    assert re.fullmatch(r"my/test/cat/0.png\t(cat|dog) [\d.]+\t(cat|dog) [\d.]+\n", predicted)


def test_images_that_cannot_be_read_are_listed_or_left_out(run, tiny_folder, tmp_path):
    for part, count in (("train", 12), ("test", 3)):
        for name in ("cat", "dog"):
            for i in range(count):
                write_image(tmp_path / "my" / part / name / f"{i}.png", i)
    bad = [Path("my", *rest) for rest in (("test", "dog", "2.png"), ("train", "cat", "3.png"), ("train", "dog", "0.png"))]
    for path in bad:
        (tmp_path / path).write_text("no image")
    words = ["--dataset", "folder", "--data_root", "my", "--arch", "tiny_networks:logits", "--epochs", "1", "--no-cuda"]
    result = run("MetaSAug_CE_train.py", *words, status=2)
    *lines, last = result.stderr.splitlines()
    assert sorted(line.split(" (")[0] for line in lines) == [str(path) for path in bad]
    assert last.startswith("MetaSAug_CE_train.py: error: 3 of 30 images cannot be read, see above: remove or replace them")
    assert not list(tmp_path.rglob("*.pth.tar"))
    out = run("MetaSAug_CE_train.py", *words, "--skip_bad").stdout
    assert "note: --skip_bad: 3 of 30 images cannot be read and are left out: my/train/cat/3.png" in out
    assert summary_of(tiny_folder, "name")["cls_num_list"] == [1, 1]
    (tmp_path / "my" / "test" / "cat" / "0.png").write_text("no image")
    checkpoint = ["--checkpoint_path", "checkpoint/ours/0/name_ckpt.pth.tar", "--arch", "tiny_networks:logits"]
    said = run("MetaSAug_test.py", *checkpoint, "--data_root", "my", "--no-cuda", status=2).stderr.splitlines()[-1]
    assert said.endswith("2 of 6 images cannot be read, see above: remove or replace them")  # it has no --skip_bad
