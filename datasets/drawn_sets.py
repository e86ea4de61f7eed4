"""Training, meta and test images of an experiment, and how the meta and the held-out images are drawn."""

from __future__ import annotations

from collections.abc import Container, Hashable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Generic, Literal, TypeVar

import numpy as np

from datasets.drawing import (
    HELDOUT_SHARE,
    all_meta_note,
    check_classes,
    drawn_for_tests,
    held_out,
    long_tailed,
    split_meta,
)
from datasets.examples import Examples, class_counts, with_others
from datasets.image_lists import ImageList, write_list
from harness.errors import UserError
from harness.run_files import list_paths

E = TypeVar("E", bound=Examples)


@dataclass(frozen=True)
class Sets(Generic[E]):
    """The three lists of an experiment, the counts of the training list, and lines for the user.

    `lists` are what the sets were drawn from. `heldout` are images to choose on, `joined` the training and the meta images
    together, None unless asked for.
    """

    train: E
    meta: E
    test: E
    cls_num_list: list[int]
    notes: list[str]
    lists: Lists[E] | None = None
    heldout: E | None = None
    joined: E | None = None

    @property
    def parts(self) -> dict[str, E]:
        """The lists by name."""
        heldout = {} if self.heldout is None else {"heldout": self.heldout}
        return {"train": self.train, "meta": self.meta, "test": self.test, **heldout}

    @property
    def trained(self) -> E:
        """The images that are trained on."""
        return self.train if self.joined is None else self.joined

    @property
    def stage2_counts(self) -> list[int]:
        """How many images of each class are trained on."""
        return class_counts(self.trained)

    def facts(self) -> dict[str, object]:
        """Return what checkpoints and summaries say of the images."""
        joined = {} if self.joined is None else {"stage2_counts": self.stage2_counts}
        own = {"class_names": self.train.class_names, "train_digest": self.train.digest(), "notes": self.notes}
        return {**own, "cls_num_list": self.cls_num_list, **joined}

    def about(self) -> list[str]:
        """Return lines that say how many images there are of what."""
        words = "  ".join(f"{name.replace('heldout', 'held out')} {len(part)}" for name, part in self.parts.items())
        counts = f"{max(self.cls_num_list)} to {min(self.cls_num_list)} training images a class"
        both = [] if self.joined is None else [f"training and meta images together, each once: {len(self.joined)}"]
        return [f"{words}  ({counts})", *both, *(f"note: {note}" for note in self.notes)]

    def write_lists(self, folder: Path, name: str) -> str:
        """Write the training list, meta images included, and the test list; return a line that says so."""
        assert self.lists is not None
        places, lists = list_paths(folder, name), self.lists.split()
        for place, images in zip(places, (lists.train, lists.test), strict=True):
            assert isinstance(images, ImageList)
            write_list(place, images)
        return f"wrote the lists {' and '.join(map(str, places))}, for --train_list and --val_list"

    def digests(self) -> dict[str, str]:
        """Return a digest of each list, and what tells the images from others; see `ImageList.content`."""
        lists = {f"{name} list": part.digest() for name, part in self.parts.items()}
        return {**lists, **{f"{name} images": part.content for name, part in self.parts.items()}}


@dataclass(frozen=True)
class Lists(Generic[E]):
    """The lists of an experiment before its meta images are drawn from `source`.

    `draw` says how: `source` is used whole; or the images drawn stay where they are as well, where it is "share" at most a
    fifth of each class; or they are taken out of the training list. `test_share` says that the test images are drawn from
    the training list first, there being no others: a share of each class, and the seed.
    """

    train: E
    source: E
    test: E
    draw: Literal["whole", "copy", "share", "take out"]
    notes: list[str]
    val: E | None = None  # images to choose on, where they need not be held out of training
    test_share: tuple[float, int] | None = None

    @property
    def parts(self) -> dict[str, E]:
        """All the images that there are, by list."""
        found = {name: getattr(self, name) for name in ("train", "source", "test", "val")}
        return {name: part for name, part in found.items() if part}

    def without(self, bad: Container[Hashable], note: str) -> Lists[E]:
        """Return the lists without the images `bad`, which `note` speaks of."""
        left: dict[str, Any] = {name: part.without(bad) for name, part in self.parts.items()}
        return replace(self, **left, notes=[*self.notes, note])

    def split(self) -> Lists[E]:
        """Return the lists with their test images drawn, if they are to be."""
        if self.test_share is None:
            return self
        names, every = self.train.class_names, self.train
        index = drawn_for_tests(every.targets, len(names), *self.test_share)
        train, test = every.subset(np.setdiff1d(np.arange(len(every)), index)), every.subset(index)
        single = [name for name, count in zip(names, class_counts(test), strict=True) if not count]
        note = f"classes of one image, which is trained on and never tested: {', '.join(single)}"
        source, notes = self.source if self.draw == "whole" else train, [*self.notes, *([note] if single and test else [])]
        return replace(self, train=train, source=source, test=test, notes=notes, test_share=None)

    def sets(
        self, num_meta: int, num_heldout: int = 0, join_meta: bool = False, imb_factor: float | None = None
    ) -> Sets[E]:
        """Draw `num_meta` meta images a class as published, see `drawing.split_meta`; every class must have one.

        With a `num_meta` of 0 none are drawn.

        Parameters
        ----------
        num_heldout:
            Images a class to hold out, see `drawing.held_out`. Where there is a list `val`, that is all of it.
        join_meta:
            Also make one list of the training and the meta images, each file once; the training list stays what it is.
        imb_factor:
            Smallest class over largest of the training images that are kept, see `drawing.long_tailed`; None keeps all.
        """
        lists = self.split()
        names, train, source, test, val = lists.train.class_names, lists.train, lists.source, lists.test, lists.val
        notes = list(lists.notes)
        check_classes(class_counts(train), names, f"training image in {train.source}")
        index, left = split_meta(source.targets, num_meta, len(names), HELDOUT_SHARE if self.draw == "share" else 1)
        meta = source if self.draw == "whole" else source.subset(index)
        if num_meta:
            check_classes(class_counts(meta), names, f"meta image in {source.source}")
        if self.draw in ("take out", "copy"):
            notes += all_meta_note(class_counts(source), names, num_meta)
        if self.draw == "take out":
            train = train.subset(left)
        if imb_factor is not None:
            train = long_tailed(train, imb_factor)
        heldout = val if num_heldout else None
        if val is not None and not num_heldout:
            train = train.joined(val)
            notes.append(f"the {len(val)} images of {val.source} are trained on too: --select_on heldout keeps them to "
                         "choose the best epoch")  # fmt: skip
        elif num_heldout and heldout is None:
            heldout, train = held_out(train, source, [meta, test], num_heldout)
            if not len(heldout):
                advice = "add images, lower --num_meta, or leave --select_on heldout out"
                raise UserError(f"no class has an image to hold out: {advice}")
        joined = with_others(train, meta) if join_meta and self.draw != "share" else None
        return Sets(train, meta, test, class_counts(train), notes, self, heldout, joined)
