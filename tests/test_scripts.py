"""The shell scripts: ten trainings and ten tests a table."""

import json
import re

import pytest
from conftest import ROOT, make_cifar

import options

RATIOS = ["0.005", "0.01", "0.02", "0.05", "0.1"]
CELLS = [(dataset, ratio) for dataset in ("cifar10", "cifar100") for ratio in RATIOS]


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


def test_demo_trains_twice_and_compares(run):
    lines = run("sh", ROOT / "scripts" / "demo.sh", PYTHON="echo").stdout.splitlines()
    commands = [line.split() for line in lines if not line.startswith("==")]
    assert [words[0] for words in commands] == ["MetaSAug_CE_train.py", "MetaSAug_LDAM_train.py", "report.py"]
    plain, metasaug = (options.parse_training("", words[1:]) for words in commands[:2])
    assert plain.meta_start >= plain.epochs
    assert metasaug.meta_start < metasaug.epochs
    for flags, summary in ((plain, commands[2][1]), (metasaug, commands[2][2])):
        assert summary == f"{flags.workdir}/checkpoint/ours/{flags.idx}/{flags.save_name}_summary.json"


def test_benchmark_measures_both_steps(run, refused, tmp_path):
    small = ["--arch", "resnet8", "--batch-size", "4", "--num_classes", "10", "--repeats", "1", "--no-cuda"]
    out = run("benchmarks/meta_step.py", *small, "--json", "rows.json").stdout
    rows = json.loads((tmp_path / "rows.json").read_text())
    assert [row["name"] for row in rows] == ["cross-entropy step", "MetaSAug step"]
    assert rows[0]["ratio_to_ce"] == 1
    assert rows[1]["seconds"] > 0
    assert "MetaSAug step" in out
    assert "--repeats 0" in refused("benchmarks/meta_step.py", "--repeats", "0")


@pytest.mark.slow
def test_ten_trainings_and_ten_tests_and_a_missing_file(run, tmp_path):
    sums = make_cifar(tmp_path / "data", "cifar10", per_class=210, test_per_class=5)
    sums |= make_cifar(tmp_path / "data", "cifar100", per_class=210, test_per_class=1)
    quick = ["--arch", "resnet8", "--epochs", "1", "--meta_start", "1", "--batch-size", "500", "--no-cuda"]
    out = run("sh", ROOT / "scripts" / "MetaSAug_LDAM_train.sh", *quick, CIFAR_MD5=json.dumps(sums)).stdout
    trained = re.findall(r"^best epoch 0: accuracy ([\d.]+)", out, re.M)
    assert len(trained) == 10
    assert out.count("done in") == 10

    gone = "MetaSAug_cifar10_LDAM_imb0.02_ckpt.pth.tar"
    (tmp_path / "checkpoint" / "ours" / "LDAM" / gone).unlink()
    script = ROOT / "scripts" / "MetaSAug_LDAM_test.sh"
    result = run("sh", script, "checkpoint/ours/LDAM", "--no-cuda", status=1, CIFAR_MD5=json.dumps(sums))
    assert [line.split("/")[-1].split()[0] for line in result.stderr.splitlines()] == [gone]
    lines = [line for line in result.stdout.splitlines() if line.startswith("Dataset")]
    expected = [(cell, accuracy) for cell, accuracy in zip(CELLS, trained, strict=True) if cell != ("cifar10", "0.02")]
    for line, ((dataset, ratio), accuracy) in zip(lines, expected, strict=True):
        assert line.startswith(f"Dataset: {dataset}\tImb_factor: {round(1 / float(ratio))}\tAccuracy: {accuracy}\t")


def test_without_checkpoints_every_file_is_named(run):
    for arguments, folder in (([], "checkpoint/ours/CE"), (["--no-cuda"], "checkpoint/ours/CE"), (["my"], "my")):
        result = run("sh", ROOT / "scripts" / "MetaSAug_CE_test.sh", *arguments, status=1)
        lines = result.stderr.splitlines()
        assert len(lines) == 10
        assert all(line.startswith(f"missing: {folder}/MetaSAug_cifar10") for line in lines)
