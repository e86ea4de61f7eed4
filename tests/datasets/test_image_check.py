"""Images that cannot be read: found before the meta images are drawn, so that these are good wherever there are enough."""

import os

import numpy as np
import pytest
from PIL import Image
from support.data import write_image
from support.image_lists import ALONE
from support.refusals import wrong

from datasets.image_check import check_readable, readable_sets
from datasets.large_sets import read_lists
from harness.errors import UserError

COUNTS = {"train": (9, 7, 6), "val": (4, 4, 4), "test": (2, 2, 2)}


@pytest.fixture
def lists(tmp_path):
    """Lists of three classes for every published set, and the images they name."""
    for dataset in ("ImageNet_LT", "iNaturalist18", "iNaturalist17"):
        for part, counts in COUNTS.items():
            names = [(f"{part}/{k}_{i}.png", k) for k, count in enumerate(counts) for i in range(count)]
            (tmp_path / f"{dataset}_{part}.txt").write_text("".join(f"{name} {k}\n" for name, k in names))
            for name, k in names:
                write_image(tmp_path / name, k)
    return tmp_path


def read(root, dataset, num_meta=2):
    if dataset == "custom":
        return read_lists("custom", root, num_meta, None, root / "iNaturalist18_train.txt", root / "iNaturalist18_val.txt")
    return read_lists(dataset, root, num_meta, lists=root)


def good(root, dataset, num_meta=2):
    """The sets with --skip_bad."""
    return readable_sets(read(root, dataset, num_meta).sets(num_meta), lambda lists: lists.sets(num_meta), ALONE)


def spoil(paths):
    for path in paths:
        path.write_bytes(path.read_bytes()[:60])


def faults_of_all(sets):
    with pytest.raises(UserError) as error:
        check_readable(sets, ALONE, whole=True)
    return error.value.lines


def named(images):
    return {images.root / path for path in images.paths}


DATASETS = ("ImageNet_LT", "iNaturalist18", "iNaturalist17", "custom")


@pytest.mark.parametrize("dataset", DATASETS)
def test_meta_images_are_drawn_from_those_that_can_be_read(lists, dataset):
    before = read(lists, dataset).sets(2)
    same = good(lists, dataset)
    assert [part.paths for part in same.parts.values()] == [part.paths for part in before.parts.values()]
    assert (before.lists.checked, same.lists.checked) == (False, True)
    assert (same.notes, same.digests()) == (before.notes, before.digests())
    bad = {path for path in named(before.meta) if path.name.startswith("1_")}  # all that were drawn for a class
    spoil(bad)
    sets = good(lists, dataset)
    assert np.bincount(sets.meta.targets).tolist() == [2, 2, 2]
    assert not bad & set.union(*map(named, sets.parts.values()))
    total = {"ImageNet_LT": 40}.get(dataset, 34)
    assert sum(f"--skip_bad: 2 of {total} images cannot be read and are left out" in note for note in sets.notes) == 1
    taken = {"iNaturalist17": 2, "custom": 2 + 2}.get(dataset, 0)  # bad ones of the training list, and meta images taken out
    assert sets.cls_num_list[1] == 7 - taken


@pytest.mark.parametrize(("dataset", "part"), [("iNaturalist18", "val"), ("ImageNet_LT", "val"), ("iNaturalist17", "train")])
def test_a_class_with_too_few_good_images_gives_what_it_has(lists, dataset, part):
    paths = sorted((lists / part).glob("2_*.png"))
    spoil(paths[1:])
    sets = good(lists, dataset)
    assert np.bincount(sets.meta.targets).tolist() == [2, 2, 1]
    spoil(paths[:1])
    said = wrong(good, lists, dataset)
    assert f"no {'training' if part == 'train' else 'meta'} image in" in said
    assert "for these classes: 2 (2)" in said


def test_a_small_class_of_ones_own_has_its_good_images_in_both_sets(lists):
    spoil(sorted((lists / "train").glob("2_*.png"))[2:])
    sets = good(lists, "custom")
    assert np.bincount(sets.meta.targets).tolist() == [2, 2, 2]
    assert sets.cls_num_list == [7, 5, 2]
    assert any("both the training and the meta set: 2 (2)" in note for note in sets.notes)


def test_only_images_that_are_used_must_be_readable(lists):
    sets = read(lists, "ImageNet_LT").sets(2)
    spare = sorted(set((lists / "val").iterdir()) - named(sets.meta))
    spoil(spare)
    check_readable(sets, ALONE)
    assert str(spare[0]) in "".join(faults_of_all(sets))
    bad = sorted(named(sets.meta))[:1]
    spoil(bad)
    assert str(bad[0]) in wrong(check_readable, sets, ALONE)


def test_transparent_images_are_counted_once(lists, capsys):
    sets = read(lists, "iNaturalist18").sets(2)  # whose meta images are test images too
    for path in sorted(named(sets.meta))[:3]:
        Image.new("RGBA", (8, 8), (1, 2, 3, 4)).save(path)
    Image.new("RGBA", (8, 8), (1, 2, 3, 255)).save(sorted(named(sets.train))[0])  # nowhere transparent
    for look in (lambda: check_readable(sets, ALONE), lambda: good(lists, "iNaturalist18")):
        look()
        assert capsys.readouterr().out == "note: images with transparent parts, which were laid on white: 3\n"


def test_what_is_not_there_is_listed_with_what_cannot_be_read(lists):
    sets = read(lists, "iNaturalist18").sets(2)
    before = sets.digests()
    paths = sorted(path for path in (lists / "train").iterdir() if path.stem[2:] not in "01")
    for path in paths[:10]:
        path.unlink()
    spoil(paths[10:14])
    for path, make in zip(paths[14:], (os.mkdir, os.mkfifo), strict=True):
        path.unlink()
        make(path)
    sets = read(lists, "iNaturalist18").sets(2)
    assert sets.digests() != before
    assert ", 12 of them missing (" in sets.digests()["train images"]
    with pytest.raises(UserError, match=r"^16 of 34 images cannot be read, .* or skip them with --skip_bad$") as error:
        check_readable(sets, ALONE)
    for words, number in (("is missing: ", 10), ("cannot be read as an image", 4), ("is not an image file", 2)):
        assert sum(words in line for line in error.value.lines) == number
    sets = good(lists, "iNaturalist18")
    assert any(note.startswith("--skip_bad: 16 of 34 images cannot be read") for note in sets.notes)
    assert len(sets.train) == 22 - 16
    assert "missing" not in sets.digests()["train images"]


@pytest.mark.parametrize("part", ["train", "val"])
def test_a_list_of_which_nothing_is_there_is_one_line(lists, part):
    for path in (lists / part).iterdir():
        path.unlink()
    said = wrong(read(lists, "iNaturalist18").sets(2).digests)
    file = lists / f"iNaturalist18_{part}.txt"
    assert f" images of {file} is there, {lists}/{part}/0_" in said
    assert said.endswith("check the list and --data_root")


@pytest.mark.parametrize(("dataset", "part"), [("iNaturalist18", "val"), ("ImageNet_LT", "test"), ("ImageNet_LT", "train")])
def test_a_list_of_which_nothing_can_be_read_is_listed_though_all_were_to_be_left_out(lists, dataset, part):
    paths = sorted((lists / part).iterdir())
    spoil(paths)
    spoil(sorted((lists / "train").iterdir())[:1])
    total, more = {"ImageNet_LT": 40}.get(dataset, 34), part != "train"
    words = f"^{len(paths) + more} of {total} images cannot be read, see above: remove or replace them$"
    with pytest.raises(UserError, match=words) as error:
        good(lists, dataset)
    assert any(str(paths[0]) in line for line in error.value.lines)
