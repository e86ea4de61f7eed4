"""Values of the right kind that make no sense: wherever they stand in a file, they end in one line."""

import json
import math
import re
import shutil
import warnings
from contextlib import contextmanager

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from support.finished_runs import write_run
from support.refusals import refusal
from support.runs import end_epoch, files_of, saved_state, small_run, take_step, with_leaf

from harness.checkpoint import load_checkpoint, save_checkpoint
from harness.errors import UserError
from harness.files import previous
from harness.weights import NO_WEIGHTS, mismatch
from inference.trained import restored
from loss import EstimatorCV
from reporting.finished_runs import find_runs
from reporting.groups import grouped
from reporting.sections import sections
from reporting.tables import runs_table
from reporting.verdict import compare
from resnet import build_model


def nested(depth):
    value = []
    for _ in range(depth):
        value = [value]
    return value


def quantised():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # PyTorch will remove them
        return torch.quantize_per_tensor(torch.ones(2), 0.1, 0, torch.qint8)


ODD_TENSORS = [
    torch.eye(3).to_sparse(), torch.zeros(2, device="meta"), torch.zeros(2, dtype=torch.complex64), quantised(),
    torch.zeros(1).expand(10**12, 64),
]  # fmt: skip
ODD = [
    None, True, -1, -(10**30), 10**30, 2**31, 0.5, math.nan, math.inf, -math.inf, "", "x" * 10**5, "resnet1000000002", [],
    [1, "2"], {}, {"a": {1: [None]}}, b"\0", (1, 2), nested(900), torch.zeros(0), torch.tensor(math.nan), torch.tensor(2.0),
    torch.tensor([1, -2]), torch.ones(3, 2), *ODD_TENSORS,
]  # fmt: skip


def places(value, path=()):
    """Where something stands in plain data: every key and every entry, inner and outer."""
    pairs = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in pairs:
        yield (*path, key)
        yield from places(inner, (*path, key))


def spoiled(data, state, odd):
    """A copy of plain data with something odd at some place."""
    place, number = data.draw(st.sampled_from(list(places(state)))), data.draw(st.sampled_from(range(len(odd))))
    return with_leaf(state, place, odd[number])


@contextmanager
def used_or_refused():
    """What may end in a line, which is not too long; whether it did."""
    refused = []
    try:
        yield refused
    except UserError as error:
        refused.append(str(error))
        assert re.fullmatch(r"[^\n]{1,999}", str(error))  # noqa: PT017


@pytest.fixture(scope="module")
def resumable(tmp_path_factory):
    """The folder of a small run of two epochs, cut amid the second, and what its resume file holds."""
    folder = tmp_path_factory.mktemp("resumable")
    with small_run(folder, cut=True) as run:
        next(run.epochs)
        take_step(run)
        end_epoch(run, per_class={"trace_estimated": [1.0, 2.0]})
        take_step(run)
        run.save()
    return folder, saved_state(folder)


@settings(max_examples=150)
@given(data=st.data())
def test_a_state_with_nonsense_anywhere_is_gone_on_from_or_refused_in_one_line(resumable, tmp_path_factory, data):
    folder, state = resumable
    copied = shutil.copytree(folder, tmp_path_factory.mktemp("copied"), dirs_exist_ok=True)
    save_checkpoint(spoiled(data, state, ODD), copied / "a_resume.pth.tar")
    previous(copied / "a_resume.pth.tar").unlink()
    before = files_of(copied)
    with used_or_refused() as refused, small_run(copied, "--resume auto", cut=True) as run:
        assert next(run.epochs) in (0, 1, 2)
        assert 0 <= run.meter.steps <= 5
        take_step(run)
        end_epoch(run)
        assert bool(torch.isfinite(run.model.weight).all())
    assert not refused or files_of(copied) == before or "not finite" in refused[0]


@pytest.mark.parametrize(
    ("place", "value"),
    [
        ("resume/binding/--lr", torch.ones(2)),
        ("resume/record/best", {}),
        ("resume/meter/loss", torch.ones(3)),
        ("resume/random", {}),
        ("resume/estimator", []),
        ("optimizer", 3),
        ("optimizer/state", {0: {"momentum_buffer": torch.zeros(1)}}),
    ],
)
def test_a_state_with_something_else_inside_is_refused(resumable, tmp_path, place, value):
    path = tmp_path / "a_resume.pth.tar"
    save_checkpoint(with_leaf(resumable[1], place.split("/"), value), path)
    with refusal("--resume"), small_run(tmp_path, "--resume", path):
        pass
    if place.startswith("optimizer"):
        with refusal("has no state for this optimizer"), small_run(tmp_path / "new", stage1=str(path)):
            pass
    assert [*tmp_path.rglob("*_*")] == [path]


def test_settings_of_the_optimizer_are_those_of_the_flags(resumable, tmp_path):
    changed = with_leaf(resumable[1], ("optimizer", "param_groups", 0), {"params": [0, 1], "weight_decay": 0.25, "lr": 7.0})
    save_checkpoint(changed, tmp_path / "a_stage1.pth.tar")
    with small_run(tmp_path / "new", stage1=str(tmp_path / "a_stage1.pth.tar"), cut=True) as run:
        group = run.optimizer.param_groups[0]
        assert [group[name] for name in ("weight_decay", "momentum", "lr")] == [0, 0.9, 0.1]
        assert run.optimizer.state[run.model.weight]["momentum_buffer"].any()


# A checkpoint as a training script writes it, and one of other code.
WEIGHTS = build_model("resnet8", 3).state_dict()
OURS = {"epoch": 3, "best_acc1": 50.0, "state_dict": WEIGHTS, "arch": "resnet8", "dataset": "digits", "imb_factor": 0.1,
        "cls_num_list": [9, 5, 2], "class_names": ["a", "b", "c"], "train_digest": "0", "flags": {"lam": 0.5, "seed": 1},
        "optimizer": {}}  # fmt: skip
FEW = [("state_dict", name) for name in ("conv1.weight", "bn1.running_var", "layer1.0.bn1.bias", "linear.weight")]
LEAVES = [place for place in places(OURS) if place[0] != "state_dict" or len(place) == 1] + FEW


@settings(max_examples=150)
@given(place=st.sampled_from(LEAVES), value=st.sampled_from(range(len(ODD))), ours=st.booleans())
def test_a_checkpoint_with_nonsense_anywhere_is_used_or_refused_in_one_line(tmp_path_factory, place, value, ours):
    path = tmp_path_factory.getbasetemp() / "odd.pth.tar"
    (save_checkpoint if ours else torch.save)(with_leaf(OURS, place, ODD[value]), path)
    with used_or_refused():
        state = load_checkpoint(path)
        model = restored(state, path)
        assert bool(torch.isfinite(model(torch.zeros(2, 3, 32, 32))[1]).all())
        assert model.linear.out_features == 3
        assert not ours or (state["epoch"] >= 0 and len(state.get("cls_num_list", "abc")) == 3)


@pytest.mark.parametrize(
    ("tensor", "words"),
    [
        *((tensor, f"x is {NO_WEIGHTS}") for tensor in [*ODD_TENSORS, torch.zeros(1).expand(2)]),
        (torch.zeros(3), r"x is (3,), the one here is (2,)"),
        (torch.zeros(2, dtype=torch.int64), "x is of int64, the one here of float32"),
        (torch.tensor([1e300, 1.0], dtype=torch.float64), "x holds numbers that are not finite"),
        (torch.ones(4, dtype=torch.bfloat16)[::2], None),
    ],
)
def test_what_tensors_are_refused(tensor, words):
    assert mismatch(tensor, torch.zeros(2), "x") == words
    assert mismatch(torch.tensor([-1.0]), torch.zeros(1), "bn1.running_var") == "bn1.running_var holds variances below 0"


JSON = [None, True, -1, 10**30, 10**400, 0.5, 1e308, "", "x" * 10**4, [], [1], {}, {"a": [None]}, [None] * 3, [1e300] * 3]


@settings(max_examples=80)
@given(data=st.data())
def test_a_finished_run_with_nonsense_anywhere_is_reported_or_refused_in_one_line(tmp_path_factory, data):
    folder = tmp_path_factory.mktemp("odd_run")
    write_run(folder, "a", class_names=["x", "y", "z"])
    path = folder / "a_summary.json"
    path.write_text(json.dumps(spoiled(data, json.loads(path.read_text()), JSON)))
    with used_or_refused():
        one = compare("", grouped(find_runs([path]).runs))
        sections(one)
        runs_table([one])


@pytest.mark.parametrize(("name", "value"), [("count", -1.0), ("count", 0.5), ("covariance", -1.0)])
def test_statistics_that_can_be_none_are_refused(name, value):
    estimator = EstimatorCV(3, 2)
    sound = estimator.state_dict()
    with pytest.raises(ValueError, match="image counts must be integers, and counts and variances must not be negative"):
        estimator.load_state_dict({**sound, name: torch.full_like(sound[name], value)})
