"""The life of a run and its files: what it goes on from, what it refuses, what it leaves alone."""

import json
import re
import shutil
from contextlib import contextmanager
from types import SimpleNamespace

import pytest
import torch
from support.runs import differences, end_epoch, files_of, saved_state, small_run, take_step

from harness.checkpoint import save_checkpoint
from harness.errors import Stopped, UserError
from harness.files import previous
from harness.progress import Meter
from harness.run import remedy

GO_ON = ["--resume", "auto"]


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """The folder of a small run of five epochs, the second best of them the best of stage 2, which begins with the third."""
    folder = tmp_path_factory.mktemp("finished")
    with small_run(folder) as run:
        for _, right in zip(run.epochs, (1, 4, 2, 3, 0), strict=True):
            take_step(run)
            end_epoch(run, right, stage2_from=2)
    return folder


@pytest.fixture
def interrupted(finished, tmp_path):
    """A copy of it up to its last save: without a summary it does not count as finished."""
    return shutil.copytree(finished, tmp_path / "copy", ignore=shutil.ignore_patterns("*_summary.json"))


def edit(folder, change, kind="resume"):
    """Change what a checkpoint says."""
    state = saved_state(folder, kind)
    change(state)
    save_checkpoint(state, folder / f"a_{kind}.pth.tar")


@contextmanager
def refusal(words):
    with pytest.raises(UserError, match=words) as refused:
        yield
    assert "\n" not in str(refused.value)


def test_the_best_epoch_is_chosen_among_those_of_stage_2(finished, tmp_path, capsys):
    """Stopped and killed anywhere, also grown from a run that had none; it ends as one that was never stopped."""
    rights = (1, 4, 2, 3, 0)

    def train(name, *flags, first, last, stage2_from=2, saved=True, **begin):
        with small_run(tmp_path, *GO_ON, "--save_name", name, *flags, cut=last < 4, **begin) as run:
            for epoch in run.epochs:
                assert epoch >= first
                take_step(run)
                end_epoch(run, rights[epoch], stage2_from=stage2_from)
                first = epoch + 1
                if epoch == last:
                    break
        return saved_state(tmp_path, "ckpt", name)["epoch"] - 1

    assert train("a", first=0, last=1) == 1  # of stage 1, and it stays until there is one of stage 2
    before = (tmp_path / "a_ckpt.pth.tar").read_bytes()
    assert train("a", first=2, last=2) == 2
    assert previous(tmp_path / "a_ckpt.pth.tar").read_bytes() == before
    shutil.copy(previous(tmp_path / "a_resume.pth.tar"), tmp_path / "a_resume.pth.tar")  # as if killed before this save
    assert train("a", first=2, last=4) == 3
    outcomes = [saved_state(folder)["resume"]["record"] for folder in (tmp_path, finished)]
    assert differences(*outcomes) == []
    assert saved_state(tmp_path, "last")["best_acc1"] == 75
    assert train("b", "--meta_start", 3, "--epochs", 3, first=0, last=4, stage2_from=3) == 1
    said = capsys.readouterr().out
    assert "note: no stage 2 up to epoch 2 (--meta_start 3): these weights are of plain cross-entropy" in said
    assert train("b", "--meta_start", 3, first=3, last=4, stage2_from=3) == 3
    said = capsys.readouterr().out
    assert "(the best epoch is chosen on the test set from epoch 3 on;" in said
    assert "note: no stage 2" not in said


def test_a_finished_run_is_left_as_it_is(small_training, photos, whole, large_training, run, tmp_path):
    head = [*large_training, "--cache_features", "1", "--workers", "0", "--epochs", "1", "--workdir", tmp_path]
    run("ImageNet_iNat/train.py", *head)
    shutil.copytree(whole, tmp_path / "checkpoint/ours/0")
    for script, flags, place in (
        ("MetaSAug_LDAM_train.py", [*small_training, "--workdir", tmp_path], "0/a"),
        ("ImageNet_iNat/train.py", head, "custom/MetaSAug_custom"),
    ):
        before = files_of(tmp_path / "checkpoint")
        out = run(script, *flags, *GO_ON, cwd=photos).stdout
        summary = tmp_path / "checkpoint/ours" / f"{place}_summary.json"
        assert out.splitlines()[-1] == f"{script.split('/')[-1]}: {place.split('/')[1]} is finished: see {summary}"
        assert files_of(tmp_path / "checkpoint") == before
        assert list(summary.parent.glob("*_ckpt_predictions.npz"))


def test_a_run_with_another_flag_is_not_the_finished_one(finished):
    with pytest.raises(Stopped) as stopped, small_run(finished, *GO_ON):
        pass
    assert stopped.value.status == 0
    with refusal("--lr 0.1, this run has 0.2"), small_run(finished, *GO_ON, "--lr", "0.2"):
        pass
    with small_run(finished, *GO_ON, "--epochs", "6", cut=True) as run:
        assert run.epoch == 5


def test_best_last_and_since_come_out_of_the_state(finished, interrupted, capsys):
    """No epoch is left that could bring them; then the state holds others than the run had."""

    def outcome():
        with small_run(interrupted, *GO_ON) as run:
            assert list(run.epochs) == []
        return json.loads((interrupted / "a_summary.json").read_text())

    before, again = json.loads((finished / "a_summary.json").read_text()), outcome()
    assert (again["best"], again["last"]) == (before["best"], before["last"])
    assert (before["best"]["epoch"], before["best"]["acc1"], before["last"]["acc1"]) == (3, 75, 0)
    assert before["since"] == again["since"] == 2
    (interrupted / "a_summary.json").unlink()

    def change(state):
        state["resume"]["record"]["best"] |= {"epoch": 1, "acc1": 99.0}
        state["resume"]["record"]["last"] |= {"acc1": 12.0}

    edit(interrupted, change)
    edit(interrupted, lambda state: state.update(epoch=2, best_acc1=99.0), "ckpt")  # the file that it then speaks of
    after = outcome()
    assert (after["best"]["epoch"], after["best"]["acc1"], after["last"]["acc1"]) == (1, 99, 12)
    assert "best epoch 1: accuracy 99.00" in capsys.readouterr().out
    with small_run(interrupted, *GO_ON, "--epochs", 6, cut=True) as run:
        assert next(run.epochs) == 5
        assert not (interrupted / "a_summary.json").exists()  # it is of the shorter run

    stage1 = str(interrupted / "a_stage1.pth.tar")
    for flags in ([], GO_ON):
        with small_run(interrupted, *flags, "--save_name", "b", stage1=stage1, cut=True) as run:
            next(run.epochs)
            assert (run.epoch, run.record.since) == (2, 2)
            run.save()


def test_renamed_classes_are_named(finished, interrupted):
    facts = {"cls_num_list": [30, 10], "class_names": ["x", "z"], "train_digest": "0"}
    for folder in (finished, interrupted):
        with refusal(r"class_names\[1\] y, this run has z"), small_run(folder, *GO_ON, facts=facts):
            pass
    facts["class_names"] = ["x", "y", "z"]
    with refusal(r"class_names\[2\] None, this run has z"), small_run(finished, *GO_ON, facts=facts):
        pass


@pytest.mark.parametrize(
    ("part", "value"),
    [("binding/--lr", torch.ones(2)), ("record/best", 3), ("record/best", {}), ("record/seconds", "1"),
     ("record/epoch", "1"), ("meter/steps", "2"), ("meter/loss", torch.ones(3)), ("meta_taken", None), ("random", {}),
     ("estimator", [])],
)  # fmt: skip
def test_a_state_with_something_else_inside_is_refused(interrupted, part, value):
    def change(state):
        inner, (*outer, key) = state["resume"], part.split("/")
        for name in outer:
            inner = inner[name]
        inner[key] = value

    edit(interrupted, change)
    before = files_of(interrupted)
    with refusal("--resume"), small_run(interrupted, *GO_ON):
        pass
    assert files_of(interrupted) == before


def test_steps_with_a_negative_trace_are_counted_over_an_interruption_and_said_once(tmp_path, capsys):
    def steps(run, *negative):
        for each in negative:
            take_step(run, negative_trace=each)

    with small_run(tmp_path, cut=True) as run:
        next(run.epochs)
        steps(run, True, False, True)
        run.save()
    with small_run(tmp_path, *GO_ON, cut=True) as run:
        next(run.epochs)
        steps(run, True)
        end_epoch(run)
        steps(run, False, False)
        end_epoch(run)
    counts = [json.loads(line)["negative_traces"] for line in (tmp_path / "a_metrics.jsonl").read_text().splitlines()]
    assert counts == [3, 0]
    said = [line for line in capsys.readouterr().out.splitlines() if "negative trace" in line]
    told = "note: in {} steps the learned covariance of some class had a negative trace, which a covariance cannot have: {}"
    assert said == [told.format(steps, "lower --meta_lr") for steps in ("3 of 4",)]


@pytest.mark.parametrize("optimizer", [None, 3, {}])
def test_an_optimizer_of_another_shape_is_refused(interrupted, tmp_path, optimizer):
    def change(state):
        state["optimizer"]["state"][0]["momentum_buffer"] = torch.zeros(1)
        state["optimizer"] = state["optimizer"] if optimizer is None else optimizer

    edit(interrupted, change, "stage1")
    path = str(interrupted / "a_stage1.pth.tar")
    with refusal("holds no state of this optimizer"), small_run(tmp_path / "new", stage1=path):
        pass


def test_a_run_that_has_grown_can_be_stopped_and_grown_again(tmp_path):
    with small_run(tmp_path, cut=True) as run:
        assert run.flags.meta_start == 4
        next(run.epochs)
        take_step(run)
        run.epoch = 2
        run.save()
    for epochs in (10, 10, 20):  # the default of these would be 8, 8 and 16
        with small_run(tmp_path, *GO_ON, "--epochs", epochs, cut=True) as run:
            assert (run.epoch, run.flags.meta_start) == (2, 4)
            next(run.epochs)
            run.save()
    with refusal("--epochs 20, this run has 10"), small_run(tmp_path, *GO_ON, "--epochs", 10):
        pass
    for other in ("3", "16"):  # the second is the default of 20 epochs, but asked for
        longer = [*GO_ON, "--epochs", 20, "--meta_start", other]
        with refusal(f"--meta_start 4, this run has {other}"), small_run(tmp_path, *longer):
            pass


def test_a_good_file_before_a_damaged_one_is_gone_on_from_and_never_replaced_by_it(tmp_path, capsys):
    with small_run(tmp_path, cut=True) as run:
        for _ in run.epochs:
            take_step(run)
            end_epoch(run)
    path = tmp_path / "a_resume.pth.tar"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    good = previous(path).read_bytes()
    with small_run(tmp_path, *GO_ON) as run:
        said = capsys.readouterr().out
        assert f"{path} is damaged (its checksum differs)" in said
        assert f"resuming from {previous(path)}" in said
        (epoch,) = run.epochs
        assert path.read_bytes() == good
        run.save()
        assert previous(path).read_bytes() == good
        assert saved_state(tmp_path)["resume"]["record"]["epoch"] == epoch == 4


def test_another_folder_goes_on_with_copies_and_epochs_may_grow(finished, tmp_path):
    before = files_of(finished)
    source = finished / "a_resume.pth.tar"
    with small_run(tmp_path, "--resume", source, "--epochs", 6, "--save_name", "b", "--meta_start", 4) as run:
        for epoch in run.epochs:
            assert epoch == 5
            take_step(run)
            end_epoch(run, right=1)
    lines = (tmp_path / "b_metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["epoch"] for line in lines] == list(range(6))
    assert (tmp_path / "b_ckpt.pth.tar").read_bytes() == (finished / "a_ckpt.pth.tar").read_bytes()  # the best was before
    assert files_of(finished) == before


@pytest.mark.parametrize(
    ("words", "flags", "begin"),
    [
        ("--lr 0.1, this run has 0.2", ["--lr", "0.2"], {}),
        ("--seed 42, this run has 1", ["--seed", "1"], {}),
        ("--lam 0.25, this run has 0.5", ["--lam", "0.5"], {}),
        ("--imb_factor 0.1, this run has 0.2", ["--imb_factor", "0.2"], {}),
        ("--epochs 5, this run has 3", ["--epochs", "3"], {}),
        ("--meta_start 4, this run has 1", ["--meta_start", "1"], {}),
        ("--select_on test, this run has heldout", ["--select_on", "heldout"], {}),
        ("loss CE, this run has LDAM", [], {"extra": {"loss": "LDAM", "data": "0"}}),
        ("data 0, this run has 1", [], {"extra": {"loss": "CE", "data": "1"}}),
        ("augmentation None, this run has mixup", [], {"extra": {"augmentation": "mixup"}}),
    ],
)
def test_what_changes_the_outcome_must_be_the_same(finished, tmp_path, words, flags, begin):
    with refusal(re.escape(words)), small_run(tmp_path, "--resume", finished / "a_resume.pth.tar", *flags, **begin):
        pass


def test_other_files_are_no_run_to_go_on_with(finished, tmp_path):
    renamed = shutil.copy(finished / "a_resume.pth.tar", tmp_path / "mine.pth.tar")
    for path, words in (
        ("no_resume.pth.tar", "there is no such file"),
        (finished, "there is no such file"),
        (finished / "a_last.pth.tar", "there is no such file named <save_name>_resume.pth.tar"),
        (renamed, "there is no such file named <save_name>_resume.pth.tar"),
    ):
        with refusal(words), small_run(tmp_path / "new", "--resume", path):
            pass


@pytest.mark.parametrize("wrong", [[(1, "inf"), ("nan", 1)], [("nan", 1)], [(1, 1, "inf"), (1, 1)]])
def test_numbers_gone_wrong_stop_before_anything_is_saved(tmp_path, wrong):
    path = tmp_path / "a_resume.pth.tar"
    with refusal(rf"not finite in epoch 0, step 2; the last good checkpoint is {path}"), small_run(tmp_path) as run:
        next(run.epochs)
        take_step(run)
        run.save()
        kept = path.read_bytes()
        for values in wrong:
            take_step(run, *values)
        for _ in range(20):
            take_step(run)
    assert path.read_bytes() == kept
    with refusal("not finite in epoch 1, step 0"), small_run(tmp_path) as run:
        next(run.epochs)
        run.epoch, run.meter = 1, Meter()
        with torch.no_grad():
            run.model.weight[1] = float("nan")
        run.save()
    assert not path.exists()  # that of the run before is set aside


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--lr", "0.1"], "Retrain with a lower --lr, --lam or --meta_lr"),
        (["--stage2_lr", "2"], "Retrain with a lower --lr, --stage2_lr, --lam or --meta_lr"),
        (["--wd", "20"], "Retrain with a lower --weight-decay"),
    ],
)
def test_what_is_advised_can_help(tmp_path, flags, words):
    with refusal(words), small_run(tmp_path, *flags) as run:
        next(run.epochs)
        for loss in (1, "nan"):
            take_step(run, loss)
        run.save()


def test_at_the_first_step_no_rate_is_blamed():
    assert "look at the range of the inputs" in remedy(SimpleNamespace(), first=True)
