"""A sweep: what a preset lists is trained once, whatever interrupts it, chosen on held-out images, and compared."""

import json
import re
import shutil
import signal

import numpy as np
import pytest
from support.places import ROOT
from support.runs import files_of, log_of, summary_of

from harness.signals_and_lock import only_run
from heads.ways import WAYS
from reporting.comparisons import gap_of, spread
from scripts.trainings import PRESETS, read_preset

SWEEP, RUNS = "scripts/sweep.py tiny.toml", "checkpoint/ours/tiny"
TINY = """
idx = "tiny"
seeds = [1, 2]
flags = '''--dataset digits --imb_factor 0.05 --arch tiny_networks:logits --epochs 2 --batch-size 64 --no-cuda --threads 1
  --save_every 0 --stage2_lr 100'''
[ways]
none = { words = "plain", script = "MetaSAug_CE_train.py", flags = "--stage2 none" }
isda = { words = "ISDA", stage1 = "none", flags = "--stage2 isda", choose.lam = [0.5, 20] }
prior = { stage1 = "none", flags = "--stage2 isda --balance prior", chosen_as = "isda" }
"""
CHOICE = ["none_seed1", "isda_seed1_lam0.5", "isda_seed1_lam20"]
FINAL = [f"{way}_seed{seed}" for seed in (1, 2) for way in ("none", "isda", "prior")]


def tiny(folder):
    """A folder with the preset and its network."""
    (folder / "tiny.toml").write_text(TINY)
    shutil.copy(ROOT / "tests" / "support" / "tiny_networks.py", folder)
    return folder


@pytest.fixture(scope="module")
def whole(run_in, tmp_path_factory):
    """A sweep that nothing interrupted: its folder and what it printed."""
    folder = tiny(tmp_path_factory.mktemp("whole"))
    return folder, run_in(SWEEP, cwd=folder).stdout


def summaries(folder):
    """What the runs came to, by folder and name."""
    found = {path.relative_to(folder): json.loads(path.read_bytes()) for path in folder.rglob("*_summary.json")}
    return {name: [summary[key] for key in ("best", "last", "loss")] for name, summary in found.items()}


def table(out):
    return [line for line in out.splitlines() if line.startswith("|")]


def check_trained_once(folder, whole):
    """All trainings are there as uninterrupted ones, each begun and ended once, all but plain ones with its stage 1."""
    assert summaries(folder) == summaries(whole) != {}
    for place, names in ((RUNS, FINAL), (f"{RUNS}_choice", CHOICE)):
        assert not (folder / place / "earlier").exists()
        for name in names:
            log = (folder / place / f"{name}.log").read_text()
            assert log.count("done in") == 1
            assert log.count("stage 1 to epoch 0: taken from") <= (not name.startswith("none"))
            epochs = [line["epoch"] for line in log_of(folder / place, name)]
            assert epochs == ([0, 1] if name.startswith("none") else [1])


def test_a_sweep_trains_and_compares_and_does_nothing_again(whole, run_in):
    folder, out = whole
    assert sorted(re.findall(r"^tiny(?:_choice)?/(\S+): done$", out, re.M)) == sorted(CHOICE + FINAL)
    check_trained_once(folder, folder)
    (lam,) = json.loads((folder / RUNS / "chosen.json").read_bytes())["isda"].values()
    figures = {way: [summary_of(folder / RUNS, f"{way}_seed{seed}") for seed in (1, 2)] for way in ("none", "isda", "prior")}
    assert {run["flags"]["lam"] for way in ("isda", "prior") for run in figures[way]} == {float(lam)}
    assert {run["flags"]["select_on"] for runs in figures.values() for run in runs} == {"test"}
    assert f"chosen on held-out images for ISDA: --lam {lam}" in out
    overall = {way: {run["flags"]["seed"]: run["last"]["acc1"] for run in runs} for way, runs in figures.items()}
    gains = np.array([overall["isda"][seed] - overall["none"][seed] for seed in (1, 2)])
    cells = [[cell.strip() for cell in line.split("|")[1:3]] for line in table(out)]
    for figure in (spread([*overall["isda"].values()]), str(gap_of(gains, "seeds"))):
        assert ["ISDA", figure] in cells

    kept = files_of(folder)
    again = run_in(SWEEP, cwd=folder).stdout
    assert "begins" not in again
    assert table(again) == table(out)
    assert files_of(folder) == kept
    command = re.search(r"python3 \S+/(report.py) (.+)$", again, re.M)
    assert "| plain " in run_in(*command.groups(), cwd=folder).stdout


@pytest.mark.parametrize(("heldout", "lam"), [((1.0, 2.0), "20"), ((3.0, 3.0), "0.5")])
def test_constants_are_chosen_on_held_out_images_and_no_others(whole, run, tmp_path, heldout, lam):
    """The figures of the candidates are changed: those of the test set, in the opposite order, do not count."""
    shutil.copytree(whole[0] / f"{RUNS}_choice", tiny(tmp_path) / f"{RUNS}_choice")
    for name, own, tested in zip(CHOICE[1:], heldout, heldout[::-1], strict=True):
        summary = summary_of(tmp_path / f"{RUNS}_choice", name)
        for which in ("best", "last"):
            summary[which] |= {"heldout_acc1": own, "acc1": tested}
        (tmp_path / f"{RUNS}_choice" / f"{name}_summary.json").write_text(json.dumps(summary))
    out = run("scripts/sweep.py tiny.toml --seeds 1").stdout
    assert json.loads((tmp_path / RUNS / "chosen.json").read_bytes()) == {"isda": {"lam": lam}}
    assert "choice" not in out
    assert {summary_of(tmp_path / RUNS, f"{way}_seed1")["flags"]["lam"] for way in ("isda", "prior")} == {float(lam)}


def test_a_killed_training_ends_the_sweep_and_the_same_command_goes_on(whole, refused, run, tmp_path):
    tiny(tmp_path)
    line = refused(f"{SWEEP} --jobs 2", STOP_AT="10", STOP_BY=str(int(signal.SIGKILL)))
    assert line.startswith("sweep.py: error: tiny_choice/none_seed1 failed: ended by SIGKILL (see checkpoint/ours/")
    assert not list(tmp_path.rglob("none_seed1_summary.json"))
    assert table(run(f"{SWEEP} --jobs 2").stdout) == table(whole[1])
    assert "going on in epoch 1 after step" in (tmp_path / f"{RUNS}_choice" / "none_seed1.log").read_text()
    check_trained_once(tmp_path, whole[0])


def test_a_stopped_sweep_is_shared_by_the_commands_that_follow(whole, start, after_line, tmp_path):
    tiny(tmp_path)
    first = start(f"{SWEEP} --jobs 2")
    after_line(first, 4, "begins")
    first.send_signal(signal.SIGTERM)
    assert first.communicate()[1] == "sweep.py: stopped; give the same command to resume\n"
    assert first.returncode == 128 + signal.SIGTERM
    both = [start(SWEEP) for _ in range(2)]
    outs = [process.communicate()[0] for process in both]
    assert [process.returncode for process in both] == [0, 0]
    assert table(outs[0]) == table(outs[1]) == table(whole[1])
    check_trained_once(tmp_path, whole[0])


def test_what_another_machine_trains_is_waited_for(whole, start, after_line, tmp_path):
    """The lock of a training is held until all the others are done."""
    shutil.copytree(whole[0], tmp_path, dirs_exist_ok=True)
    for name in FINAL[1:]:
        (tmp_path / RUNS / f"{name}_summary.json").unlink()
    with only_run(tmp_path / RUNS / f"{FINAL[2]}_job.lock"):
        sweep = start(SWEEP)
        lines = after_line(sweep, 1, f"^waiting for tiny/{FINAL[2]}, done by process ")
    done = [line.split(":")[0] for line in lines if line.endswith("done\n")]
    assert done == [f"tiny/{name}" for name in FINAL if name not in (FINAL[0], FINAL[2])]
    assert f"tiny/{FINAL[2]}: done\n" in sweep.communicate()[0]
    assert sweep.returncode == 0


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("idx =", "index =", "Object contains unknown field `index`"),
        ("[1, 2]", "[1, -2]", "Expected `int` >= 0 - at `$.seeds[1]`"),
        ("[ways]", "[ways", "tiny.toml is no preset"),
        ('stage1 = "none", flags =', 'stage1 = "nine", flags =', "way isda has stage1 nine, which is no way that"),
        ('chosen_as = "isda"', 'chosen_as = "none"', "way prior is chosen_as none, which is no way that chooses"),
        ('script = "', 'stage1 = "isda", script = "', "has stage1 isda, which is no way that"),
        ("--epochs 2", "--epochs 0", "none: --epochs 0 is not valid: it must be at least 1"),
        ("--epochs 2", "--epochs {long}", "{long} has {long}, which has no value: there are set, way, seed"),
        ("[ways]", "[sets]\na = {}\nb = {}\n[ways]", "idx must contain {set}"),
        ("seeds = [1, 2]", 'seeds = [1, 2]\nsave_name = "{way}"', "tiny/none would be trained twice"),
        ("", "--sets c", "--sets c is not valid"),
        ("", "--save_name=x", "--save-name cannot be given, as the sweep or"),
        ("", "--lam 1", "--lam cannot be given, as the sweep or a way of this preset sets it"),
    ],
)
def test_what_cannot_be_trained_is_said_before_anything_is(refused, tmp_path, old, new, words):
    """A line of the preset is another one, or there are more flags."""
    (tmp_path / "tiny.toml").write_text(TINY.replace(old, new, 1) if old else TINY)
    assert words in refused(f"{SWEEP} {'' if old else new}")
    assert [path.name for path in tmp_path.iterdir()] == ["tiny.toml"]


def test_files_of_another_sweep_are_refused(whole, refused):
    folder, _ = whole
    kept = files_of(folder)
    said = refused(f"{SWEEP} --lr 0.05", cwd=folder)
    assert "summary.json is of a training with other flags: name another --workdir" in said
    chosen = folder / RUNS / "chosen.json"
    chosen.write_text('{"isda": {"lam": "3"}}')
    assert f"{RUNS}/chosen.json has no constants of isda that the preset lists" in refused(SWEEP, cwd=folder)
    chosen.write_bytes(kept[chosen])
    assert files_of(folder) == kept
    assert "there is no preset tiny: name one of ablation, demo, " in refused("scripts/sweep.py tiny")


COUNTS = {"ablation": (21, 0), "demo": (12, 0), "meta_study": (84, 28), "published_ce": (10, 0), "published_ldam": (10, 0),
          "reproduce": (20, 0), "select_lam": (30, 80), "study_short": (66, 0), "docs.toml": (18, 6)}  # fmt: skip


def test_every_preset_lists_its_trainings(tmp_path, monkeypatch):
    assert {path.stem for path in PRESETS.glob("*.toml")} == {*COUNTS, "own"} - {"docs.toml"}
    assert list(read_preset("own").ways) == list(WAYS)
    monkeypatch.chdir(tmp_path)
    page = (ROOT / "docs" / "comparing.md").read_text(encoding="utf-8")
    (tmp_path / "docs.toml").write_text(*re.findall(r"^```toml\n(.*?)^```", page, re.M | re.S))
    for name, counts in COUNTS.items():
        preset = read_preset(name)
        preset.check()
        final = [run for of in preset.sets for run in preset.final(of, {})]
        tried = [run for of in preset.sets for runs in preset.candidates(of).values() for run in runs]
        assert (name, len(final), len(tried)) == (name, *counts)
        assert {run.flags.select_on for run in tried} <= {"heldout"}
        for run in final if name.startswith(("published", "reproduce")) else ():
            loss = run.script.split("_")[1]
            own = f"MetaSAug_{run.flags.dataset}_{loss}_imb{run.flags.imb_factor}"
            wanted = f"{loss}/{own}" if name.startswith("published") else f"reproduce/{own}_seed42"
            assert (run.name, run.flags.epochs, run.flags.lam) == (wanted, 200, 0.75)
