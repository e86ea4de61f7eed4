"""compare_own.py: the ways to make a head of one's own features, compared by folds, and one answer."""

import json
import os
import shlex
from html import unescape
from signal import SIGKILL, SIGTERM

import pytest
from support.compare import distance
from support.own import saved, write_features
from support.places import ROOT

from harness.signals_and_lock import only_run
from heads import ways

FLAGS = ["--features", "f.npz", "--no-cuda"]
COMPARE = f"scripts/compare_own.py {' '.join(FLAGS)}"
OURS = "checkpoint/ours/compare"
WAYS = ["logistic", "balanced", "nearest_mean", "lda", "isda", "metasaug"]


def write(folder):
    write_features(folder / "f.npz", [40, 14, 5], spread=2.0)
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write(tmp_path_factory.mktemp("compare"))


@pytest.fixture(scope="module")
def out(run_in, folder):
    return run_in(COMPARE, cwd=folder).stdout


def files(folder):
    """When each file was written that says what was scored and trained."""
    found = [path for path in folder.joinpath(OURS).rglob("*") if path.suffix in {".npz", ".tar", ".json", ".jsonl"}]
    return {str(path.relative_to(folder)): path.stat().st_mtime_ns for path in found}


def answer(out):
    """The last words: the sentences, and the command."""
    lines = out.rpartition("\n\n")[2].splitlines()
    return lines[:-1], lines[-1].removeprefix("To train it: python3 ")


def test_the_answer_is_the_verdict_of_the_report_and_its_command_trains_that_head(out, run_in, folder):
    sentences, command = answer(out)
    assert sentences[0].startswith("Take ")
    kept = json.loads((folder / OURS / "answer.json").read_text(encoding="utf-8"))
    assert kept["compared"] == sorted(f"{way}_summary.json" for way in WAYS)
    assert kept["sentences"] == [*sentences, f"To train it: python3 {command}"]
    assert sentences[0] in unescape((folder / OURS / "report" / "report.html").read_text(encoding="utf-8"))
    names = json.loads((folder / OURS / "group_names.json").read_text(encoding="utf-8"))
    assert names == {way: ways.WAYS[way].words for way in WAYS}
    script, *words = shlex.split(command)
    assert (folder / script).resolve() == ROOT / "train_own.py"
    assert words[: len(FLAGS)] == [flag.replace("no-cuda", "no_cuda") for flag in FLAGS]
    given = dict(zip(words[3::2], words[4::2], strict=True))
    way = given.pop("--way")
    told = json.loads((folder / OURS / f"{way}_summary.json").read_text(encoding="utf-8"))
    assert given == {flag: str(told["flags"][flag[2:]]) for flag in given}
    assert f", {told['last']['acc1']:.1f} % on the 18 test images" in sentences[0]  # as many of each class
    run_in("train_own.py", *words, cwd=folder)
    heads = (folder / place for place in (f"{OURS}/{way}_last.pth.tar", "checkpoint/ours/own/head_last.pth.tar"))
    assert distance(*(saved(path)["state_dict"] for path in heads)) == 0


def test_the_same_command_again_does_nothing_twice(out, run_in, folder):
    before = files(folder)
    assert {f"{OURS}/{way}_summary.json" for way in WAYS} <= before.keys()
    again = run_in(COMPARE, cwd=folder).stdout
    changed = {path for path, time in files(folder).items() if before.get(path) != time}
    assert changed <= {f"{OURS}/answer.json", f"{OURS}/group_names.json"}
    assert answer(again) == answer(out)


def test_other_rows_or_another_seed_are_compared_anew_in_the_same_folder(out, run_in, tmp_path):
    write(tmp_path)
    run_in(f"{COMPARE} --seed 3 --ways lda", cwd=tmp_path)
    write_features(tmp_path / "f.npz", [41, 14, 5], spread=2.0)
    run_in(f"{COMPARE} --seed 3 --ways lda", cwd=tmp_path)
    assert saved(tmp_path / OURS / "lda_last.pth.tar")["cls_num_list"] == [41, 14, 5]
    write(tmp_path)
    assert answer(run_in(COMPARE, cwd=tmp_path).stdout) == answer(out)


@pytest.mark.parametrize(  # amid the folds, amid the trainings
    ("fault", "number"), [("????????????????.lock 9", SIGTERM), ("lda_summary.json* 1", SIGKILL)]
)
def test_a_comparison_that_is_killed_goes_on(out, run_in, tmp_path, fault, number):
    write(tmp_path)
    fault = {"FAULT": f"open {fault} {number.name}"}
    result = run_in(COMPARE, cwd=tmp_path, status=128 + number, **fault)
    assert number == SIGKILL or result.stderr.splitlines()[-1].endswith("stopped; give the same command to resume")
    before = {path: time for path, time in files(tmp_path).items() if "/lda_" not in path}  # that one goes on
    assert len(before) >= 8
    assert answer(run_in(COMPARE, cwd=tmp_path).stdout) == answer(out)
    assert {path: time for path, time in files(tmp_path).items() if path in before} == before


def test_two_at_once_share_the_work(out, start, folder, tmp_path):
    write(tmp_path)
    both = [start(COMPARE) for _ in range(2)]
    for said, told in [process.communicate() for process in both]:
        assert answer(said) == answer(out), told
    assert files(tmp_path).keys() == files(folder).keys()
    log = (tmp_path / OURS / "runs.log").read_text(encoding="utf-8")
    assert log.count("done in") == len(WAYS)


def test_one_that_waits_for_another_can_be_stopped(out, start, after_line, folder, tmp_path):
    write(tmp_path)
    score = min(folder.joinpath(OURS, "folds").glob("*.npz"))
    (tmp_path / OURS / "folds").mkdir(parents=True)
    with only_run(tmp_path / OURS / "folds" / f"{score.stem}.lock"):
        process = start(COMPARE)
        after_line(process, 1, f"waiting for process {os.getpid()}")
        process.send_signal(SIGTERM)
        assert "stopped; give the same command to resume" in process.communicate()[1]
    assert process.returncode == 128 + SIGTERM
