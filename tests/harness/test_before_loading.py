"""What a script says where packages that it needs are not installed."""

from contextlib import nullcontext

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
    advice = "give `. .venv/bin/activate` first, or install requirements.lock again"
    assert left.value.code == 2
    assert capfd.readouterr() == ("", f"report.py: error: this Python has no {named}: {advice}\n")


@pytest.mark.parametrize(("limit", "ends"), [(3 * 2**30, True), (4 * 2**30, False), (-1, False)])
def test_less_memory_than_the_libraries_take_is_said(monkeypatch, capfd, limit, ends):
    monkeypatch.setattr(before_loading, "memory_limit", lambda: limit)
    with pytest.raises(SystemExit) if ends else nullcontext():
        before_loading.prepare_process()
    assert ("may map 3.0 GB of memory, its libraries alone need 4" in capfd.readouterr().err) == ends
