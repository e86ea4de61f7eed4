"""What a script says where packages that it needs are not installed."""

import pytest

from harness import before_loading


@pytest.mark.parametrize(
    ("absent", "said"),
    [
        ({"torch", "jinja2"}, "no PyTorch: give `. .venv/bin/activate` first"),
        ({"jinja2", "vl_convert"}, "no jinja2 and no vl_convert: install requirements.lock anew"),
        ({"vl_convert"}, "no vl_convert: install requirements.lock anew"),
    ],
)
def test_a_package_that_is_not_there_is_named_in_one_line(monkeypatch, capfd, absent, said):
    monkeypatch.setattr(before_loading, "find_spec", lambda name: None if name in absent else name)
    monkeypatch.setattr("sys.argv", ["there/report.py"])
    with pytest.raises(SystemExit) as left:
        before_loading.prepare_process("jinja2", "vl_convert")
    assert (left.value.code, capfd.readouterr()) == (2, ("", f"report.py: error: this Python has {said}, see the README\n"))
