"""The shell scripts: ten tests a table, and sweeps by another name."""

import json
import re
import shutil

import pytest
import torch
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
    result = run(f"sh {ROOT}/scripts/MetaSAug_LDAM_test.sh --no-cuda", status=1, CIFAR_MD5=sums)
    (line,) = result.stderr.splitlines()
    assert line.startswith("missing: checkpoint/ours/LDAM/MetaSAug_cifar10_LDAM_imb0.02_ckpt.pth.tar ")
    tested = re.findall(r"^Dataset: (\w+)\tImb_factor: (\d+)\tAccuracy: [\d.]+\tError: [\d.]+$", result.stdout, re.M)
    assert tested == [(dataset, f"{1 / float(ratio):.0f}") for dataset, ratio in CELLS if (dataset, ratio) != gone]


def test_without_checkpoints_every_file_is_named(run):
    for argument, folder in {"--no-cuda": "checkpoint/ours/CE", "my": "my"}.items():
        lines = run(f"sh {ROOT}/scripts/MetaSAug_CE_test.sh {argument}", status=1).stderr.splitlines()
        assert len(lines) == 10
        assert all(line.startswith(f"missing: {folder}/MetaSAug_cifar10") for line in lines)


@pytest.mark.parametrize("name", ["MetaSAug_LDAM_train", "MetaSAug_CE_train", "reproduce_cifar", "slurm_reproduce_cifar"])
def test_the_other_shell_scripts_are_sweeps(run, name):
    preset = {"MetaSAug_LDAM_train": "published_ldam", "MetaSAug_CE_train": "published_ce"}.get(name, "reproduce")
    script = f"bash {ROOT}/scripts/{name}.sh --idle '1 2'"
    out = run("sh", "-c", script, PYTHON="echo", SLURM_SUBMIT_DIR=str(ROOT)).stdout
    assert re.fullmatch(rf"\S*sweep.py {preset} --idle 1 2\n", out)


@pytest.mark.slow
def test_all_published_cells_share_stage_1(run, tmp_path):
    sums = both_cifars(tmp_path / "data", per_class=215, test_per_class=(5, 1))
    shutil.copy(ROOT / "tests" / "support" / "tiny_networks.py", tmp_path)
    quick = "--epochs 2 --arch tiny_networks:logits --batch-size 500 --no-cuda --jobs 2"
    out = run(f"sh {ROOT}/scripts/reproduce_cifar.sh {quick}", CIFAR_MD5=sums).stdout
    assert out.count(": done\n") == 20
    for path in (tmp_path / "checkpoint/ours/reproduce").glob("*_metrics.jsonl"):
        epochs = [json.loads(line)["epoch"] for line in path.read_text().splitlines()]
        assert epochs == ([0, 1] if "_CE_" in path.name else [1])
