"""ImageNet_iNat/data/prepare_lists.py: lists are downloaded, checked against their ids and never overwritten."""

import os
import subprocess
import sys
from http.client import IncompleteRead

import pytest
from support.image_lists import write
from support.refusals import wrong

from data import prepare_lists

NAMES = [f"ImageNet_LT_{part}.txt" for part in ("train", "val", "test")]


@pytest.fixture
def source(tmp_path, monkeypatch):
    """A folder of small lists that pass for the published ones by git's own ids, and out, where they are to go."""
    folder, out = tmp_path / "source" / "ImageNet_LT", tmp_path / "new" / "out"
    files = [write(folder / name, f"{name} 0\n") for name in NAMES]
    ids = subprocess.check_output(["git", "hash-object", "--no-filters", *files], text=True).split()
    monkeypatch.setitem(prepare_lists.BLOB_IDS, "ImageNet_LT", dict(zip(NAMES, ids, strict=True)))
    monkeypatch.setattr(prepare_lists, "BASE", folder.parent.as_uri())
    monkeypatch.setattr(sys, "argv", ["ImageNet_iNat/data/prepare_lists.py", "ImageNet_LT", "--out", str(out)])
    return folder, out


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()} if folder.is_dir() else {}


def test_lists_are_downloaded_checked_and_kept(source, capsys):
    folder, out = source
    prepare_lists.main()
    assert capsys.readouterr().out.splitlines() == [f"wrote {out / name}" for name in NAMES]
    assert contents(out) == contents(folder)
    (out / NAMES[1]).unlink()
    prepare_lists.main()
    there = [f"{out / NAMES[k]} exists already and has the right content" for k in (0, 2)]
    assert capsys.readouterr().out.splitlines() == [*there, f"wrote {out / NAMES[1]}"]
    (out / NAMES[0]).unlink()
    write(out / NAMES[2], "mine 0\n")  # found before anything is fetched
    before = contents(out)
    assert f"{out / NAMES[2]} is there, but is not the published list" in wrong(prepare_lists.main)
    assert contents(out) == before


def failing(error):
    def call(*_, **__):
        raise error

    return call


FAULTS = [  # what goes wrong, the words of the line
    (lambda folder, *_: write(folder / NAMES[0], "a 0\n"), f"{NAMES[0]} is not the published list"),
    (lambda folder, out, patch: patch(prepare_lists, "BASE", "http://127.0.0.1:9"), "downloading http://127.0.0.1:9/ImageNet_LT"),
    (lambda folder, out, patch: patch(prepare_lists, "urlopen", failing(IncompleteRead(b""))), "(IncompleteRead(0 bytes"),
    (lambda folder, out, patch: patch(os, "replace", failing(OSError(28, "No space left"))), "(No space left)"),
    (lambda folder, out, _: write(out, ""), "out cannot be written ("),
]  # fmt: skip


@pytest.mark.parametrize(("spoil", "words"), FAULTS)
def test_a_download_that_fails_or_cannot_be_written_leaves_nothing(source, monkeypatch, spoil, words):
    folder, out = source
    spoil(folder, out, monkeypatch.setattr)
    assert words in wrong(prepare_lists.main)
    assert contents(out) == {}
