"""Files that are replaced whole, and those of earlier runs."""

import os
from pathlib import Path

import pytest

from harness.files import previous, replacing, set_earlier_aside


def replace(path, text, keep_previous=False):
    with replacing(path, keep_previous) as part:
        part.write_text(text)


def contents(folder):
    return {path.name: path.read_text() for path in folder.iterdir()}


@pytest.mark.parametrize("linked", [True, False])
def test_the_file_of_before_stays_under_its_second_name(tmp_path, monkeypatch, linked):
    path = tmp_path / "x"
    if not linked:  # as on a file system without hard links
        monkeypatch.setattr(os, "link", lambda *_: os.stat(tmp_path / "none"))
    for text in ("first", "second", "third"):
        replace(path, text, keep_previous=True)
    assert contents(tmp_path) == {"x": "third", "x.previous": "second"}
    replace(path, "fourth")
    assert contents(tmp_path) == {"x": "fourth", "x.previous": "second"}
    previous(path).unlink()
    monkeypatch.undo()
    os.link(path, previous(path))  # a kill after the old file got its second name
    replace(path, "fifth", keep_previous=True)
    assert contents(tmp_path) == {"x": "fifth", "x.previous": "fourth"}


def test_two_that_write_a_shared_file_at_once_leave_one_of_them_whole(tmp_path):
    path = tmp_path / "a"
    with replacing(path, shared=True) as first, replacing(path, shared=True) as second:
        first.write_text("longer")
        second.write_text("short")
    assert contents(tmp_path) == {"a": "longer"}  # which ended last


def test_earlier_files_are_set_aside_again_and_again(tmp_path, monkeypatch):
    """Also beside a run that does so at the same moment."""
    plain = Path.mkdir

    def mkdir(self, *args, **kwargs):
        if self == tmp_path / "earlier" / "2" and not self.exists():
            plain(self)  # the other run is a moment ahead
        return plain(self, *args, **kwargs)

    monkeypatch.setattr(Path, "mkdir", mkdir)
    for number in ("1", "3"):
        (tmp_path / "a").write_text(number)
        assert set_earlier_aside(tmp_path, ["a", "b"]) == tmp_path / "earlier" / number
        assert contents(tmp_path / "earlier" / number) == {"a": number}
    assert set_earlier_aside(tmp_path, ["a", "b"]) is None
