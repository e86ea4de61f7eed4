"""What a run goes on from: where its state is found, and what must be the same."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from harness import schemas
from harness.checkpoint import load_checkpoint
from harness.errors import UserError
from harness.files import previous
from harness.flags import UNSAID, LearningFlags
from harness.run_files import NEWER, finished_faults, read_finished, resume_path, summary_path
from harness.run_state import numerics
from harness.text import say

# What stage 1 depends on besides the data and the architecture.
STAGE1_FLAGS = ("batch_size", "epochs", "lr", "momentum", "nesterov", "weight_decay", "seed", "amp")

# What runs did whose state does not say it: flags that there were not yet, and heads, whose loss was not recorded.
BEFORE = {**{f"--{name}": value for name, value in UNSAID.items()}, "loss": "CE"}


def find_run(
    flags: LearningFlags, folder: Path, extra: Mapping[str, Any], class_names: Sequence[str] | None, device: torch.device
) -> tuple[dict[str, Any], Path] | str | None:
    """Return the state that --resume goes on from and its file; None without any; or a line if the run has ended.

    `extra` is what must be the same besides flags and class names.
    """
    name, wanted = flags.save_name, flags.resume or "auto"
    own = {**flags.binding(), **extra, "class_names": class_names}
    summary = read_finished(folder, name, own, flags.epochs) if wanted == "auto" else None
    faults = finished_faults(folder, name, summary, flags.binding()) if summary else []
    if summary and not faults:
        return f"{name} is finished: see {summary_path(folder, name)}"
    found = find_state(wanted, resume_path(folder, name))
    if faults and not found:
        raise UserError(f"{name} is finished, but {faults[0]}: put it back, or train anew without --resume")
    if found:
        state, source = found
        before = state.get("flags", {})
        may_go_on(state, {**flags.resumed(before).binding(), **extra}, class_names, flags.epochs, source, device)
        skipped = before.get("skip_bad", flags.skip_bad)
        if skipped != flags.skip_bad:
            say(f"note: --skip_bad {flags.skip_bad}, before the interruption {skipped}: the images are the same")
    return found


def find_state(wanted: str, path: Path) -> tuple[dict[str, Any], Path] | None:
    """Return the state to go on from and its file, None if there is none yet.

    Parameters
    ----------
    wanted:
        "auto" looks at `path`, where this run keeps its own; anything else is the path of a file, which must be there.
    """
    file = path if wanted == "auto" else Path(wanted)
    if not file.name or os.path.isdir(file):
        raise UserError(f"--resume {file} is a folder: give the path of a file that ends in _resume.pth.tar, or auto")
    candidates = [f for f in (file, previous(file)) if os.path.isfile(f)]
    if not candidates:
        if wanted == "auto":
            return None
        raise UserError(f"--resume {file} is not there: check the path, or write --resume auto")
    mistakes = []
    for candidate in candidates:
        try:
            state = load_checkpoint(candidate)
        except UserError as mistake:
            mistakes.append(str(mistake))
            continue
        if not isinstance(state.get("resume"), dict):
            raise UserError(f"--resume {candidate} holds no run to go on with: take the file that ends in _resume.pth.tar")
        if not candidate.name.removesuffix(".previous").endswith("_resume.pth.tar"):
            lost = "is not named <save_name>_resume.pth.tar, by which the run's log and best epoch are found"
            raise UserError(f"--resume {candidate} {lost}: give it its own name back, beside them")
        if mistakes:
            say(f"note: {mistakes[0]}; going on from {candidate}")
        check_state(state["resume"], candidate)
        return state, candidate
    raise UserError("; ".join(mistakes))


class OtherRunError(UserError):
    """A state is of other flags or data than the run that was to resume from it."""


def check_state(inner: Mapping[str, Any], source: Path) -> None:
    """Check what a state holds besides weights and optimizer; parts may be missing."""
    try:
        record = schemas.without_nan(inner.get("record"))  # figures that are not defined
    except RecursionError:
        record = None
    if isinstance(record, dict) and record.get("last") == {}:  # no epoch has ended
        record = {**record, "last": {"epoch": schemas.NOT_YET, "acc1": -1.0}}
    sound = {**inner, "record": record} if "record" in inner else inner
    schemas.check(sound, schemas.ResumeState, f"--resume {source}", "resume")


def must_match(inner: Mapping[str, Any], own: Mapping[str, Any], source: Path, device: torch.device) -> None:
    """Refuse to go on with other flags or data than those in `inner`, a state's "resume"; say if last bits may differ."""
    recorded = {**BEFORE, **inner.get("binding", {})}
    for key, value in own.items():
        if key not in recorded and key in NEWER:
            continue
        if key not in recorded:
            raise UserError(f"--resume {source} does not say its {key}: it is of another version, train anew")
        if recorded[key] != value:
            made = f"--resume {source} was made with {key} {schemas.shown(recorded[key])}"
            raise OtherRunError(f"{made}, this run has {value}: they must be the same")
    before = inner.get("surroundings", {})
    for key, value in numerics(device).items():
        if key in before and before[key] != value:
            say(f"note: {key} {value}, before the interruption {schemas.shown(before[key])}: the last bits may differ")


def may_go_on(
    state: Mapping[str, Any], own: Mapping[str, Any], class_names: Sequence[str] | None, epochs: int, source: Path,
    device: torch.device,
) -> None:  # fmt: skip
    """Refuse to go on with other flags, data or classes than those of `state`, or to fewer epochs."""
    inner = state["resume"]
    may_only_grow(inner, epochs, source)
    classes_must_match(state.get("class_names"), class_names or [], source)
    must_match(inner, own, source, device)


def classes_must_match(recorded: object, own: Sequence[str], source: Path) -> None:
    """Refuse to go on with other classes than those that a state names; the data may be the same under other names."""
    if not isinstance(recorded, list) or not own:  # a state of an older version, or a script without names
        return
    made = f"--resume {source} was made with"
    if len(recorded) != len(own):
        raise OtherRunError(f"{made} {len(recorded)} classes, this run has {len(own)}: see --data_root")
    for k, (before, now) in enumerate(zip(recorded, own, strict=True)):
        if before != now:
            raise OtherRunError(f"{made} class {k} named {schemas.shown(before)}, this run has {now}: see --data_root")


def may_only_grow(inner: Mapping[str, Any], epochs: int, source: Path) -> None:
    """Raise a `UserError` if the run would be shorter than the interrupted one, whose state's "resume" is `inner`."""
    before = inner.get("epochs")
    if before is None or epochs < before:
        raise UserError(f"--resume {source} is a run of --epochs {before}, this run has {epochs}: it may only grow")


def stage1_epoch(state: Mapping[str, Any], own: Mapping[str, Any], path: Path) -> int:
    """Return the epoch at which a run may go on from a checkpoint of another run's stage 1.

    Parameters
    ----------
    state, path:
        The checkpoint and its file.
    own:
        This run's flags, class names and images a class.
    """
    recorded = {**state, **state.get("flags", {})}
    start = recorded.get("meta_start")
    epoch, end = state.get("epoch"), min(own["meta_start"], own["epochs"] - 1)
    if not epoch:
        take = "take a <save_name>_stage1.pth.tar of a training script"
        raise UserError(f"--stage1 {path} does not say its epoch, or is of none: {take}")
    if epoch > end:
        raise UserError(f"--stage1 {path} stands at epoch {epoch}, this run can go on from {end} at most: see --meta_start")
    if start is not None and epoch > start:
        raise UserError(f"--stage1 {path} is past the stage 1 of its run, which ended at epoch {start}")
    if "train_digest" not in recorded and own["select_on"] == "heldout":
        raise UserError(f"--stage1 {path} is of an older version, which does not say what it was trained on: train it anew")
    for key in ("dataset", "class_names", "cls_num_list", "train_digest", *STAGE1_FLAGS):
        if key in recorded and recorded[key] != own[key]:
            theirs = schemas.shown(recorded[key])
            raise UserError(f"--stage1 {path} was trained with {key} {theirs}, this run has {own[key]}")
    return epoch
