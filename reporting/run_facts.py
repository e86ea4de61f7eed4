"""What runs say of themselves: flags, classes, images."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from harness.flags import UNSAID, without_effect
from heads.run_flags import FREE_FLAGS

IMAGES = ("data", "train list", "meta list", "test list")  # keys of a digest of the images, or of their lists


@dataclass(frozen=True)
class RunFacts:
    """A run's name, what its summary says and a dict an epoch of its log."""

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
        return json.dumps([self.flags, self.trained_on], sort_keys=True)

    @property
    def trained_on(self) -> list[Any]:
        """What a summary says of the images: class sizes, and digests of them or their lists; else the class names."""
        digests = [self.summary.get(key) for key in IMAGES]
        return [self.summary.get("cls_num_list"), digests if any(digests) else self.summary.get("class_names")]

    @property
    def class_names(self) -> list[str]:
        """The names of the classes."""
        names: list[str] = self.summary["class_names"]
        return names

    @property
    def long_tail(self) -> str:
        """Data set and imb_factor, in words."""
        imb_factor = self.flags.get("imb_factor")
        return f"{self.flags.get('dataset')}" + ("" if imb_factor is None else f", imb_factor {imb_factor:g}")
