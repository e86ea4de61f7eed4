"""What finished and unfinished runs say of themselves: flags, classes, images."""

from __future__ import annotations

import json
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from harness.flags import FREE_FLAGS, UNSAID, LearningFlags, without_effect

OF_ALL = {one.name for one in fields(LearningFlags)}  # the flags that every training script has
OF_SMALL = "imb_factor"  # a flag of the CIFAR scripts alone, which have all of UNSAID
IMAGES = ("data", "train list", "meta list", "test list")  # keys of a digest of the images, or of their lists


@dataclass(frozen=True)
class RunFacts:
    """A run's name, what its summary says (of an unfinished run: what it will say) and a dict an epoch of its log.

    `summary` is empty for an unfinished run of an older version, which says nothing before it is finished.
    """

    name: str
    summary: dict[str, Any]
    log: list[dict[str, Any]]
    words: str = field(default="", kw_only=True)  # what the folder's group_names.json calls it and its like

    @property
    def flags(self) -> dict[str, Any]:
        """The loss and flags that change the outcome, without the seed."""
        given = {**UNSAID, "loss": self.summary.get("loss"), **self.summary.get("flags", {})}
        if given.get("dataset") in ("folder", "custom", "own"):  # told apart by the name of the folder, or file of features
            given["dataset"] = f"{given['dataset']} {Path(given.get('features') or given.get('data_root', '')).name}"
        unused = without_effect(given).keys() | FREE_FLAGS - {"epochs"} | {"seed"}
        return {key: value for key, value in given.items() if key not in unused}

    @property
    def seed(self) -> Any:
        """The seed, None if it is not said."""
        return self.summary.get("flags", {}).get("seed")

    @property
    def kind(self) -> str:
        """What runs that differ in their seed only have in common: flags, class sizes, images as far as they are said."""
        return json.dumps([self.flags, self.trained_on] if self.summary else self.name, sort_keys=True)

    @property
    def trained_on(self) -> list[Any]:
        """What a summary says of the images: class sizes, and digests of them or their lists; else the class names."""
        digests = [self.summary.get(key) for key in IMAGES]
        return [self.summary.get("cls_num_list"), digests if any(digests) else self.summary.get("class_names")]

    @property
    def class_names(self) -> list[str]:
        """The names of the classes, their numbers where the summary, of an older version, has none."""
        names: list[str] | None = self.summary.get("class_names")
        return [str(k) for k in range(len(self.summary.get("cls_num_list", [])))] if names is None else names

    @property
    def long_tail(self) -> str:
        """Data set and imb_factor, in words."""
        imb_factor = self.flags.get("imb_factor")
        return f"{self.flags.get('dataset')}" + ("" if imb_factor is None else f", imb_factor {imb_factor:g}")

    @property
    def older(self) -> list[str]:
        """What a summary of an older version does not say, in words; [] of one of this version."""
        facts, flags = self.summary, self.summary.get("flags", {})
        lacking = ["the names of its classes"] if facts.get("class_names") is None else []
        lacking += [] if any(facts.get(key) for key in IMAGES) else ["which images it was trained on"]
        due = [key for key in UNSAID if key not in flags and (key in OF_ALL or OF_SMALL in flags)]
        lacking += [f"{', '.join(f'--{key}' for key in due)} (the defaults are assumed)"] if due else []
        return lacking + ([] if "versions" in facts else ["versions and machine"])
