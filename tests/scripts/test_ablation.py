"""scripts/ablation.sh and the study: losses, choices of stage 2 and seeds, from one stage 1 a seed."""

import csv
import json
import re
from functools import partial

import pytest
from support.commands import parsed

from covariance_rules import RULES
from harness.flags import BALANCE, META_IMAGES, UNSAID
from harness.training_flags import VIRTUAL
from meta_step import STAGE2

FOLDER = "checkpoint/ours/ablation/name"


def test_the_ablation_trains_four_choices_from_one_stage_1(sh, echoed, tmp_path):
    flags = ["--dataset", "digits", "--workdir", "w", "--lam=0.5"]
    lines = [line for line in echoed("ablation.sh", "name", *flags, SEEDS="1 7") if not line.startswith("==")]
    reads = parsed(lines)
    assert [read.seed for read in reads] == [1] * 7 + [7] * 7
    assert [read.stage2 for read in reads[:7]] == ["none", *["reweight", "isda", "metasaug"] * 2]
    assert [line.split()[0][-len("CE_train.py") :] for line in lines[:7]] == ["CE_train.py"] * 4 + ["AM_train.py"] * 3
    folder = "w/checkpoint/ours/ablation/name"
    for read in reads:
        own = (read.dataset, read.lam, read.workdir, read.resume, read.idx)
        assert own == ("digits", 0.5, "w", "auto", "ablation/name")
        first = f"{folder}/none_seed{read.seed}_stage1.pth.tar"
        assert read.stage1 == (None if read.stage2 == "none" else first)
    assert len(lines) - 1 == len(reads) == len({read.save_name for read in reads}) == 14
    assert lines[-1].split()[1:] == [folder, "--out", f"{folder}/report", "--force"]

    (tmp_path / folder).mkdir(parents=True)
    summary = tmp_path / folder / f"{reads[0].save_name}_summary.json"
    for epochs, status in ((200, 0), (2, 2)):  # a shorter one would be carried on, with a stage 2 from epoch 1 on
        summary.write_text(json.dumps({"flags": {"epochs": epochs}}, indent=1))
        err = sh("ablation.sh", "name", *flags, PYTHON="echo", status=status).stderr
        assert ("none_seed1 is finished with another length than --epochs 200" in err) == bool(status)
    assert "usage" in sh("ablation.sh", "--dataset", "digits", status=2).stderr


def test_finished_runs_are_told_from_others_by_their_flags(sh, tmp_path, tiny_network):
    """Real trainings, in a folder with a space: nothing is done twice, and nothing of other flags is taken for finished."""
    flags = ["--dataset", "digits", "--imb_factor", "0.05", *tiny_network, "--epochs", "2", "--batch-size", "64",
             "--no-cuda", "--threads", "1", "--workdir", "my runs"]  # fmt: skip
    ablation = partial(sh, "ablation.sh", "digits", *flags, SEEDS="1", STAGE2="isda metasaug")
    assert ablation().stdout.count("done in") == 5
    folder = tmp_path / "my runs" / "checkpoint" / "ours" / "ablation" / "digits"
    kept = {path: path.read_bytes() for path in folder.iterdir() if path.is_file()}
    again = ablation().stdout
    assert (again.count(" is finished: see "), again.count("done in")) == (5, 0)
    assert "my runs/checkpoint/ours/ablation/digits/report/report.html" in again
    for flag, value, named in (("--lr", 0.05, "--lr 0.1"), ("--imb_factor", 0.1, "0.05"), ("--epochs", 3, "--epochs 3")):
        assert named in ablation(flag, value, status=2).stderr
    assert {path: path.read_bytes() for path in folder.iterdir() if path.is_file()} == kept


def trained(lines):
    """The trainings among the lines that a script echoes: loss and flags of each."""
    lines = [line for line in lines if "_train.py" in line]
    losses = [line.split("MetaSAug_")[1].split("_train")[0] for line in lines]
    return list(zip(losses, parsed(lines), strict=True))


def outcome(read):
    """The flags of stage 2 that are not the default."""
    usual = {**UNSAID, "lam": 0.25, "meta_lr": 0.1}
    return {name: value for name in usual if (value := getattr(read, name)) != usual[name]}


WORDS = {  # what may stand after a +: the flags, and the choices of --stage2 that may not have it
    "meta_train": ({"meta_images": "train"}, ""),
    "meta_loss": ({"meta_images": "loss"}, ""),
    "stage2_lr=3": ({"stage2_lr": 3.0}, ""),
    "prior": ({"balance": "prior"}, "none"),
    "unweighted": ({"balance": "none"}, "none"),
    "lam=0.5": ({"lam": 0.5}, "none reweight"),
    "relative": ({"meta_update": "relative"}, "none reweight isda"),
    "head": ({"virtual": "head"}, "none reweight isda"),
    "meta_lr=1e4": ({"meta_lr": 1e4}, "none reweight isda"),
    "meta_step_size=.2": ({"meta_step_size": 0.2}, "none reweight isda"),
}


def test_every_choice_of_stage_2_can_be_listed(sh, echoed):
    """One training for each loss and seed; what changes nothing beside the others is refused before anything is trained."""
    right = {choice: {"stage2": choice} for choice in STAGE2}
    wrong = []
    for choice in STAGE2:
        for word, (flags, without) in WORDS.items():
            if choice in without.split():
                wrong.append(f"{choice}+{word}")
            else:
                right[f"{choice}+{word}"] = {"stage2": choice, **flags}
    runs = trained(echoed("ablation.sh", "name", SEEDS="4", LOSSES="LDAM", STAGE2=" ".join(right)))
    found = {read.save_name: (loss, outcome(read)) for loss, read in runs}
    assert len(found) == len(runs) == len(right)
    for choice, flags in right.items():
        named = f"{choice}_seed4" if choice.startswith("none") else f"LDAM_{choice}_seed4"
        flags = {name: value for name, value in flags.items() if value != "metasaug"}  # the default
        assert found[named] == ("CE" if choice.startswith("none") else "LDAM", flags)
    for name, values in (("meta_images", META_IMAGES), ("balance", BALANCE), ("meta_update", RULES), ("virtual", VIRTUAL)):
        assert {flags.get(name, UNSAID[name]) for _, flags in found.values()} == {*values}, name
    wrong += ["augment", "isda+", "+prior", "isda+augment", "isda+lam=", "isda+lam=x", "isda+lam=-1", "isda+seed=1",
              "metasaug+head+relative+head", "isda+meta_train+meta_loss"]  # fmt: skip
    for choice in wrong:
        result = sh("ablation.sh", "name", PYTHON="echo", STAGE2=f"isda {choice}", status=2)
        (line,) = result.stderr.splitlines()
        assert f"error: STAGE2 has {choice}, and there is no such choice" in line
        assert result.stdout == ""


def test_flags_of_one_choice_go_before_those_for_all(echoed):
    lines = echoed("ablation.sh", "name", "--lam=0.75", "--balance", "none", SEEDS="1",
                   STAGE2="none+stage2_lr=2 isda+lam=0.5+prior metasaug+relative+head")  # fmt: skip
    for loss, read in trained(lines):
        own = {
            "none_seed1": ("none", 0.75, "none", 1.0),
            "none+stage2_lr=2_seed1": ("none", 0.75, "none", 2.0),
            f"{loss}_isda+lam=0.5+prior_seed1": ("isda", 0.5, "prior", 1.0),
            f"{loss}_metasaug+relative+head_seed1": ("metasaug", 0.75, "none", 1.0),
        }
        assert (read.stage2, read.lam, read.balance, read.stage2_lr) == own[read.save_name]
    assert [loss for loss, _ in trained(lines)] == ["CE"] * 4 + ["LDAM"] * 2


def test_seeds_are_shared_out_whole_and_once(sh, echoed):
    """So each part trains the stage 1 of its seeds, and no other part needs it."""

    def part(*flags, **variables):
        lines = echoed("ablation.sh", "name", *flags, "--lr", "0.05", **variables)
        assert lines[-1].split()[1:] == [f"./{FOLDER}", "--out", f"./{FOLDER}/report", "--force"]
        return [(read.seed, read.save_name, read.stage1) for _, read in trained(lines)]

    for seeds, count in (("1 2", 2), ("5 3 9 4 0", 2), ("5 3 9 4 0", 5)):
        told = {"SEEDS": seeds, "STAGE2": "reweight none+meta_train metasaug+head"}
        whole = part(**told)
        assert len(whole) == 6 * len(seeds.split())
        parts = [part("--shard", f"{i}/{count}", **told) for i in range(1, count + 1)]
        assert parts[0] == part(f"--shard=1/{count}", **told)
        assert sorted(run for each in parts for run in each) == sorted(whole)
        for each in parts:
            own = {f"./{FOLDER}/{name}_stage1.pth.tar" for _, name, stage1 in each if stage1 is None}
            assert {stage1 for *_, stage1 in each} - {None} == own != set()
    study = trained(echoed("study.sh", "cifar10", "--shard", "2/3", "--lam", "0.5"))
    assert {(read.seed, read.lam, read.arch) for _, read in study} == {(2, 0.5, "resnet14")}


@pytest.mark.parametrize(
    ("flags", "variables", "words"),
    [
        (["--shard", "1/4"], {}, "--shard 1/4: a part has whole seeds, and of 3 seeds there are no 4 parts"),
        (["--shard", "0/2"], {}, "--shard 0/2 makes no sense: write I/N for the I-th of N parts"),
        (["--shard"], {}, "--shard  makes no sense"),
        (["--shard", "08/9"], {}, "--shard 08/9 makes no sense"),
        (["--lr", "1", "--shard", "1/2"], {}, "--shard I/N goes before the flags of the trainings"),
        ([], {"LOSSES": "CE focal"}, "LOSSES has focal: there is no MetaSAug_focal_train.py"),
        ([], {"SEEDS": "1 two"}, "SEEDS has two: a seed is a number of 0 or more"),
        ([], {"SEEDS": "1 2 1"}, "SEEDS has 1 twice"),
        ([], {"SEEDS": "1 01"}, "SEEDS has 01: a seed is a number of 0 or more"),
    ],
)
def test_what_cannot_be_trained_is_said_before_anything_is(sh, flags, variables, words):
    result = sh("ablation.sh", "name", *flags, PYTHON="echo", status=2, **variables)
    (line,) = result.stderr.splitlines()
    assert line.startswith(f"error: {words}")
    assert result.stdout == ""


@pytest.mark.slow
def test_two_parts_end_in_one_report_over_their_seeds(sh, tmp_path, tiny_network):
    """Real trainings: a stage 1 a seed, and in the last part's report each choice is a row of two seeds."""
    flags = ["--dataset", "digits", "--imb_factor", "0.05", *tiny_network, "--epochs", "2", "--meta_start", "1",
             "--batch-size", "64", "--no-cuda", "--threads", "1"]  # fmt: skip
    told = {"SEEDS": "1 2", "LOSSES": "LDAM", "STAGE2": "reweight+prior metasaug+relative+head"}
    outs = [sh("ablation.sh", "name", "--shard", f"{i}/2", *flags, **told).stdout for i in (2, 1)]
    for out in outs:
        assert (out.count("done in"), out.count("\nepoch 0  train loss"), out.count(" is finished")) == (3, 1, 0)
        assert "stage 2 from epoch 1 on: MetaSAug, --meta_update relative, --virtual head" in out
    rows = re.findall(r"^\| ([^|]+?) +\| 2 +\| [\d.]+ ± [\d.]+ ", outs[1], re.M)
    assert len(rows) == 3
    assert [sum(word in row for row in rows) for word in ("none", "reweight", "metasaug")] == [1, 1, 1]
    with open(tmp_path / FOLDER / "report" / "runs.csv", newline="") as file:
        table = [row for row in csv.DictReader(file) if row["which"] == "last"]
    assert sorted((row["stage2"], row["seed"]) for row in table) == [
        (choice, seed) for choice in ("metasaug", "none", "reweight") for seed in ("1", "2")
    ]
    again = sh("ablation.sh", "name", *flags, **told).stdout  # the whole: all is there
    assert (again.count("done in"), again.count(" is finished")) == (0, 6)


def test_the_study_is_an_ablation_of_short_runs(sh, echoed):
    for variables, wanted in (({}, ("cifar100", "data")), ({"CIFAR_FOLDERS": "my"}, ("folder", "my/cifar100"))):
        reads = parsed(echoed("study.sh", "cifar100", "--lam", "0.5", **variables))
        assert len(reads) == 21
        assert {read.seed for read in reads} == {1, 2, 3}
        for read in reads:
            assert (read.dataset, read.data_root, read.idx) == (*wanted, "ablation/cifar100")
            assert (read.arch, read.epochs, read.imb_factor, read.lam) == ("resnet14", 30, 0.01, 0.5)
    assert "usage" in sh("study.sh", "digits", status=2).stderr
