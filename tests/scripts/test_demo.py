"""The demo: twelve small trainings, a table, a sentence that is true of it; interrupted, it goes on."""

import importlib.util
import re
import signal
from types import SimpleNamespace

import pytest
from support.places import ROOT

spec = importlib.util.spec_from_file_location("demo", ROOT / "scripts" / "demo.py")
demo = importlib.util.module_from_spec(spec)
spec.loader.exec_module(demo)


def runs(**accuracies):
    return {
        stage2: [SimpleNamespace(summary={"last": {"acc1": value, "many": 90.0, "medium": 50.0, "few": value / 2}})
                 for value in values]
        for stage2, values in accuracies.items()
    }  # fmt: skip


def test_the_sentence_says_who_wins_and_whether_always():
    said = demo.seen(runs(none=[50, 60, 55], reweight=[70, 72, 74], isda=[71, 71, 71], metasaug=[75, 77, 79]))
    assert "plain cross-entropy is beaten by MetaSAug, re-weighting, ISDA; few-shot" in said
    assert "accuracy is 27.5 with it and 35.5 or more with the others" in said
    assert said.endswith("MetaSAug is best in the mean, with every seed.")
    said = demo.seen(runs(none=[50, 60, 55], reweight=[70, 72, 74], isda=[71, 71, 71], metasaug=[69, 57, 75]))
    assert "beaten by re-weighting, ISDA; few-shot" in said  # MetaSAug lost to it with one seed
    assert said.endswith("Re-weighting is best in the mean, but not with every seed: its lead over ISDA is 1.00 ± 2.00.")
    said = demo.seen(runs(none=[90, 90, 90], reweight=[70, 72, 74], isda=[71, 71, 71], metasaug=[69, 57, 75]))
    assert "beaten by none of the others" in said


@pytest.mark.slow
def test_an_interrupted_demo_goes_on_and_ends_with_the_table(run, start, after_line, tmp_path):
    process = start(ROOT / "scripts" / "demo.py")
    after_line(process, 2, "trained")
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate()
    assert process.returncode == 128 + signal.SIGTERM
    assert err.strip() == "demo.py: stopped; to go on, give the same command"
    folder = tmp_path / "demo_runs" / "checkpoint" / "ours" / "digits"
    kept = {path: path.read_bytes() for path in folder.glob("*_summary.json")}
    assert len(kept) >= 2
    out = run("scripts/demo.py", fresh=True).stdout
    assert {path: path.read_bytes() for path in kept} == kept  # nothing is trained twice
    assert len(list(folder.glob("*_summary.json"))) == 12
    assert len(re.findall(r"^\| [\w -]+\|( +[\d.]+ ± [\d.]+ +\|){4}$", out, re.M)) == 4
    assert "plain cross-entropy is beaten by" in out
    compared = run("report.py", folder).stdout
    assert all(f"| {words} " in compared for words in ("plain cross-entropy", "re-weighting", "ISDA", "MetaSAug"))
    assert sorted(out.splitlines()) == sorted(run("scripts/demo.py", fresh=True).stdout.splitlines())
