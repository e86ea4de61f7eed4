"""Files that are replaced whole, and those of earlier runs."""

from pathlib import Path

from harness.files import replacing, set_earlier_aside


def contents(folder):
    return {path.name: path.read_text() for path in folder.iterdir()}


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
        assert set_earlier_aside([tmp_path / "a", tmp_path / "b"]) == tmp_path / "earlier" / number
        assert contents(tmp_path / "earlier" / number) == {"a": number}
    assert set_earlier_aside([tmp_path / "a", tmp_path / "b"]) is None
