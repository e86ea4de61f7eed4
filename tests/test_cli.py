"""The scripts as their users call them."""

import json
import math
import re
import sys

import numpy as np
import pytest
import torch
from conftest import ROOT
from sklearn.metrics import f1_score

import MetaSAug_test
import options
import resnet
import training
from errors import UserError
from metrics import Accuracy
from record import Record

# The published command, word for word (python3.6 read as python3), in its script.
PUBLISHED = [
    *("--gpu", "0", "--lr", "0.1", "--lam", "0.75", "--imb_factor", "0.05", "--dataset", "cifar100"),
    *("--num_classes", "100", "--save_name", "MetaSAug_cifar100_LDAM_imb0.05", "--idx", "1"),
]
QUICK = ["--dataset", "digits", "--imb_factor", "0.1", "--arch", "resnet8", "--no-cuda"]


def checkpoints(tmp_path, idx, name):
    folder = tmp_path / "checkpoint" / "ours" / idx
    return folder / f"{name}_ckpt.pth.tar", folder / f"{name}_last.pth.tar"


def test_published_command_trains_and_its_checkpoint_is_tested_with_the_same_accuracy(run, cifar100_files, tmp_path):
    root, sums = cifar100_files
    (tmp_path / "data").symlink_to(root)
    out = run("MetaSAug_LDAM_train.py", *PUBLISHED, "--epochs", "2", "--meta_start", "1", "--no-cuda", CIFAR_MD5=sums).stdout
    best, last = checkpoints(tmp_path, "1", "MetaSAug_cifar100_LDAM_imb0.05")
    assert "stage 1, plain cross-entropy: epochs 0 to 0" in out
    assert "stage 2, MetaSAug: epochs 1 to 1" in out
    printed = re.findall(r"^epoch (\d)  .*test loss ([\d.]+)  test acc ([\d.]+)", out, re.M)
    assert [epoch for epoch, _, _ in printed] == ["0", "1"]
    assert all(float(loss) > 0 for _, loss, _ in printed)  # the published code always printed 0
    counts = json.loads(re.search(r"training images a class: (\[.*\])", out)[1])
    assert counts == [int(20 * 0.05 ** (k / 99)) for k in range(100)]

    for path, accuracy in ((best, max(float(a) for _, _, a in printed)), (last, float(printed[-1][2]))):
        tested = run("MetaSAug_test.py", "--dataset", "cifar100", "--imb_factor", "0.05", "--checkpoint_path", path,
                     "--no-cuda", CIFAR_MD5=sums).stdout  # fmt: skip
        line = f"Dataset: cifar100\tImb_factor: 20\tAccuracy: {accuracy:.2f}\tError: {100 - accuracy:.2f}"
        assert tested.splitlines()[0] == line

    state = torch.load(best, weights_only=True)
    assert {"epoch", "state_dict", "best_acc1", "optimizer"} <= state.keys()
    published = {k: state[k] for k in ("epoch", "state_dict", "best_acc1", "optimizer")}
    torch.save(published, tmp_path / "released.pth.tar", _use_new_zipfile_serialization=False)
    again = run("MetaSAug_test.py", "--dataset", "cifar100", "--imb_factor", "0.05", "--checkpoint_path",
                tmp_path / "released.pth.tar", "--no-cuda", CIFAR_MD5=sums).stdout  # fmt: skip
    tested = run("MetaSAug_test.py", "--checkpoint_path", best, "--no-cuda", CIFAR_MD5=sums).stdout
    assert again.splitlines()[0] == tested.splitlines()[0]
    assert [line.split()[-1] for line in again.splitlines()[2:]] == [line.split()[-1] for line in tested.splitlines()[2:]]
    assert re.search(r"class000 +490 training images, many", again)  # a released file has the published counts
    assert re.search(r"class099 +24 training images, medium", again)
    assert re.search(r"class000 +20 training images, medium", tested)


@pytest.mark.filterwarnings("default")  # TensorBoard's imports may warn
def test_a_run_leaves_its_files_and_repeats_itself(run, main, tmp_path):
    flags = [*QUICK, "--epochs", "3", "--meta_start", "1", "--batch-size", "64", "--idx", "d/1", "-p", "2"]
    outs = [run("MetaSAug_CE_train.py", *flags, "--save_name", "a", OMP_NUM_THREADS="1").stdout]
    main("MetaSAug_CE_train.py", *flags, "--save_name", "b")
    folder = tmp_path / "checkpoint" / "ours" / "d" / "1"
    kinds = [f"{kind}.pth.tar" for kind in ("ckpt", "last", "resume", "stage1")]
    names = {f"{n}_{rest}" for n in "ab" for rest in (*kinds, "metrics.jsonl", "summary.json", "tensorboard")}
    earlier = {f"{n}_{kind}.previous" for n in "ab" for kind in kinds if kind != kinds[-1]}  # stage 1 ends once
    optional = {f"{n}_ckpt.pth.tar.previous" for n in "ab"}  # the best epoch may be the first
    names |= {f"{n}_{kind}_predictions.npz" for n in "ab" for kind in ("ckpt", "last")}
    left = {p.name for p in folder.iterdir()}
    assert names | (earlier - optional) <= left <= names | earlier
    assert next((folder / "a_tensorboard").iterdir()).stat().st_size > 0

    first, second = (torch.load(folder / f"{n}_last.pth.tar", weights_only=True) for n in "ab")
    assert all(torch.equal(first["state_dict"][k], second["state_dict"][k]) for k in first["state_dict"])
    lines = [json.loads(line) for line in (folder / "a_metrics.jsonl").read_text().splitlines()]
    assert [line["stage"] for line in lines] == [1, 2, 2]
    assert lines[0]["meta_loss"] is None
    assert lines[1]["meta_loss"] > 0
    assert "trace_estimated_many" not in lines[0]
    assert lines[1]["trace_estimated_many"] > 0
    assert abs(lines[1]["trace_learned_few"] - lines[1]["trace_estimated_few"]) > 0
    summary = json.loads((folder / "a_summary.json").read_text())
    assert re.fullmatch(r"[0-9a-f]{40}\+?" if (ROOT / ".git").exists() else "None", str(summary["commit"]))
    assert summary["machine"]["cores"] >= 1
    accuracies = [line["test_acc1"] for line in lines]
    assert summary["best"]["acc1"] == max(accuracies)
    assert summary["last"]["acc1"] == accuracies[-1]
    assert math.isclose(first["best_acc1"], max(accuracies))
    kept = {which: np.load(folder / f"a_{kind}_predictions.npz") for which, kind in (("best", "ckpt"), ("last", "last"))}
    for which in ("best", "last"):
        target, predicted, confidence = (kept[which][name] for name in ("target", "predicted", "confidence"))
        assert 100 * (target == predicted).mean() == pytest.approx(summary[which]["acc1"])
        assert 100 * f1_score(target, predicted, average="macro") == pytest.approx(summary[which]["macro_f1"])
        assert 0.1 <= confidence.min() <= confidence.max() <= 1
        groups = {"many": [], "medium": [], "few": []}
        for value, count in zip(summary[which]["per_class"], summary["cls_num_list"], strict=True):
            groups["many" if count > 100 else "few" if count < 20 else "medium"].append(value)
        for shot, values in groups.items():
            assert math.isclose(summary[which][shot], sum(values) / len(values))
        line = next(line for line in outs[0].splitlines() if line.startswith(f"{which} epoch"))
        assert line.endswith("  ".join(f"{shot} {summary[which][shot]:.2f}" for shot in groups))
    estimated, learned = (np.array(summary["last"][f"trace_{kind}"]) for kind in ("estimated", "learned"))
    assert estimated.min() >= 0 < estimated.max()
    assert 0 < abs(estimated - learned).max() < estimated.max()
    assert "best is chosen on the test set" in outs[0]
    assert re.search(r"epoch 1/3 stage 2  \[2/\d+\]  Loss [\d.]+  Acc@1 [\d.]+  left \d", outs[0])
    assert "\r" not in outs[0]  # no bar where nobody looks
    assert outs[0].splitlines()[-1].startswith("done in ")
    assert "a_ckpt.pth.tar" in outs[0].splitlines()[-1]

    tested = main("MetaSAug_test.py", "--checkpoint_path", folder / "a_last.pth.tar").splitlines()
    assert tested[0].startswith("Dataset: digits\tImb_factor: 10\t")
    shots = "  ".join(f"{shot} {summary['last'][shot]:.2f}" for shot in ("many", "medium", "few"))
    assert tested[1] == f"Accuracy per shot: {shots}"
    assert tested[2] == "Macro-F1: {macro_f1:.2f}  calibration error (ECE): {ece:.2f}".format(**summary["last"])
    assert [float(line.split()[-1]) for line in tested[3:]] == pytest.approx(summary["last"]["per_class"], abs=0.01)

    again = main("MetaSAug_CE_train.py", *flags, "--save_name", "a")
    assert "the files of an earlier run a are now in" in again
    aside = {path.name for path in (folder / "earlier" / "1").iterdir()}
    assert {f"a_{kind}.pth.tar" for kind in ("ckpt", "last", "resume", "stage1")} <= aside
    assert {"a_summary.json", "a_metrics.jsonl", "a_tensorboard", "a_last.pth.tar.previous"} <= aside
    assert "a_last_predictions.npz" in aside

    report = run("report.py", folder, "--out", "compared").stdout
    rows = [line.split("|")[1].strip() for line in report.splitlines() if line.startswith("|")]
    assert [row for row in rows if row in ("a", "b")][:4] == ["a", "a", "b", "b"], report
    for name in ("accuracy", "curves", "covariances", "confusion_0"):
        assert (tmp_path / "compared" / f"{name}.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.filterwarnings("default")
def test_bf16_trains_like_float32_and_saves_float32(main, tmp_path):
    flags = [*QUICK, "--epochs", "2", "--meta_start", "1", "--batch-size", "64", "--threads", "1"]
    main("MetaSAug_CE_train.py", *flags, "--save_name", "exact")
    main("MetaSAug_CE_train.py", *flags, "--save_name", "half", "--amp", "bf16")
    folder = tmp_path / "checkpoint" / "ours" / "0"
    lines = ((folder / f"{name}_metrics.jsonl").read_text().splitlines() for name in ("exact", "half"))
    exact, half = ([json.loads(line) for line in part] for part in lines)
    for ours, theirs in zip(half, exact, strict=True):
        assert ours["train_loss"] != theirs["train_loss"]
        assert ours["train_loss"] == pytest.approx(theirs["train_loss"], rel=0.05)
    state = torch.load(checkpoints(tmp_path, "0", "half")[1], weights_only=True)["state_dict"]
    assert {value.dtype for value in state.values()} == {torch.float32}
    assert json.loads((folder / "half_summary.json").read_text())["threads"] == 1
    with pytest.raises(UserError, match="amp bf16, this run has off"):
        training.Run(
            options.parse_training(
                "", [*flags, "--stage1", str(folder / "half_stage1.pth.tar"), "--workdir", str(tmp_path), "--save_name", "x"]
            ),
            "CE",
            tmp_path,
        )


@pytest.mark.slow
@pytest.mark.parametrize("amp", ["off", "bf16"])
def test_compiled_passes_train_both_stages(run, tmp_path, amp):
    flags = [*QUICK, "--epochs", "2", "--meta_start", "1", "--batch-size", "64", "--lr", "0.01", "--amp", amp]
    for name, more in (("compiled", ["--compile"]), ("eager", [])):
        run("MetaSAug_CE_train.py", *flags, *more, "--save_name", name, OMP_NUM_THREADS="1")
    logs = ((tmp_path / "checkpoint" / "ours" / "0" / f"{name}_metrics.jsonl").read_text() for name in ("compiled", "eager"))
    for ours, theirs in zip(*([json.loads(line) for line in log.splitlines()] for log in logs), strict=True):
        assert ours["train_loss"] == pytest.approx(theirs["train_loss"], rel=0.05)


def test_weights_follow_the_seed_and_nothing_else():
    heads = [resnet.make_model("resnet8", 4, seed).linear.weight for seed in (1, 1, 2)]
    assert torch.equal(heads[0], heads[1])
    assert not torch.equal(heads[0], heads[2])


@pytest.mark.filterwarnings("default")
def test_a_stage_1_made_once_serves_other_runs_to_the_last_bit(main, refused, tmp_path):
    flags = [*QUICK, "--epochs", "4", "--batch-size", "100", "--lam", "0.5"]
    main("MetaSAug_CE_train.py", *flags, "--meta_start", "2", "--save_name", "whole")
    stage1 = tmp_path / "checkpoint" / "ours" / "0" / "whole_stage1.pth.tar"
    kept = stage1.read_bytes()
    copy = stage1.with_name("part_stage1.pth.tar")
    copy.write_bytes(kept)
    for _ in range(2):  # its own file is not set aside, so the same command works again
        out = main("MetaSAug_CE_train.py", *flags, "--meta_start", "2", "--save_name", "part", "--stage1", copy)
        assert "epoch 1 " not in out
        assert copy.read_bytes() == kept
    main("MetaSAug_LDAM_train.py", *flags, "--meta_start", "2", "--save_name", "ldam", "--stage1", stage1)
    main("MetaSAug_CE_train.py", *flags, "--meta_start", "4", "--save_name", "plain")
    main("MetaSAug_CE_train.py", *flags, "--meta_start", "4", "--save_name", "plain2", "--stage1", stage1)

    def last(name):
        return torch.load(checkpoints(tmp_path, "0", name)[1], weights_only=True)["state_dict"]

    for a, b in (("whole", "part"), ("plain", "plain2")):
        assert all(torch.equal(last(a)[k], last(b)[k]) for k in last(a))
    assert not torch.equal(last("whole")["linear.weight"], last("ldam")["linear.weight"])
    later = checkpoints(tmp_path, "0", "whole")[1]  # the end of stage 2
    inside = tmp_path / "inside.pth.tar"
    torch.save({k: v for k, v in torch.load(later, weights_only=True).items() if k != "checksum"} | {"epoch": 3}, inside)
    assert "seed 42" in refused("MetaSAug_CE_train.py", *flags, "--stage1", stage1, "--seed", "7")
    for path, changed, words in (
        (later, ["--meta_start", "3"], "stands at epoch 4"),
        (inside, ["--meta_start", "3"], "past the stage 1 of its run"),
        (stage1, ["--meta_start", "1"], "from 1 at most"),
        (stage1, ["--imb_factor", "0.2"], "cls_num_list"),
        (stage1, ["--arch", "resnet20"], "resnet8, not resnet20"),
    ):
        with pytest.raises(UserError, match=words):
            training.Run(
                options.parse_training("", [*flags, "--stage1", str(path), "--workdir", str(tmp_path), *changed]),
                "CE",
                tmp_path,
            )


@pytest.mark.filterwarnings("default")
def test_the_four_choices_of_stage_2(main, tmp_path):
    """Each equals the full method with its parts switched off: no meta-learning, no augmentation, nothing."""
    flags = [*QUICK, "--epochs", "4", "--meta_start", "2", "--batch-size", "64", "--lam", "0.75"]

    def train(name, *more):
        out = main("MetaSAug_LDAM_train.py", *flags, *more, "--save_name", name)
        folder = tmp_path / "checkpoint" / "ours" / "0"
        lines = [json.loads(line) for line in (folder / f"{name}_metrics.jsonl").read_text().splitlines()]
        return torch.load(folder / f"{name}_last.pth.tar", weights_only=True)["state_dict"], lines, out

    def distance(a, b):
        return max(float((a[k] - b[k]).norm() / b[k].norm()) for k in b)

    choices = {name: train(name, "--stage2", name) for name in ("metasaug", "isda", "reweight", "none")}
    full = choices["metasaug"][0]
    for name, switched_off, tolerance in (
        ("isda", ["--meta_lr", "0"], 1e-5),
        ("reweight", ["--meta_lr", "0", "--lam", "0"], 1e-5),
        ("none", ["--meta_start", "4"], 0),
    ):
        assert distance(choices[name][0], train(f"{name}_twin", *switched_off)[0]) <= tolerance, name
        assert distance(choices[name][0], full) > 10 * tolerance
    assert distance(choices["isda"][0], choices["reweight"][0]) > 1e-4
    for name, (_, lines, out) in choices.items():
        assert [line["stage"] for line in lines] == [1, 1, 2, 2]
        assert [line["meta_loss"] is None for line in lines] == [True, True, *[name != "metasaug"] * 2]
        assert [line["grad_norm"] is None for line in lines] == [True, True, *[name != "metasaug"] * 2]
        assert f"stage 2, {options.STAGE2[name]}: epochs 2 to 3" in out
    assert choices["metasaug"][1][3]["grad_norm"] > 0


def test_the_best_epoch_is_chosen_on_held_out_images(main, tmp_path):
    """The log says what the choice was made on."""
    held = ["--select_on", "heldout", "--num_heldout", "20"]
    flags = [*QUICK, "--epochs", "6", "--meta_start", "5", "--batch-size", "64", *held]
    out = main("MetaSAug_CE_train.py", *flags, "--save_name", "held")
    folder = tmp_path / "checkpoint" / "ours" / "0"
    lines = [json.loads(line) for line in (folder / "held_metrics.jsonl").read_text().splitlines()]
    summary = json.loads((folder / "held_summary.json").read_text())
    accuracies = [line["heldout_acc1"] for line in lines]
    assert summary["best"]["epoch"] == accuracies.index(max(accuracies))
    assert summary["best"]["heldout_acc1"] == max(accuracies)
    assert summary["last"]["heldout_acc1"] == accuracies[-1]
    assert summary["best"]["acc1"] == lines[summary["best"]["epoch"]]["test_acc1"]
    assert re.search(r"meta 100  held out \d+  test 540", out)
    assert f"held-out acc {accuracies[-1]:.2f}" in out
    assert "best is chosen on held-out training images" in out
    state = torch.load(checkpoints(tmp_path, "0", "held")[0], weights_only=True)
    assert state["epoch"] == summary["best"]["epoch"] + 1
    assert state["cls_num_list"] == summary["cls_num_list"]


def test_a_stage_1_of_the_images_now_held_out_is_refused(main, tmp_path):
    """As many images a class, but others: 15 to the meta set, or 10 to it and 5 held out."""
    flags = [*QUICK, "--imb_factor", "1", "--epochs", "2", "--meta_start", "1"]
    main("MetaSAug_CE_train.py", *flags, "--num_meta", "15", "--save_name", "a")
    folder = tmp_path / "checkpoint" / "ours" / "0"
    held = [*flags, "--select_on", "heldout", "--num_heldout", "5"]
    stage1 = ["--stage1", str(folder / "a_stage1.pth.tar")]

    def begin(*given):
        words = [*held, *given, "--workdir", str(tmp_path), "--save_name", "b"]
        return training.Run(options.parse_training("", words), "CE", folder)

    with pytest.raises(UserError, match="was trained with train_digest"):
        begin(*stage1)
    state = torch.load(folder / "a_stage1.pth.tar", weights_only=True)
    assert state["cls_num_list"] == begin().cls_num_list  # so the counts do not tell
    for key in ("train_digest", "checksum"):
        del state[key]
    torch.save(state, folder / "a_stage1.pth.tar")
    with pytest.raises(UserError, match="older version"):
        begin(*stage1)


def test_a_training_whose_output_nobody_reads_says_how_to_go_on(run):
    script, flags = ROOT / "MetaSAug_CE_train.py", " ".join([*QUICK, "--epochs", "30", "-p", "1"])
    result = run("sh", "-c", f"{{ {sys.executable} {script} {flags}; echo status $? >&2; }} | head -n 8")
    assert result.stdout.count("\n") == 8
    assert "nobody reads its output; to go on, give the same command with --resume auto" in result.stderr
    assert result.stderr.splitlines()[-1] == "status 141"
    assert len(result.stderr.splitlines()) == 2


def test_which_figure_chooses_the_best_epoch(tmp_path):
    def best(chosen_by):
        record = Record(tmp_path, chosen_by, [3, 2], chosen_by=chosen_by)
        for epoch, (test, heldout) in enumerate(((50.0, 10.0), (60.0, 30.0), (70.0, 20.0))):
            tested = Accuracy(test, [test, test], {"many": test, "medium": test, "few": test}, test)
            record.epoch(epoch, tested, {}, lambda: {"state_dict": {}}, more={"heldout_acc1": heldout})
        return record.best["epoch"]

    assert (best("acc1"), best("heldout_acc1")) == (2, 1)


def test_own_images_in_folders(run, tmp_path):
    from PIL import Image

    for split, counts in (("train", (30, 16)), ("test", (4, 3))):
        for label, count in zip(("cat", "dog"), counts, strict=True):
            folder = tmp_path / "my" / split / label
            folder.mkdir(parents=True)
            for i in range(count):
                Image.new("RGB", (50, 40), (i, 200 * (label == "cat"), 0)).save(folder / f"{i}.png")
    flags = [
        "--dataset",
        "folder",
        "--data_root",
        "my",
        "--arch",
        "resnet8",
        "--epochs",
        "2",
        "--batch-size",
        "16",
        "--no-cuda",
    ]
    out = run("MetaSAug_LDAM_train.py", *flags).stdout
    assert "training images a class: [20, 6]" in out
    tested = run("MetaSAug_test.py", "--data_root", "my", "--checkpoint_path", checkpoints(tmp_path, "0", "name")[1]).stdout
    assert re.match(r"Dataset: folder\tAccuracy: [\d.]+\tError: [\d.]+\n", tested)
    assert "cat" in tested
    assert "    20 training images" in tested


@pytest.mark.parametrize(
    ("script", "flags", "words"),
    [
        ("LDAM_train", ["--dataset", "mnist"], ["mnist", "cifar10"]),
        ("CE_train", ["--imb_factor", "2"], ["--imb_factor 2.0"]),
        ("CE_train", [], ["cifar10", "data/cifar-10-batches-py", "../cifar-10", "--data_root"]),
        ("CE_train", ["--dataset", "folder", "--data_root", "nowhere"], ["nowhere/train"]),
        ("CE_train", ["--dataset", "digits", "--num_meta", "500"], ["--num_meta 500", "class 0"]),
        ("CE_train", ["--dataset", "digits", "--arch", "resnet33"], ["resnet33", "6n"]),
        ("CE_train", ["--dataset", "digits", "--workdir", "file"], ["file", "cannot be written"]),
        ("test", ["--dataset", "digits"], ["--checkpoint_path"]),
        ("test", ["--dataset", "digits", "--checkpoint_path", "file"], ["file", "not a checkpoint"]),
    ],
)
def test_mistakes_get_one_line(refused, tmp_path, script, flags, words):
    (tmp_path / "file").write_text("something else")
    line = refused(f"MetaSAug_{script}.py", *flags, **({} if flags else {"CIFAR_MD5": "{}"}))
    assert all(word in line for word in words), line
    assert (tmp_path / "file").read_text() == "something else"
    assert not list(tmp_path.rglob("*.pth.tar"))


def test_checkpoints_that_do_not_fit_are_named(refused, tmp_path, monkeypatch):
    model = resnet.make_model("resnet8", 10)
    state = {"state_dict": model.state_dict(), "arch": "resnet8", "dataset": "digits", "imb_factor": 0.1}
    fits, seven, cut = (tmp_path / f"{name}.pth.tar" for name in ("fits", "seven", "cut"))
    torch.save(state, fits)
    torch.save({**state, "state_dict": {**model.state_dict(), "linear.weight": torch.zeros(7, 64)}}, seven)
    before = fits.read_bytes()
    cut.write_bytes(before[: len(before) // 2])
    line = refused("MetaSAug_test.py", "--checkpoint_path", fits, "--arch", "resnet20")
    assert "resnet8, not resnet20" in line
    for path, flags, words in (
        (fits, ["--dataset", "cifar100"], "--dataset digits, not cifar100"),
        (fits, ["--imb_factor", "0.5"], r"--imb_factor 0\.1, not 0\.5"),
        (seven, [], "7 classes.* 10"),
        (cut, [], "cut"),
        (tmp_path / "none", [], "there is no checkpoint"),
    ):
        monkeypatch.setattr("sys.argv", ["MetaSAug_test.py", "--checkpoint_path", str(path), *flags])
        with pytest.raises(UserError, match=words):
            MetaSAug_test.main()
    assert fits.read_bytes() == before


def test_a_run_that_diverges_stops_before_it_saves(refused, tmp_path):
    line = refused(
        "MetaSAug_CE_train.py", *QUICK, "--epochs", "1", "--meta_start", "1", "--lr", "1e30", "--batch-size", "50"
    )
    assert "the loss or a weight is not finite in epoch 0, step" in line
    assert not list(tmp_path.rglob("*.pth.tar"))


def test_help_shows_the_flags(run):
    out = run("MetaSAug_LDAM_train.py", "--help").stdout
    assert "--imb_factor" in out
    assert "--gpu" in out


def test_the_mains_are_short():
    for path in ROOT.glob("MetaSAug_*.py"):
        assert len(path.read_text().splitlines()) <= 100
