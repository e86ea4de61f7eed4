"""The shell scripts: ten trainings and ten tests a table."""

import csv
import json
import os
import re
import shutil
import signal
import subprocess
from functools import partial

import pytest
import torch
from support.commands import parsed
from support.data import make_cifar
from support.places import ROOT

import resnet

RATIOS = ["0.005", "0.01", "0.02", "0.05", "0.1"]
CELLS = [(dataset, ratio) for dataset in ("cifar10", "cifar100") for ratio in RATIOS]


def both_cifars(root, per_class, test_per_class):
    """Files of both sets; their CIFAR_MD5."""
    sums = {}
    for name, count in zip(("cifar10", "cifar100"), test_per_class, strict=True):
        sums |= json.loads(make_cifar(root, name, per_class, count))
    return json.dumps(sums)


@pytest.mark.parametrize("loss", ["LDAM", "CE"])
def test_training_scripts_name_every_cell_once(echoed, loss):
    lines = echoed(f"MetaSAug_{loss}_train.sh", "--epochs", "3")
    for line, (dataset, ratio) in zip(lines, CELLS, strict=True):
        cell = f"--dataset {dataset} --num_classes {dataset[5:]} --imb_factor {ratio} "
        words = (f"MetaSAug_{loss}_train.py", cell, f"--save_name MetaSAug_{dataset}_{loss}_imb{ratio} ")
        assert all(each in line for each in words)
        assert line.endswith("--epochs 3")


def test_ten_checkpoints_are_tested_where_they_are_and_a_missing_one_is_named(sh, tmp_path):
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
    result = sh("MetaSAug_LDAM_test.sh", "--no-cuda", status=1, CIFAR_MD5=sums)
    (line,) = result.stderr.splitlines()
    assert line.startswith("missing: checkpoint/ours/LDAM/MetaSAug_cifar10_LDAM_imb0.02_ckpt.pth.tar ")
    lines = [line for line in result.stdout.splitlines() if line.startswith("Dataset")]
    for line, (dataset, ratio) in zip(lines, [c for c in CELLS if c != gone], strict=True):
        factor = round(1 / float(ratio))
        assert re.match(rf"Dataset: {dataset}\tImb_factor: {factor}\tAccuracy: [\d.]+\tError: [\d.]+$", line)


def test_without_checkpoints_every_file_is_named(sh):
    for arguments, folder in (([], "checkpoint/ours/CE"), (["--no-cuda"], "checkpoint/ours/CE"), (["my"], "my")):
        lines = sh("MetaSAug_CE_test.sh", *arguments, status=1).stderr.splitlines()
        assert len(lines) == 10
        assert all(line.startswith(f"missing: {folder}/MetaSAug_cifar10") for line in lines)


@pytest.mark.parametrize("script", ["ablation.sh name", "select_lam.sh CE name", "reproduce_cifar.sh", "train_all.sh CE"])
def test_what_a_script_relies_on_cannot_be_given(sh, script):
    more = [] if "train_all.sh" in script else ["--idx", "--resume", "--resume=auto", "--stage1", "--seed"]
    for flag in ("--save_name", "--save-name", *more):
        assert "leave it out" in sh(*script.split(), flag, "x", PYTHON="echo", status=2).stderr


def test_a_table_of_lam_goes_before_that_of_the_project(sh, echoed, tmp_path):
    """Every cell finds its λ; the published command's is the published one."""
    (tmp_path / "own.csv").write_text("dataset,loss,imb_factor,lam,source\ncifar10,CE,0.05,0.125,tried\n")
    for variables, wanted in (({}, 0.75), ({"LAM_TABLE": "own.csv"}, 0.125)):
        lams = {(read.dataset, read.imb_factor): read.lam for read in parsed(echoed("MetaSAug_CE_train.sh", **variables))}
        assert lams.pop(("cifar10", 0.05)) == wanted
        assert list(lams.values()) == [0.75] * 9
    (tmp_path / "semicolons.csv").write_text("dataset;loss;imb_factor;lam\ncifar10;CE;0.05;0.125\n")
    (tmp_path / "word.csv").write_text("dataset,loss,imb_factor,lam\ncifar10,CE,0.05,much\n")
    for words in ("gone.csv cannot be read", "semicolons.csv", "word.csv"):
        assert words in sh("MetaSAug_CE_train.sh", PYTHON="echo", LAM_TABLE=words.split()[0], status=2).stderr
    rows = csv.DictReader((ROOT / "results" / "lam.csv").read_text().splitlines())
    assert [row for row in rows if row["source"] == "published command"] == [
        {"dataset": "cifar100", "loss": "LDAM", "imb_factor": "0.05", "lam": "0.75", "source": "published command"}
    ]


@pytest.mark.slow
def test_lam_is_chosen_on_held_out_images(sh, tmp_path, tiny_network):
    """Real trainings: one stage 1 for both λ, the better one on held-out images in the table that the trainings read."""
    flags = ["--dataset", "digits", "--imb_factor", "0.05", *tiny_network, "--epochs", "4", "--meta_start", "2",
             "--no-cuda", "--threads", "1", "--batch-size", "16", "--lr", "0.05"]  # fmt: skip
    select = partial(sh, "select_lam.sh", "LDAM", "digits", *flags)
    out = select(LAMS="0.5 20").stdout
    folder = tmp_path / "checkpoint" / "ours" / "select" / "digits"
    last = {}
    for lam in ("0.5", "20"):
        summary = json.loads((folder / f"LDAM_lam{lam}_seed42_summary.json").read_text())
        assert summary["flags"]["select_on"] == "heldout"
        last[lam] = summary["last"]["heldout_acc1"]
    assert out.count("epoch 0  train loss") == 1  # stage 1 was trained once
    best = max(last, key=last.get)
    assert last["0.5"] != last["20"]
    assert re.search(rf"^\| {float(best)} +\| 1 +\| {last[best]:.2f} +\| [\d.]+ +\| chosen \|$", out, re.M)
    (row,) = csv.DictReader((folder / "report" / "chosen_lam.csv").read_text().splitlines())
    assert [row[key] for key in ("dataset", "loss", "imb_factor", "lam")] == ["digits", "LDAM", "0.05", str(float(best))]
    assert select(LAMS="0.5 20").stdout.count(" is finished") == 2
    out = select(LAMS="20 40").stdout  # a further λ joins, with the same stage 1
    assert "epoch 0  train loss" not in out
    assert re.search(r"^\| 40\.0 ", out, re.M)
    assert re.search(r"^\| 0\.5 ", out, re.M)
    for owned in ("--lam", "--seed", "--select_on", "--select-on=test"):
        assert "leave it out" in select(owned, "1", LAMS="0.5 20", status=2).stderr
    # its λ would have been chosen from the runs of another cell
    assert "--imb_factor 0.05" in select("--imb_factor", "0.1", LAMS="0.5 20", status=2).stderr
    assert "nothing was chosen" in sh("select_lam.sh", "CE", "alone", *flags, LAMS="0.5", status=2).stderr
    for wrong in ([], ["LDAM"], ["ldam", "x"], ["CE", "--epochs"]):
        assert "usage" in sh("select_lam.sh", *wrong, status=2).stderr


def cells_of(lines):
    losses = [line.split("MetaSAug_")[1].split("_train")[0] for line in lines if "_train.py" in line]
    return [(read.dataset, str(read.imb_factor), loss, read.seed) for loss, read in zip(losses, parsed(lines), strict=True)]


def test_the_published_cells_are_shared_out_whole_and_once(sh, echoed):
    def cells(*flags):
        lines = echoed("reproduce_cifar.sh", *flags, "--epochs", "200", SEEDS="1 2")
        runs = "./checkpoint/ours/reproduce"
        assert lines[-1].split()[1:] == [runs, "--out", f"{runs}/report", "--force"]
        return cells_of(lines)

    whole = cells()
    assert sorted(whole) == sorted((d, r, loss, s) for d, r in CELLS for loss in ("CE", "LDAM") for s in (1, 2))
    for count in (2, 3, 7):
        parts = [cells("--shard", f"{i}/{count}") for i in range(1, count + 1)]
        assert sorted(cell for part in parts for cell in part) == sorted(whole)
        assert max(map(len, parts)) - min(map(len, parts)) <= 2  # both losses of a cell stay together
    for wrong in ("0/2", "3/2", "x", "1/"):
        assert "--shard" in sh("reproduce_cifar.sh", "--shard", wrong, status=2).stderr


def test_a_slurm_array_can_be_run_again_in_part(run):
    def cells(index, **variables):
        told = {"SLURM_ARRAY_TASK_ID": str(index), "SLURM_SUBMIT_DIR": str(ROOT), "PYTHON": "echo", **variables}
        return cells_of(run("sh", "-c", f"bash {ROOT}/scripts/slurm_reproduce_cifar.sh", **told).stdout.splitlines())

    whole = [cells(index, SLURM_ARRAY_TASK_COUNT="10") for index in range(1, 11)]
    expected = [(*cell, loss, 42) for cell in CELLS for loss in ("CE", "LDAM")]
    assert sorted(cell for part in whole for cell in part) == sorted(expected)
    assert cells(4, SLURM_ARRAY_TASK_COUNT="1") == whole[3]  # --array=4
    assert len(cells(1, SHARDS="5")) == 4


@pytest.mark.slow
def test_all_published_cells_killed_once_and_restarted_no_cell_twice(run, environment, tmp_path):
    sums = both_cifars(tmp_path / "data", per_class=215, test_per_class=(5, 1))
    shutil.copy(ROOT / "tests" / "support" / "tiny_networks.py", tmp_path)
    quick = ["--epochs", "2", "--arch", "tiny_networks:logits", "--batch-size", "500", "-p", "1", "--no-cuda"]
    command = ["sh", str(ROOT / "scripts" / "reproduce_cifar.sh"), *quick]
    env, done = {**environment, "CIFAR_MD5": sums, "PYTHONUNBUFFERED": "1"}, 0
    popen = {"stdout": subprocess.PIPE, "text": True, "start_new_session": True}
    with subprocess.Popen(command, cwd=tmp_path, env=env, **popen) as first:
        for line in first.stdout:
            done += "done in" in line
            if done == 4 and line.startswith("epoch 1/2 stage 2  [1/"):
                os.killpg(first.pid, signal.SIGKILL)  # in the middle of the fifth cell
                break
    folder = tmp_path / "checkpoint" / "ours" / "reproduce"
    kept = {path: path.stat().st_mtime_ns for path in folder.glob("*_summary.json")}
    assert len(kept) == 4
    out = run(*command, CIFAR_MD5=sums).stdout
    assert (out.count(" is finished"), out.count("done in")) == (4, 16)
    assert "going on in epoch" in out
    summaries = sorted(folder.glob("*_summary.json"))
    assert len(summaries) == 20
    assert {path: path.stat().st_mtime_ns for path in kept} == kept
    for path in summaries:
        log = path.with_name(path.name.replace("_summary.json", "_metrics.jsonl"))
        epochs = [json.loads(line)["epoch"] for line in log.read_text().splitlines()]
        assert epochs == ([0, 1] if "_CE_" in path.name else [1])  # LDAM goes on from CE's stage 1
    assert not (folder / "earlier").exists()
    assert len([line for line in out.splitlines() if line.startswith("| MetaSAug_") and "| last (1)" in line]) == 20
    page = (folder / "report" / "report.html").read_text()
    assert page.count('<section class="setting"') == 10  # of each loss, on both sets at each ratio
    assert "Against the publication" not in page  # two epochs are not the published length
