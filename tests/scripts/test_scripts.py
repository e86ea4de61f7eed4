"""The shell scripts: ten trainings and ten tests a table."""

import csv
import json
import os
import re
import signal
import subprocess

import pytest
import torch
from support.data import make_cifar
from support.places import ROOT

import resnet
from harness.training_flags import parse_training
from MetaSAug_LDAM_train import STAGE2


def parse(words):
    return parse_training("", STAGE2, words)


RATIOS = ["0.005", "0.01", "0.02", "0.05", "0.1"]
CELLS = [(dataset, ratio) for dataset in ("cifar10", "cifar100") for ratio in RATIOS]


def both_cifars(root, per_class, test_per_class):
    """Files of both sets; their CIFAR_MD5."""
    sums = {}
    for name, count in zip(("cifar10", "cifar100"), test_per_class, strict=True):
        sums |= json.loads(make_cifar(root, name, per_class, count))
    return json.dumps(sums)


@pytest.mark.parametrize("loss", ["LDAM", "CE"])
def test_training_scripts_name_every_cell_once(run, loss):
    out = run("sh", ROOT / "scripts" / f"MetaSAug_{loss}_train.sh", "--epochs", "3", PYTHON="echo").stdout
    lines = out.splitlines()
    assert len(lines) == 10
    for line, (dataset, ratio) in zip(lines, CELLS, strict=True):
        assert f"MetaSAug_{loss}_train.py" in line
        assert f"--dataset {dataset} --num_classes {dataset[5:]} --imb_factor {ratio} " in line
        assert f"--save_name MetaSAug_{dataset}_{loss}_imb{ratio} " in line
        assert line.endswith("--epochs 3")


def test_ten_checkpoints_are_tested_where_they_are_and_a_missing_one_is_named(run, tmp_path):
    """Six lie where the published scripts look, the others where ours are written; of two the first counts."""
    sums = both_cifars(tmp_path / "data", per_class=20, test_per_class=(20, 2))
    published = tmp_path / "checkpoint" / "ours"
    own = published / "LDAM"
    own.mkdir(parents=True)
    models = {"cifar10": resnet.make_model("resnet8", 10), "cifar100": resnet.make_model("resnet8", 100)}
    gone = ("cifar10", "0.02")
    for number, (dataset, ratio) in enumerate(CELLS):
        state = {"epoch": 200, "state_dict": models[dataset].state_dict(), "best_acc1": 1.0, "optimizer": {}}
        if (dataset, ratio) != gone:
            folder = published if number < 6 else own
            torch.save(state, folder / f"MetaSAug_{dataset}_LDAM_imb{ratio}_ckpt.pth.tar")
    (own / "MetaSAug_cifar10_LDAM_imb0.005_ckpt.pth.tar").write_text("not this one")
    script = ROOT / "scripts" / "MetaSAug_LDAM_test.sh"
    result = run("sh", script, "--no-cuda", status=1, CIFAR_MD5=sums)
    (line,) = result.stderr.splitlines()
    assert line.startswith("missing: checkpoint/ours/LDAM/MetaSAug_cifar10_LDAM_imb0.02_ckpt.pth.tar ")
    lines = [line for line in result.stdout.splitlines() if line.startswith("Dataset")]
    for line, (dataset, ratio) in zip(lines, [c for c in CELLS if c != gone], strict=True):
        assert re.match(
            rf"Dataset: {dataset}\tImb_factor: {round(1 / float(ratio))}\tAccuracy: [\d.]+\tError: [\d.]+$", line
        )


def test_without_checkpoints_every_file_is_named(run):
    for arguments, folder in (([], "checkpoint/ours/CE"), (["--no-cuda"], "checkpoint/ours/CE"), (["my"], "my")):
        result = run("sh", ROOT / "scripts" / "MetaSAug_CE_test.sh", *arguments, status=1)
        lines = result.stderr.splitlines()
        assert len(lines) == 10
        assert all(line.startswith(f"missing: {folder}/MetaSAug_cifar10") for line in lines)


def test_the_ablation_trains_four_choices_from_one_stage_1(run, tmp_path):
    script, flags = ROOT / "scripts" / "ablation.sh", ["--dataset", "digits", "--workdir", "w", "--lam=0.5"]

    def commands():
        command = f'PYTHON=echo SEEDS="1 7" sh {script} name "$@"'
        return run("sh", "-c", command, "sh", *flags).stdout.splitlines()

    lines = [line.split() for line in commands() if not line.startswith("==")]
    *trainings, report = lines
    parsed = [(words[0][-len("CE_train.py") :], parse(words[1:])) for words in trainings]
    assert [read.seed for _, read in parsed] == [1] * 7 + [7] * 7
    assert [read.stage2 for _, read in parsed[:7]] == ["none", *["reweight", "isda", "metasaug"] * 2]
    assert [script for script, _ in parsed[:7]] == ["CE_train.py"] * 4 + ["AM_train.py"] * 3
    folder = "w/checkpoint/ours/ablation/name"
    for _, read in parsed:
        assert (read.dataset, read.lam, read.workdir) == ("digits", 0.5, "w")
        assert (read.resume, read.idx) == ("auto", "ablation/name")
        first = f"{folder}/none_seed{read.seed}_stage1.pth.tar"
        assert read.stage1 == (None if read.stage2 == "none" else first)
    names = [read.save_name for _, read in parsed]
    assert len(set(names)) == 14
    assert report[1:] == [folder, "--out", f"{folder}/report"]

    (tmp_path / folder).mkdir(parents=True)
    for epochs, status in ((200, 0), (2, 2)):  # a shorter one would be carried on, with a stage 2 from epoch 1 on
        (tmp_path / folder / f"{names[0]}_summary.json").write_text(json.dumps({"flags": {"epochs": epochs}}, indent=1))
        err = run("sh", script, "name", *flags, PYTHON="echo", status=status).stderr
        assert ("none_seed1 is finished with another length than --epochs 200" in err) == bool(status)
    assert "usage" in run("sh", script, "--dataset", "digits", status=2).stderr


def test_finished_runs_are_told_from_others_by_their_flags(run, tmp_path):
    """Real trainings, in a folder with a space: nothing is done twice, and nothing of other flags is taken for finished."""
    flags = ["--dataset", "digits", "--imb_factor", "0.05", "--arch", "resnet8", "--epochs", "2", "--batch-size", "64",
             "--no-cuda", "--threads", "1", "--workdir", "my runs"]  # fmt: skip
    command = f'SEEDS=1 sh {ROOT}/scripts/ablation.sh digits "$@"'
    assert run("sh", "-c", command, "sh", *flags).stdout.count("done in") == 7
    folder = tmp_path / "my runs" / "checkpoint" / "ours" / "ablation" / "digits"
    kept = {path: path.read_bytes() for path in folder.iterdir() if path.is_file()}
    again = run("sh", "-c", command, "sh", *flags).stdout
    assert (again.count(" is finished: see "), again.count("done in")) == (7, 0)
    assert "my runs/checkpoint/ours/ablation/digits/report/report.html" in again
    for flag, value, named in (("--lr", 0.05, "--lr 0.1"), ("--imb_factor", 0.1, "0.05"), ("--epochs", 3, "--epochs 3")):
        assert named in run("sh", "-c", command, "sh", *flags, flag, value, status=2).stderr
    assert {path: path.read_bytes() for path in folder.iterdir() if path.is_file()} == kept


@pytest.mark.parametrize("script", ["ablation.sh name", "select_lam.sh CE name", "reproduce_cifar.sh", "train_all.sh CE"])
def test_what_a_script_relies_on_cannot_be_given(run, script):
    words = script.split()
    for flag in ("--save_name", "--save-name"):
        line = run("sh", ROOT / "scripts" / words[0], *words[1:], flag, "x", PYTHON="echo", status=2).stderr
        assert "leave it out" in line
    if words[0] != "train_all.sh":
        for flag in ("--idx", "--resume", "--resume=auto", "--stage1", "--seed"):
            line = run("sh", ROOT / "scripts" / words[0], *words[1:], flag, "x", PYTHON="echo", status=2).stderr
            assert "leave it out" in line


def test_a_table_of_lam_goes_before_that_of_the_project(run, tmp_path):
    """Every cell finds its λ; the published command's is the published one."""
    (tmp_path / "own.csv").write_text("dataset,loss,imb_factor,lam,source\ncifar10,CE,0.05,0.125,tried\n")
    script = ROOT / "scripts" / "MetaSAug_CE_train.sh"
    for table, wanted in ((None, 0.75), ("own.csv", 0.125)):
        lines = run("sh", script, PYTHON="echo", **({"LAM_TABLE": table} if table else {})).stdout.splitlines()
        parsed = [parse(line.split()[1:]) for line in lines]
        lams = {(read.dataset, read.imb_factor): read.lam for read in parsed}
        assert lams[("cifar10", 0.05)] == wanted
        assert [lam for cell, lam in lams.items() if cell != ("cifar10", 0.05)] == [0.75] * 9
    (tmp_path / "semicolons.csv").write_text("dataset;loss;imb_factor;lam\ncifar10;CE;0.05;0.125\n")
    (tmp_path / "word.csv").write_text("dataset,loss,imb_factor,lam\ncifar10,CE,0.05,much\n")
    for table in ("gone.csv", "semicolons.csv", "word.csv"):
        assert table in run("sh", script, PYTHON="echo", LAM_TABLE=table, status=2).stderr
    assert "gone.csv cannot be read" in run("sh", script, PYTHON="echo", LAM_TABLE="gone.csv", status=2).stderr
    with open(ROOT / "results" / "lam.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row for row in rows if row["source"] == "published command"] == [
        {"dataset": "cifar100", "loss": "LDAM", "imb_factor": "0.05", "lam": "0.75", "source": "published command"}
    ]


def test_lam_is_chosen_on_held_out_images(run, tmp_path):
    """Real trainings: one stage 1 for both λ, the better one on held-out images in the table that the trainings read."""
    flags = ["--dataset", "digits", "--imb_factor", "0.05", "--arch", "resnet8", "--epochs", "3", "--meta_start", "2",
             "--no-cuda", "--threads", "1", "--batch-size", "32", "--lr", "0.05"]  # fmt: skip
    command = f'LAMS="0.5 100" sh {ROOT}/scripts/select_lam.sh LDAM digits "$@"'
    out = run("sh", "-c", command, "sh", *flags).stdout
    folder = tmp_path / "checkpoint" / "ours" / "select" / "digits"
    last = {}
    for lam in ("0.5", "100"):
        summary = json.loads((folder / f"LDAM_lam{lam}_seed42_summary.json").read_text())
        assert summary["flags"]["select_on"] == "heldout"
        last[lam] = summary["last"]["heldout_acc1"]
    assert out.count("epoch 0  train loss") == 1  # stage 1 was trained once
    best = max(last, key=last.get)
    assert last["0.5"] != last["100"]
    assert re.search(rf"^\| {float(best)} +\| 1 +\| {last[best]:.2f} +\| [\d.]+ +\| chosen \|$", out, re.M)
    with open(folder / "report" / "chosen_lam.csv", newline="") as file:
        (row,) = csv.DictReader(file)
    assert [row[key] for key in ("dataset", "loss", "imb_factor", "lam")] == ["digits", "LDAM", "0.05", str(float(best))]
    again = run("sh", "-c", command, "sh", *flags).stdout
    assert again.count(" is finished") == 2
    more = command.replace("0.5 100", "100 200")
    out = run("sh", "-c", more, "sh", *flags).stdout  # a further λ joins, with the same stage 1
    assert "epoch 0  train loss" not in out
    assert re.search(r"^\| 200\.0 ", out, re.M)
    assert re.search(r"^\| 0\.5 ", out, re.M)
    for owned in ("--lam", "--seed", "--select_on", "--select-on=test"):
        assert "leave it out" in run("sh", "-c", command, "sh", *flags, owned, "1", status=2).stderr
    other = run("sh", "-c", command, "sh", *flags, "--imb_factor", "0.1", status=2).stderr
    assert "--imb_factor 0.05" in other  # its λ would have been chosen from the runs of another cell
    alone = f'LAMS=0.5 sh {ROOT}/scripts/select_lam.sh CE alone "$@"'
    assert "nothing was chosen" in run("sh", "-c", alone, "sh", *flags, status=2).stderr
    for wrong in ([], ["LDAM"], ["ldam", "x"], ["CE", "--epochs"]):
        assert "usage" in run("sh", ROOT / "scripts" / "select_lam.sh", *wrong, status=2).stderr


def test_the_study_is_an_ablation_of_short_runs(run):
    script = ROOT / "scripts" / "study.sh"
    for variables, wanted in (({}, ("cifar100", "data")), ({"CIFAR_FOLDERS": "my"}, ("folder", "my/cifar100"))):
        out = run("sh", script, "cifar100", "--lam", "0.5", PYTHON="echo", **variables).stdout
        parsed = [parse(line.split()[1:]) for line in out.splitlines() if "_train.py" in line]
        assert len(parsed) == 21
        assert {read.seed for read in parsed} == {1, 2, 3}
        for read in parsed:
            assert (read.dataset, read.data_root) == wanted
            assert (read.arch, read.epochs, read.imb_factor, read.lam) == ("resnet14", 30, 0.01, 0.5)
            assert read.idx == "ablation/cifar100"
    assert "usage" in run("sh", script, "digits", status=2).stderr


def cells_of(lines):
    return [(read.dataset, str(read.imb_factor), line.split("MetaSAug_")[1].split("_train")[0], read.seed)
            for line in lines if "_train.py" in line
            for read in [parse(line.split()[1:])]]  # fmt: skip


def test_the_published_cells_are_shared_out_whole_and_once(run):
    def cells(*flags):
        command = f'PYTHON=echo SEEDS="1 2" sh {ROOT}/scripts/reproduce_cifar.sh "$@"'
        lines = run("sh", "-c", command, "sh", *flags, "--epochs", "200").stdout.splitlines()
        assert lines[-1].split()[1:] == ["./checkpoint/ours/reproduce", "--out", "./checkpoint/ours/reproduce/report"]
        return cells_of(lines)

    whole = cells()
    assert sorted(whole) == sorted((d, r, loss, s) for d, r in CELLS for loss in ("CE", "LDAM") for s in (1, 2))
    for count in (2, 3, 7):
        parts = [cells("--shard", f"{i}/{count}") for i in range(1, count + 1)]
        assert sorted(cell for part in parts for cell in part) == sorted(whole)
        assert max(map(len, parts)) - min(map(len, parts)) <= 2  # both losses of a cell stay together
    for wrong in ("0/2", "3/2", "x", "1/"):
        assert "--shard" in run("sh", ROOT / "scripts" / "reproduce_cifar.sh", "--shard", wrong, status=2).stderr


def test_a_slurm_array_can_be_run_again_in_part(run):
    def cells(index, **variables):
        told = {"SLURM_ARRAY_TASK_ID": str(index), "SLURM_SUBMIT_DIR": str(ROOT), "PYTHON": "echo", **variables}
        out = run("sh", "-c", f"bash {ROOT}/scripts/slurm_reproduce_cifar.sh", **told).stdout
        return cells_of(out.splitlines())

    whole = [cells(index, SLURM_ARRAY_TASK_COUNT="10") for index in range(1, 11)]
    assert sorted(cell for part in whole for cell in part) == sorted(
        (d, r, loss, 42) for d, r in CELLS for loss in ("CE", "LDAM")
    )
    assert cells(4, SLURM_ARRAY_TASK_COUNT="1") == whole[3]  # --array=4
    assert len(cells(1, SHARDS="5")) == 4


@pytest.mark.slow
def test_all_published_cells_killed_once_and_restarted_no_cell_twice(run, environment, tmp_path):
    sums = both_cifars(tmp_path / "data", per_class=215, test_per_class=(5, 1))
    quick = ["--epochs", "2", "--arch", "resnet8", "--batch-size", "500", "-p", "1", "--no-cuda"]
    command = ["sh", str(ROOT / "scripts" / "reproduce_cifar.sh"), *quick]
    env = {**environment, "CIFAR_MD5": sums, "PYTHONUNBUFFERED": "1"}
    lines = []
    popen = {"stdout": subprocess.PIPE, "text": True, "start_new_session": True}
    with subprocess.Popen(command, cwd=tmp_path, env=env, **popen) as first:
        for line in first.stdout:
            lines.append(line)
            if sum("done in" in before for before in lines) == 4 and line.startswith("epoch 1/2 stage 2  [1/"):
                os.killpg(first.pid, signal.SIGKILL)  # in the middle of the fifth cell
                break
    folder = tmp_path / "checkpoint" / "ours" / "reproduce"
    kept = {path: path.stat().st_mtime_ns for path in folder.glob("*_summary.json")}
    assert len(kept) == 4
    out = run(*command, **{k: env[k] for k in ("CIFAR_MD5",)}).stdout
    assert out.count(" is finished") == 4
    assert out.count("done in") == 16
    assert "going on in epoch" in out
    summaries = sorted(folder.glob("*_summary.json"))
    assert len(summaries) == 20
    assert {path: path.stat().st_mtime_ns for path in kept} == kept
    for path in summaries:
        log = path.with_name(path.name.replace("_summary.json", "_metrics.jsonl"))
        epochs = [json.loads(line)["epoch"] for line in log.read_text().splitlines()]
        assert epochs == ([0, 1] if "_CE_" in path.name else [1])  # LDAM goes on from CE's stage 1
    assert not (folder / "earlier").exists()
    page = (folder / "report" / "report.md").read_text()
    assert len([line for line in page.splitlines() if line.startswith("| MetaSAug_") and "| last (1)" in line]) == 20
    assert "Against the publication" not in page  # two epochs are not the published length
