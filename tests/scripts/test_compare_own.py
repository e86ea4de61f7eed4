"""compare_own.py: a handful of ways of training, constants chosen on held-out images, and which to take."""

import csv
import json
import re
import statistics

import pytest
from support.own import write_features

SCRIPT, OURS = "scripts/compare_own.py", "checkpoint/ours/compare"
SHARED = ["--features", "f.npz", "--no-cuda", "--epochs", "3", "--batch_size", "32", "--num_meta", "3", "--num_heldout", "5"]
FLAGS = [*SHARED, "--seeds", "4,2", "--ways", "plain,plain_subtracted,prior_throughout,isda,relative"]
TRIED = {"plain": 5, "plain_subtracted": 5, "prior_throughout": 5, "isda": 25}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    made = tmp_path_factory.mktemp("compared")
    write_features(made / "f.npz", [60, 25, 12], spread=2.5, val=12)
    return made


@pytest.fixture(scope="module")
def out(run_in, folder):
    return run_in(SCRIPT, *FLAGS, cwd=folder).stdout


def tried(folder):
    """The lines of all constants that were tried, by way."""
    found = {}
    for path in sorted(folder.joinpath(OURS).glob("tried_*.csv")):
        with open(path, encoding="utf-8", newline="") as file:
            for line in csv.DictReader(file):
                found.setdefault(line["way"], []).append(line)
    return found


def last(folder, name, ours=OURS):
    return json.loads((folder / ours / f"{name}_summary.json").read_text(encoding="utf-8"))["last"]


def chosen(lines):
    return next(line for line in lines if line["chosen"] == "yes")


def test_constants_are_chosen_on_held_out_images(out, folder):
    lines = tried(folder)
    assert {way: len(lines[way]) for way in TRIED} == TRIED
    for own in lines.values():
        best = max(float(line["heldout_acc1"]) for line in own)
        assert sum(line["chosen"] == "yes" for line in own) == 1
        assert float(chosen(own)["heldout_acc1"]) == best
    isda, relative = chosen(lines["isda"]), lines["relative"]
    rates, lams = ["0.1", "0.03", "0.01", "0.003", "0.001"], ["0.75", "2", "4", "8", "16"]
    first = [line for line in relative if line["meta_step_size"] == "0.5"]
    for values, key in ((rates, "lr"), (lams, "lam")):  # beside the constants of ISDA
        at = values.index(isda[key])
        assert {line[key] for line in first} == {*values[max(at - 1, 0) : at + 2]}
    assert [line["meta_step_size"] for line in relative if line not in first] == ["0.2", "1"]


def test_a_trial_is_what_train_own_trains(out, run_in, folder):
    """To the last digit of the accuracy on held-out images, with one seed and constants; another seed is another run."""
    for way, flags in (("isda", "--stage2 isda"), ("plain_subtracted", "--stage2 none --logit_adjust 1"),
                       ("prior_throughout", "--stage2 reweight --balance prior --meta_start 0"),
                       ("relative", "--stage2 metasaug --meta_update relative")):  # fmt: skip
        line = tried(folder)[way][2]
        constants = [word for key in ("lr", "lam", "meta_step_size") if line[key] for word in (f"--{key}", line[key])]
        run_in("train_own.py", *SHARED, "--select_on", "heldout", "--seed", "4", *flags.split(), *constants,
               "--save_name", way, cwd=folder)  # fmt: skip
        assert last(folder, way, "checkpoint/ours/own")["heldout_acc1"] == float(line["heldout_acc1"])


def test_every_way_is_trained_with_every_seed_and_the_best_one_is_named(out, folder):
    means = {}
    for way, lines in tried(folder).items():
        runs = [last(folder, f"{way}_seed{seed}") for seed in (4, 2)]
        means[way] = statistics.mean(run["heldout_acc1"] for run in runs)
        flags = json.loads((folder / OURS / f"{way}_seed2_summary.json").read_text(encoding="utf-8"))["flags"]
        for key in ("lr", "lam", "meta_step_size"):
            assert not chosen(lines)[key] or flags[key] == float(chosen(lines)[key])
    command = re.search(r"to train it, without images held out: python3 train_own\.py (.*)", out)[1].split()
    best = next(way for way, mean in means.items() if mean == max(means.values()))
    assert command[command.index("--lr") + 1] == chosen(tried(folder)[best])["lr"]
    assert "--select_on" not in command
    assert (folder / OURS / "report" / "report.html").is_file()
    words = ("plain cross-entropy", "plain cross-entropy, log prior subtracted", "log prior from the start", "ISDA",
             "MetaSAug (relative rule)")  # fmt: skip
    assert {line.split("|")[1].strip() for line in out.splitlines() if re.match(r"\| .* \| 2 +\|", line)} == {*words}
    assert "best on the held-out images: " in out


def test_the_command_goes_on_and_does_nothing_twice(out, run_in, folder):
    before = {path: path.stat().st_mtime_ns for path in folder.joinpath(OURS).glob("*") if path.is_file()}
    again = run_in(SCRIPT, *FLAGS, cwd=folder).stdout
    assert (folder / OURS / "runs.log").read_text(encoding="utf-8").count("is finished") == 10
    after = {path: path.stat().st_mtime_ns for path in before}
    assert {path.suffix for path in before if before[path] != after[path]} <= {".csv", ".lock", ".log"}
    assert again.splitlines()[-8:] == out.splitlines()[-8:]


def test_parts_do_together_what_one_does(out, run_in, folder):
    for part in ("2/2", "1/2"):
        parted = run_in(SCRIPT, *FLAGS, "--shard", part, "--idx", "parted", cwd=folder).stdout
        told = "the last of the parts says which way to take"
        assert (told in parted) == (part == "2/2")
    table = [line.split("  ") for line in (out, parted) for line in line.splitlines() if " ± " in line and "|" not in line]
    assert table[: len(table) // 2] == table[len(table) // 2 :]
    assert len(table) == 10


def test_an_interrupted_comparison_goes_on(run_in, tmp_path):
    write_features(tmp_path / "f.npz", [60, 25, 12], spread=2.5, val=12)
    flags = [*SHARED, "--seeds", "1", "--ways", "prior"]
    result = run_in(SCRIPT, *flags, cwd=tmp_path, status=143, STOP_AT="20", STOP_BY="15")
    assert "stopped; to go on, give the same command" in result.stderr
    assert len(tried(tmp_path)["prior"]) == 2
    result = run_in(SCRIPT, *flags, cwd=tmp_path, status=143, STOP_AT="33", STOP_BY="15")  # amid the run
    assert "stopped; to go on, give the same command" in result.stderr
    run_in(SCRIPT, *flags, cwd=tmp_path)
    assert "going on in epoch" in (tmp_path / OURS / "runs.log").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--ways", "relative"], "tried beside those of isda: add it"),
        (["--ways", "best"], "--ways best makes no sense: it must be one of plain"),
        (["--lr", "0.1"], "--lr is set by this script for each training: leave it out"),
        (["--stage2=isda"], "--stage2 is set by this script"),
        (["--shard", "3/2"], "--shard 3/2 makes no sense"),
        (["--seeds", "x"], "--seeds x cannot be read"),
        (["--epochs", "4"], "holds a comparison of another kind (--epochs differs): give this one another --idx"),
        (["--seeds", "2,4"], "(first seed differs)"),
    ],
)
def test_flags_that_make_no_sense_end_in_one_line(out, run_in, folder, flags, words):
    given = {flag: i for i, flag in enumerate(FLAGS)}
    kept = [*FLAGS]
    if flags[0] in given:
        kept[given[flags[0]] + 1] = flags[1]
        flags = []
    result = run_in(SCRIPT, *kept, *flags, cwd=folder, status=2)
    assert words in result.stderr
    assert len(result.stderr.splitlines()) == 1
