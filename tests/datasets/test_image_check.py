"""Images that cannot be read: found before the meta images are drawn, so that these are good wherever there are enough."""

import os
from dataclasses import replace

import pytest
from PIL import Image
from support.data import write_image
from support.image_lists import ALONE, CPU
from support.refusals import wrong

from datasets.drawn_sets import Lists
from datasets.examples import class_counts
from datasets.image_check import check_readable, readable_sets, refuse_faults
from datasets.image_lists import image_list
from harness.errors import Stopped, UserError
from harness.process_group import Group

COUNTS = {"train": (9, 7, 6), "val": (4, 4, 4), "test": (2, 2, 2)}


@pytest.fixture
def lists(tmp_path):
    """Lists of three classes, whose meta images are drawn from the list val, and the images that they name."""
    made = []
    for part, counts in COUNTS.items():
        labels = {f"{part}/{k}_{i}.png": k for k, count in enumerate(counts) for i in range(count)}
        for name, k in labels.items():
            write_image(tmp_path / name, k)
        made.append(image_list(tmp_path, labels, labels.values(), list("abc"), f"{part}.txt"))
    return Lists(*made, "copy", [])


def good(lists):
    """The sets with --skip_bad."""
    return readable_sets(lists.sets(2), lambda found: found.sets(2), ALONE)


def spoil(paths):
    for path in paths:
        path.write_bytes(path.read_bytes()[:60])


def named(images):
    return {images.root / path for path in images.paths}


@pytest.mark.parametrize(("draw", "total", "trained"), [("copy", 40, 7), ("take out", 28, 3)])
def test_meta_images_are_drawn_from_those_that_can_be_read(lists, draw, total, trained):
    """Where they are taken out of the training list, two are bad there and two are drawn."""
    lists = replace(lists, draw=draw, source=lists.train if draw == "take out" else lists.source)
    before, same = lists.sets(2), good(lists)
    assert (same.notes, same.digests()) == (before.notes, before.digests())
    bad = {path for path in named(lists.sets(2).meta) if path.name.startswith("1_")}  # all that were drawn for a class
    spoil(bad)
    sets = good(lists)
    assert class_counts(sets.meta) == [2, 2, 2]
    assert not bad & set.union(*map(named, sets.parts.values()))
    assert sum(f"--skip_bad: 2 of {total} images cannot be read and are left out" in note for note in sets.notes) == 1
    assert sets.cls_num_list[1] == trained


def test_only_images_that_are_used_must_be_readable(lists, tmp_path):
    sets = lists.sets(2)
    spare = sorted({*(tmp_path / "val").iterdir()} - named(sets.meta))
    spoil(spare)
    check_readable(sets.parts.values(), ALONE)
    assert len(spare) == 6
    bad = min(named(sets.meta))
    spoil([bad])
    assert str(bad) in wrong(check_readable, sets.parts.values(), ALONE)


def test_all_processes_but_the_first_leave_without_a_word():
    with pytest.raises(Stopped, match=r"^$") as stopped:
        refuse_faults({"a.png": "a.png is missing"}, [], Group(1, 2, CPU), skippable=True)
    assert stopped.value.status == 2


def test_transparent_images_are_counted_once(lists, capsys):
    sets = replace(lists, test=lists.source).sets(2)  # whose meta images are test images too
    for path in sorted(named(sets.meta))[:3]:
        Image.new("RGBA", (8, 8), (1, 2, 3, 4)).save(path)
    check_readable(sets.parts.values(), ALONE)
    assert capsys.readouterr().out == "note: images with transparent parts, which were laid on white: 3\n"


def test_what_is_not_there_is_listed_with_what_cannot_be_read(lists, tmp_path):
    paths = [path for path in sorted((tmp_path / "train").iterdir()) if path.stem[2:] > "1"]
    for path, make in zip(paths, [None] * 10 + [os.mkdir, os.mkfifo], strict=False):
        path.unlink()
        if make:
            make(path)
    spoil(paths[12:])
    with pytest.raises(UserError, match=r"^16 of 34 images cannot be read, see above: ") as error:
        check_readable(lists.sets(2).parts.values(), ALONE)
    for words, number in (("is missing: ", 10), ("cannot be read as an image", 4), ("is not an image file", 2)):
        assert sum(words in line for line in error.value.lines) == number
    assert len(good(lists).train) == 22 - 16


@pytest.mark.parametrize("part", COUNTS)
def test_a_list_of_which_nothing_is_there_or_can_be_read_is_said(lists, tmp_path, part):
    paths = sorted((tmp_path / part).iterdir())
    spoil(paths)  # though all that cannot be read were to be left out
    with pytest.raises(UserError, match=f"^{len(paths)} of 40 images cannot be read, see above: remove or replace them$"):
        good(lists)
    for path in paths:
        path.unlink()
    said = wrong(lists.sets(2).digests if part != "val" else replace(lists, draw="whole").sets(2).digests)
    assert f" images of {part}.txt is there, {tmp_path}/{part}/0_" in said
    assert said.endswith("check the list and --data_root")
