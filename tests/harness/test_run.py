"""The life of a run and its files: what it goes on from, what it refuses, what it leaves alone."""

import json
import math
import shutil

import pytest
from support.refusals import refusal
from support.runs import FACTS, differences, end_epoch, files_of, saved_state, small_run, take_step

from harness.files import previous

GO_ON = "--resume auto"
RIGHTS = (1, 4, 2, 3, 0)  # images that are recognised after each epoch


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """The folder of a small run of five epochs, the second best of them the best of stage 2, which begins with the third."""
    folder = tmp_path_factory.mktemp("finished")
    with small_run(folder) as run:
        for _, right in zip(run.epochs, RIGHTS, strict=True):
            take_step(run)
            end_epoch(run, right, stage2_from=2)
    return folder


def test_the_best_epoch_is_chosen_among_those_of_stage_2(finished, tmp_path, capsys):
    """Stopped and killed anywhere, also grown from a run that had none; it ends as one that was never stopped."""

    def train(name, flags="", first=0, last=4, stage2_from=2):
        with small_run(tmp_path, GO_ON, f"--save_name {name} {flags}", cut=last < 4) as run:
            assert run.epoch == first
            for epoch in run.epochs:
                take_step(run)
                end_epoch(run, RIGHTS[epoch], stage2_from=stage2_from)
                if epoch == last:
                    break
        return saved_state(tmp_path, "ckpt", name)["epoch"] - 1

    assert train("a", last=1) == 1  # of stage 1, and it stays until there is one of stage 2
    assert train("a", first=2, last=2) == 2
    shutil.copy(previous(tmp_path / "a_resume.pth.tar"), tmp_path / "a_resume.pth.tar")  # as if killed before this save
    assert train("a", first=2) == 3
    outcomes = [saved_state(folder)["resume"]["record"] for folder in (tmp_path, finished)]
    assert differences(*outcomes) == []
    assert saved_state(tmp_path, "last")["best_acc1"] == 75
    for epochs, best, words in ((3, 1, "note: no stage 2 up to epoch 2"), (5, 3, "on the test set from epoch 3 on)")):
        assert train("b", f"--meta_start 3 --epochs {epochs}", 0 if epochs == 3 else 3, stage2_from=3) == best
        said = capsys.readouterr().out
        assert words in said
        assert ("note: no stage 2" in said) == (epochs == 3)


def test_a_finished_run_is_left_as_it_is(small_training, photos, whole, run, tmp_path):
    shutil.copytree(whole, tmp_path / "checkpoint/ours/0")
    before = files_of(tmp_path)
    out = run(f"{small_training} {GO_ON} --workdir {tmp_path}", cwd=photos).stdout
    summary = tmp_path / "checkpoint/ours/0/a_summary.json"
    assert out.endswith(f"MetaSAug_LDAM_train.py: a is finished: see {summary}\n")
    assert files_of(tmp_path) == before


def test_best_last_and_since_come_out_of_the_state(finished, tmp_path):
    """No epoch is left that could bring them. Without its summary the copy does not count as finished."""
    interrupted = shutil.copytree(finished, tmp_path / "copy", ignore=shutil.ignore_patterns("*_summary.json"))
    with small_run(interrupted, GO_ON) as run:
        assert list(run.epochs) == []
    before, again = (json.loads((folder / "a_summary.json").read_text()) for folder in (finished, interrupted))
    assert (again["best"], again["last"]) == (before["best"], before["last"])
    assert (before["best"]["epoch"], before["best"]["acc1"], before["last"]["acc1"]) == (3, 75, 0)
    assert before["since"] == again["since"] == 2
    assert again["seconds"] > saved_state(interrupted)["resume"]["record"]["seconds"]  # those before the interruption count
    with small_run(interrupted, f"{GO_ON} --epochs 6", cut=True) as run:
        assert next(run.epochs) == 5
        assert not (interrupted / "a_summary.json").exists()  # it is of the shorter run
    stage1 = str(interrupted / "a_stage1.pth.tar")
    for flags in ("", GO_ON):
        with small_run(interrupted, f"{flags} --save_name b", stage1=stage1, cut=True) as run:
            next(run.epochs)
            assert (run.epoch, run.record.since) == (2, 2)
            run.save()


def test_a_run_that_has_grown_can_be_stopped_and_grown_again(tmp_path):
    for epochs in (5, 10, 10, 20):  # the default would be 4, 8, 8, 16
        with small_run(tmp_path, f"{GO_ON} --epochs {epochs}", cut=True) as run:
            assert run.flags.meta_start == 4
            next(run.epochs)
            run.save()
    with refusal("--epochs 20, this run has 10"), small_run(tmp_path, f"{GO_ON} --epochs 10"):
        pass
    for other in ("3", "16"):  # the second is the default of 20 epochs, but asked for
        longer = f"{GO_ON} --epochs 20 --meta_start {other}"
        with refusal(f"--meta_start 4, this run has {other}"), small_run(tmp_path, longer):
            pass


def test_a_good_file_before_a_damaged_one_is_gone_on_from_and_never_replaced_by_it(tmp_path, capsys):
    with small_run(tmp_path, cut=True) as run:
        for _ in run.epochs:
            take_step(run)
            end_epoch(run)
    path = tmp_path / "a_resume.pth.tar"
    path.write_bytes(path.read_bytes()[:-1])
    good = previous(path).read_bytes()
    with small_run(tmp_path, GO_ON) as run:
        assert f"{path} is damaged" in capsys.readouterr().out
        (epoch,) = run.epochs
        assert path.read_bytes() == good
        run.save()
        assert previous(path).read_bytes() == good
        assert saved_state(tmp_path)["resume"]["record"]["epoch"] == epoch == 4


def test_a_state_that_is_named_must_be_that_of_the_run_and_epochs_may_grow(finished, tmp_path):
    before, named = files_of(finished), f"--resume {finished}/a_resume.pth.tar"
    for folder, name in ((tmp_path, "a"), (finished, "b")):
        words = f"{named} is not {folder}/{name}_resume.pth.tar, the state of this run: name that run by --workdir"
        with refusal(words), small_run(folder, f"{named} --save_name {name}"):
            pass
    assert files_of(finished) == before
    grown = shutil.copytree(finished, tmp_path / "grown")
    with small_run(grown, f"--resume {grown}/a_resume.pth.tar --epochs 6 --meta_start 4") as run:
        for epoch in run.epochs:
            assert epoch == 5
            take_step(run)
            end_epoch(run, right=1)
    lines = (grown / "a_metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["epoch"] for line in lines] == list(range(6))
    assert (grown / "a_ckpt.pth.tar").read_bytes() == (finished / "a_ckpt.pth.tar").read_bytes()  # the best was before


@pytest.mark.parametrize(
    ("words", "flags", "begin"),
    [
        ("--lr 0.1, this run has 0.2", "--lr 0.2", {}),
        ("--imb_factor 0.1, this run has 0.2", "--imb_factor 0.2", {}),
        ("--epochs 5, this run has 3", "--epochs 3", {}),
        ("--meta_start 4, this run has 1", "--meta_start 1", {}),
        ("loss CE, this run has LDAM", "", {"extra": {"loss": "LDAM"}}),
        ("augmentation None, this run has mixup", "", {"extra": {"augmentation": "mixup"}}),
        ("class_names[1] y, this run has z", "", {"facts": {**FACTS, "class_names": ["x", "z"]}}),
        ("class_names[2] None, this run has z", "", {"facts": {**FACTS, "class_names": ["x", "y", "z"]}}),
    ],
)
def test_what_changes_the_outcome_must_be_the_same(finished, words, flags, begin):
    """Also of a run that is finished."""
    with refusal(words), small_run(finished, GO_ON, flags, **begin):
        pass


@pytest.mark.parametrize("wrong", [[(1, "inf"), ("nan", 1)], [("nan", 1)], [(1, 1, "inf"), (1, 1)], []])
def test_numbers_gone_wrong_stop_before_anything_is_saved(tmp_path, wrong):
    """In the figures of the second step, or in a weight, after the third."""
    path, step = tmp_path / "a_resume.pth.tar", 2 if wrong else 3
    with refusal(f"not finite in epoch 0, step {step}; the last good checkpoint is {path}"), small_run(tmp_path) as run:
        next(run.epochs)
        take_step(run)
        run.save()
        kept = path.read_bytes()
        for values in wrong:
            take_step(run, *values)
        take_step(run)
        take_step(run)
        run.model.weight.data[1] += 0 if wrong else math.nan
        run.save()
    assert path.read_bytes() == kept
