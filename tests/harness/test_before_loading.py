"""What a script says where packages that it needs are not installed."""

import pytest

from harness import before_loading


@pytest.mark.parametrize(
    ("absent", "named"),
    [({"torch", "jinja2"}, "torch"), ({"jinja2", "vl_convert"}, "jinja2"), ({"vl_convert"}, "vl_convert")],
)
def test_a_package_that_is_not_there_is_named_in_one_line(monkeypatch, capfd, absent, named):
    monkeypatch.setattr(before_loading, "find_spec", lambda name: None if name in absent else name)
    monkeypatch.setattr("sys.argv", ["there/report.py"])
    with pytest.raises(SystemExit) as left:
        before_loading.prepare_process("jinja2", "vl_convert")
    advice = "give `. .venv/bin/activate` first, or install requirements.lock anew"
    assert left.value.code == 2
    assert capfd.readouterr() == ("", f"report.py: error: this Python has no {named}: {advice}\n")
