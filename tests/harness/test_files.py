"""Files that are replaced whole, and those of earlier runs."""

import os
import shutil
from pathlib import Path

import pytest

from harness.errors import UserError
from harness.files import beside, check_output, output_folder, previous, replacing, set_earlier_aside


def replace(path, text, keep_previous=False):
    with replacing(path, keep_previous) as part:
        part.write_text(text)


@pytest.mark.parametrize("linked", [True, False])
def test_the_file_of_before_stays_under_its_second_name(tmp_path, monkeypatch, linked):
    path = tmp_path / "x"
    if not linked:  # as on a file system without hard links
        monkeypatch.setattr(os, "link", lambda *_: os.stat(tmp_path / "none"))
    for text in ("first", "second", "third"):
        replace(path, text, keep_previous=True)
    assert {p.name: p.read_text() for p in tmp_path.iterdir()} == {"x": "third", "x.previous": "second"}
    replace(path, "fourth")
    assert {p.name: p.read_text() for p in tmp_path.iterdir()} == {"x": "fourth", "x.previous": "second"}


def test_a_kill_between_the_names_leaves_nothing_behind(tmp_path):
    path = tmp_path / "x"
    path.write_text("first")
    os.link(path, previous(path))  # a kill after the old file got its second name
    replace(path, "second", keep_previous=True)
    assert {p.name: p.read_text() for p in tmp_path.iterdir()} == {"x": "second", "x.previous": "first"}


def test_a_failure_while_writing_leaves_the_old_file(tmp_path):
    path = tmp_path / "x"
    path.write_text("old")

    def interrupted():
        with replacing(path) as part:
            part.write_text("new")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert {p.name: p.read_text() for p in tmp_path.iterdir()} == {"x": "old"}


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_two_that_write_a_shared_file_at_once_leave_one_of_them_whole(tmp_path):
    path = tmp_path / "a"
    with replacing(path, shared=True) as first, replacing(path, shared=True) as second:
        first.write_text("longer")
        second.write_text("short")
    assert path.read_text() == "longer"  # which ended last
    assert [*tmp_path.iterdir()] == [path]


def test_a_full_disk_is_said_and_the_file_stays(tmp_path):
    path = tmp_path / "x"
    for old in (False, True):
        (tmp_path / "x.tmp").symlink_to("/dev/full")
        kept = "; it is unchanged" if old else ""
        with pytest.raises(UserError, match=rf"x cannot be written \(No space left on device\){kept}: free disk space"):
            replace(path, "new")
        path.write_text("old")
        assert [p.read_text() for p in tmp_path.iterdir()] == ["old"]


def test_earlier_files_are_set_aside_again_and_again(tmp_path):
    for turn in ("first", "second"):
        (tmp_path / "a").write_text(turn)
        aside = set_earlier_aside(tmp_path, ["a", "b"])
        assert (aside / "a").read_text() == turn
    assert sorted(p.name for p in (tmp_path / "earlier").iterdir()) == ["1", "2"]
    assert set_earlier_aside(tmp_path, ["a", "b"]) is None


def test_runs_that_set_files_aside_at_once_take_different_numbers(tmp_path, monkeypatch):
    (tmp_path / "a").touch()
    plain = Path.mkdir

    def mkdir(self, *args, **kwargs):
        if self == tmp_path / "earlier" / "1" and not self.exists():
            plain(self)  # the other run is a moment ahead
        return plain(self, *args, **kwargs)

    monkeypatch.setattr(Path, "mkdir", mkdir)
    assert set_earlier_aside(tmp_path, ["a", "b"]) == tmp_path / "earlier" / "2"
    assert (tmp_path / "earlier" / "2" / "a").exists()
    (tmp_path / "a").touch()
    shutil.rmtree(tmp_path / "earlier")
    (tmp_path / "earlier").touch()
    with pytest.raises(UserError, match="earlier cannot be written"):
        set_earlier_aside(tmp_path, ["a"])
    assert (tmp_path / "a").exists()


def test_an_output_folder_that_cannot_be_written_is_refused(tmp_path):
    assert output_folder(tmp_path / "new" / "folder", "name") == tmp_path / "new" / "folder"
    assert list((tmp_path / "new" / "folder").iterdir()) == []
    (tmp_path / "file").touch()
    for folder, name in ((tmp_path / "file" / "0", "name"), (tmp_path, "n" * 300)):
        with pytest.raises(UserError, match="cannot be written"):
            output_folder(folder, name)


def test_pipes_and_devices_are_not_replaced(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", tmp_path):
        for write in (lambda path: replace(path, "new"), check_output):
            with pytest.raises(UserError, match="a folder, a pipe or a device"):
                write(path)
    assert (tmp_path / "pipe").is_fifo()


@pytest.mark.parametrize(("keep_previous", "longest"), [(False, 251), (True, 246)])
def test_a_name_too_long_for_what_is_written_beside_it_is_refused_before(tmp_path, keep_previous, longest):
    check_output(tmp_path / ("n" * longest), keep_previous)
    for text in ("first", "second"):
        replace(tmp_path / ("n" * longest), text, keep_previous)
    with pytest.raises(UserError, match="File name too long"):
        check_output(tmp_path / ("n" * (longest + 1)), keep_previous)


def test_a_link_without_a_file_becomes_a_file(tmp_path):
    (tmp_path / "link").symlink_to("nowhere")
    replace(tmp_path / "link", "new")
    assert [(p.name, p.is_symlink()) for p in tmp_path.iterdir()] == [("link", False)]


def test_names_beside_a_checkpoint():
    for name in ("x.pth.tar", "x.pth", "x.tar", "x"):
        assert beside(Path("a") / name, "_classes.csv") == Path("a/x_classes.csv")
