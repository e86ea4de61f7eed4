"""Reports that are made again whenever their runs have gone on: what is new, what cannot be read, how it ends."""

import itertools
import os
import re
import shutil
import signal

import pytest
from support.finished_runs import write_run
from support.refusals import wrong

import report
from harness.errors import Stopped, UserError
from reporting.found_runs import find_runs
from reporting.watching import Watch, stamps, watch


@pytest.fixture
def folder(tmp_path):
    """A folder of one finished run, and one that is not."""
    write_run(tmp_path, "done")
    write_run(tmp_path, "a")
    begun(tmp_path, "a")
    return tmp_path


def begun(folder, name, epochs=1):
    """Make a run one that is not finished: its summary becomes what it says from its start."""
    (folder / f"{name}_summary.json").rename(folder / f"{name}_started.json")
    (folder / f"{name}_last_predictions.npz").unlink()
    lines = [f'{{"epoch": {k}, "test_acc1": 1.0}}\n' for k in range(epochs)]
    (folder / f"{name}_metrics.jsonl").write_text("".join(lines))


def append(folder, name, text):
    with open(folder / f"{name}_metrics.jsonl", "a") as file:
        file.write(text)


class Page:
    """Counts how often it is made, and keeps what of."""

    def __init__(self):
        self.made = []

    def __call__(self, found):
        self.made.append(found)


def test_the_page_is_made_again_when_a_file_has_changed_and_only_then(folder):
    page = Page()
    one = Watch([folder], page)
    assert one.look() == "1 finished in all, 1 not yet"
    assert one.look() is None
    append(folder, "a", '{"epoch": 1, "test_acc1": 2.0}\n')
    assert one.look() == "a: 2 of 200 epochs; 1 finished in all, 1 not yet"
    assert [line["epoch"] for line in page.made[-1].unfinished[0].log] == [0, 1]
    (folder / "a_started.json").rename(folder / "a_summary.json")
    assert one.look() == "a: finished; 2 finished in all, 0 not yet"
    write_run(folder / "new", "b", accuracy=50.0)
    assert one.look() == "b: finished; 3 finished in all, 0 not yet"
    (folder / "new" / "group_names.json").write_text('{"b": "B"}')
    assert one.look() == "3 finished in all, 0 not yet"
    assert page.made[-1].runs[-1].words == "B"
    (folder / "a_ckpt.pth.tar").touch()  # what no report reads
    assert one.look() is None
    assert len(page.made) == 5


def test_many_news_are_a_line(folder):
    one = Watch([folder], Page())
    one.look()
    for k in range(9):
        write_run(folder, f"n{k}")
    assert one.look() == "n0: finished; n1: finished; n2: finished; 6 more; 10 finished in all, 1 not yet"


def test_a_file_that_cannot_be_read_is_looked_at_once_more_and_then_left_alone(folder):
    page = Page()
    one = Watch([folder], page)
    one.look()
    path = folder / "done_last_predictions.npz"
    whole = path.read_bytes()
    path.write_bytes(whole[:40])
    told = one.look()
    assert told.startswith(f"left out done: {path} cannot be read (")
    assert told.endswith("; 0 finished in all, 1 not yet, 1 left out")
    assert len(page.made) == 2
    assert one.look() is None  # the second try
    assert not one.again
    assert one.look() is None
    path.write_bytes(whole)
    assert one.look() == "done: finished; 1 finished in all, 1 not yet"
    assert len(page.made) == 3


def test_what_was_half_written_is_shown_at_the_next_look_even_if_its_time_and_size_are_the_same(folder):
    page, path = Page(), folder / "done_summary.json"
    whole = path.read_bytes()
    one = Watch([folder], page)
    path.write_bytes(b" " * len(whole))
    os.utime(path, ns=(1, 1))
    assert one.look().endswith("0 finished in all, 1 not yet, 1 left out")
    path.write_bytes(whole)
    os.utime(path, ns=(1, 1))
    assert one.look() == "done: finished; 1 finished in all, 1 not yet"


def test_a_run_that_was_named_may_break_for_a_moment_but_not_at_first(folder):
    path, page = folder / "done_summary.json", Page()
    whole = path.read_bytes()
    path.write_bytes(b"{")
    assert "is damaged" in wrong(Watch([path], page).look)
    path.write_bytes(whole)
    one = Watch([path], page)
    assert one.look() == "1 finished in all, 0 not yet"
    path.write_bytes(b"{")
    told = one.look()
    assert "is damaged" in told
    assert told.endswith("; the page stays as it is")
    assert one.look() is None
    path.write_bytes(whole)
    assert one.look() == "1 finished in all, 0 not yet"
    assert len(page.made) == 2


def test_a_folder_without_runs_waits_for_the_first(tmp_path):
    page = Page()
    one = Watch([tmp_path], page)
    assert (one.look(), one.look(), page.made) == ("no runs yet", None, [])
    write_run(tmp_path, "a")
    begun(tmp_path, "a", epochs=0)
    assert one.look() == "a: 0 of 200 epochs; 0 finished in all, 1 not yet"
    assert len(page.made) == 1
    shutil.move(tmp_path / "a_started.json", tmp_path / "x")  # set aside
    (tmp_path / "a_metrics.jsonl").unlink()
    assert one.look() == "0 finished in all, 0 not yet"
    assert len(page.made) == 1


def test_what_a_report_reads_is_what_is_looked_at(folder):
    (folder / "group_names.json").write_text("{}")
    ends = {path.name for path in stamps([folder])}
    assert ends == {"done_summary.json", "done_metrics.jsonl", "done_last_predictions.npz", "a_started.json",
                    "a_metrics.jsonl", "group_names.json"}  # fmt: skip
    assert stamps([folder / "done_summary.json"]).keys() >= {folder / "done_summary.json", folder / "done_metrics.jsonl"}


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("amid", ["wait", "page"])
def test_a_signal_ends_it_with_status_0_and_the_page_made(folder, capsys, number, amid):
    page, waits = Page(), itertools.count()
    before = [signal.getsignal(one) for one in (signal.SIGINT, signal.SIGTERM)]

    def make(found):
        if amid == "page" and len(page.made) == 1:
            os.kill(os.getpid(), number)
        page(found)

    def wait(seconds):
        assert seconds == 5
        append(folder, "a", f'{{"epoch": {next(waits) + 1}, "test_acc1": 2.0}}\n')
        if amid == "wait" and len(page.made) == 2:
            os.kill(os.getpid(), number)
            raise AssertionError("the signal did not end the wait")

    with pytest.raises(Stopped) as stopped:
        watch([folder], make, 5, wait, lambda: "12:03:11")
    assert stopped.value.status == 0
    assert len(page.made) == 2
    out = capsys.readouterr().out.splitlines()
    assert out == ["12:03:11 1 finished in all, 1 not yet", "12:03:11 a: 2 of 200 epochs; 1 finished in all, 1 not yet"]
    assert [signal.getsignal(one) for one in (signal.SIGINT, signal.SIGTERM)] == before


def test_the_group_to_compare_with_may_come_later(folder, monkeypatch):
    monkeypatch.setattr(report, "write_page", lambda page, _: pages.append(page))
    pages, options = [], report.Options(folder / "out", "nobody yet", False, False, None, 5)
    assert "--baseline nobody yet: there is no such group" in wrong(report.make, find_runs([folder]), options, {})
    report.make(find_runs([folder]), options, {}, going_on=True)
    assert [len(page.settings) for page in pages] == [1]
    monkeypatch.setattr(report, "watch", lambda _, render, __: render(find_runs([folder])))
    report.watch_runs([folder], options, {})
    assert [page.watch for page in pages] == [5, 5, None]  # the last does not read itself anew


def test_a_page_that_cannot_be_written_ends_it(folder):
    def make(_):
        raise UserError("out/report.html cannot be written")

    assert "cannot be written" in wrong(watch, [folder], make, 5, None)


def test_lines_begin_with_the_time_of_day(folder, capsys):
    def stop(_):
        os.kill(os.getpid(), signal.SIGTERM)

    with pytest.raises(Stopped):
        watch([folder], Page(), 5, stop)
    assert re.match(r"\d\d:\d\d:\d\d 1 finished", capsys.readouterr().out)
