"""What a script says where packages that it needs are not installed."""

from contextlib import nullcontext

import pytest

from harness import before_loading


@pytest.mark.parametrize(
    ("absent", "limit", "words"),
    [
        ({"torch", "jinja2"}, -1, "this Python has no torch: give `. .venv/bin/activate` first, or install"),
        ({"jinja2", "vl_convert"}, -1, "this Python has no jinja2: "),
        ({}, 3 * 2**30, "this process may map 3.0 GB of memory, its libraries alone need 4"),
        ({}, -1, ""),
    ],
)
def test_what_is_not_there_is_said_in_one_line(monkeypatch, capfd, absent, limit, words):
    monkeypatch.setattr(before_loading, "find_spec", lambda name: None if name in absent else name)
    monkeypatch.setattr(before_loading, "memory_limit", lambda: limit)
    monkeypatch.setattr("sys.argv", ["there/report.py"])
    with pytest.raises(SystemExit, match="2") if words else nullcontext():
        before_loading.prepare_process("jinja2", "vl_convert")
    assert capfd.readouterr().err.startswith(f"report.py: error: {words}" if words else "")
