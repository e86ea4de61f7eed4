"""Finished runs: which belong together, how groups are named, what is compared with the publication, what is no run."""

import csv
import statistics

import pytest
from support.finished_runs import write_run
from support.places import ROOT
from support.refusals import wrong

from harness.flags import UNSAID
from reporting.finished_runs import PUBLISHED, grouped, long_tails, published_tables, read_runs


@pytest.fixture
def folder(tmp_path):
    for seed, accuracy in ((1, 80.0), (2, 82.0), (3, 81.5)):
        write_run(tmp_path / "runs" / "a", f"metasaug_{seed}", seed, accuracy=accuracy)
        write_run(tmp_path / "runs" / "b", f"plain_{seed}", seed, "CE", 70 + seed, log=seed == 1, stage2="none", lam=0.25)
    write_run(tmp_path / "runs" / "a" / "earlier" / "1", "metasaug_1", accuracy=1.0)
    return tmp_path / "runs"


def members(runs):
    """The names of the runs of each group."""
    return {name: [run.name for run in group] for name, group in grouped(runs).items()}


def test_the_published_tables_take_full_length_runs_only(folder):
    tables = published_tables(read_runs([folder]))
    own = tables["LDAM, CIFAR-10-LT"]
    assert [row[0] for row in own] == ["imbalance ratio", "published error", "ours", "difference"]
    mean, std = statistics.mean([20, 18, 18.5]), statistics.stdev([20, 18, 18.5])
    column = [row[own[0].index("100")] for row in own]
    assert column[1:] == ["19.34", f"{mean:.2f} ± {std:.2f}", f"{mean - 19.34:+.2f}"]
    for title, table in tables.items():
        assert len([cell for cell in table[2][1:] if cell]) == (title == "LDAM, CIFAR-10-LT")
    changes = {
        "epochs": 199, "arch": "resnet20", "stage2": "isda", "imb_factor": 0.03, "batch_size": 64, "lr": 1.0,
        "weight_decay": 0.0, "nesterov": False, "num_meta": 5, "meta_lr": 1.0, "stage2_lr": 3.0, "meta_update": "relative",
        "virtual": "head", "meta_images": "train", "balance": "prior",
    }  # fmt: skip
    for change in changes.items():
        write_run(folder / "c", "other", accuracy=50.0, **dict([change]))
        others = published_tables(read_runs([folder / "c"]))
        assert not any("".join(table[2][1:]) for table in others.values()), change


def test_figures_at_several_lam_are_not_averaged(tmp_path):
    for seed, accuracy in ((1, 80.0), (2, 82.0)):
        write_run(tmp_path, f"a{seed}", seed, accuracy=accuracy)
        write_run(tmp_path, f"b{seed}", seed, accuracy=accuracy - 10, lam=0.25)
    table = published_tables(read_runs([tmp_path]))["LDAM, CIFAR-10-LT"]
    column = table[0].index("100")
    assert [row[column] for row in table[2:]] == ["lam 0.75: 19.00 ± 1.41; lam 0.25: 29.00 ± 1.41", "-0.34; +9.66"]


def test_a_seed_counts_once(folder, tmp_path, monkeypatch):
    write_run(folder / "c", "metasaug_again", 1, accuracy=10.0)
    assert sorted(map(len, members(read_runs([folder / "a", folder / "c"])).values())) == [1, 3]
    monkeypatch.chdir(tmp_path)
    assert len(read_runs([folder.relative_to(tmp_path), folder])) == len(read_runs([folder])) > 0


def test_other_images_and_other_classes_are_other_groups(tmp_path):
    """Own image sets whose folders have the same last name: of three classes, of four, and others of the same sizes."""
    own = {"dataset": "folder", "imb_factor": None, "data_root": "/a/images", "log": False}
    write_run(tmp_path, "a1", 1, data="00000001", **own)
    write_run(tmp_path, "a2", 2, data="00000001", **own)
    write_run(tmp_path, "b1", 3, data="00000002", **own)
    write_run(tmp_path, "c1", 4, counts=(300, 50, 40, 6), **own)
    runs = read_runs([tmp_path])
    assert sorted(members(runs).values()) == [["a1", "a2"], ["b1"], ["c1"]]
    tails = {title: [run.name for run in own] for title, own in long_tails(runs).items()}
    assert tails == {"folder images, 3 classes (a1)": ["a1", "a2", "b1"], "folder images, 4 classes (c1)": ["c1"]}


def test_groups_are_named_by_what_tells_them_apart(tmp_path):
    write_run(tmp_path / "old", "old", seed=1)  # from before there were some flags: as with their defaults
    write_run(tmp_path / "old", "new", seed=2, **UNSAID)
    write_run(tmp_path / "old", "held", seed=3, **{**UNSAID, "select_on": "heldout"})
    found = {name: sorted(runs) for name, runs in members(read_runs([tmp_path / "old"])).items()}
    assert found == {"select_on heldout": ["held"], "select_on test": ["new", "old"]}
    for name, flags in {"a": {}, "b": {"lam": 0.5}, "c": {"lam": 0.5, "seed": 2}, "d": {"stage2": "reweight"},
                        "e": {"stage2": "reweight", "lam": 0.1, "seed": 2}}.items():  # fmt: skip
        write_run(tmp_path / "five", name, **{"seed": 1, **flags})
    found = members(read_runs([tmp_path / "five"]))
    assert found == {"metasaug lam 0.75": ["a"], "metasaug lam 0.5": ["b", "c"], "reweight": ["d", "e"]}
    for seed, number in ((1, 0.2), (2, 0.5)):  # of a step size that the rule, or the method, does not have
        write_run(tmp_path / "rules", f"p{seed}", seed, meta_step_size=number)
        write_run(tmp_path / "rules", f"r{seed}", seed, meta_update="relative", meta_lr=number)
        write_run(tmp_path / "rules", f"i{seed}", seed, stage2="isda", meta_update="relative", meta_step_size=number)
    found = {name: sorted(runs) for name, runs in members(read_runs([tmp_path / "rules"])).items()}
    metasaug = {f"metasaug meta_update {name}": [f"{name[0]}1", f"{name[0]}2"] for name in ("published", "relative")}
    assert found == {"isda": ["i1", "i2"], **metasaug}
    for k in (1, 2):
        write_run(tmp_path / f"own{k}", "same", dataset="folder", data_root=f"/somewhere/images{k}")
    found = read_runs([tmp_path / "own1", tmp_path / "own2"])
    assert list(grouped(found)) == [run.name for run in found] == ["own1/same", "own2/same"]
    write_run(tmp_path / "own1", "again", seed=2, dataset="folder", data_root="/somewhere/images1")
    found = read_runs([tmp_path / "own1", tmp_path / "own2"])
    assert list(grouped(found)) == ["folder images1", "folder images2"]
    assert list(grouped(read_runs([tmp_path / "own1"]))) == ["all"]


def test_the_published_errors_are_those_of_the_readme():
    readme = (ROOT / "README.md").read_text()
    cells = list(csv.DictReader(PUBLISHED.read_text(encoding="utf-8").splitlines()))
    assert len(cells) == 20
    for loss in ("LDAM", "CE"):
        for dataset, title in (("cifar10", "CIFAR-10-LT"), ("cifar100", "CIFAR-100-LT")):
            own = [cell["error"] for cell in cells if (cell["loss"], cell["dataset"]) == (loss, dataset)]
            assert f"| {loss} | {title} | {' | '.join(own)} |" in readme


@pytest.mark.parametrize(
    ("name", "content"),
    [("x_summary.json", "[]"), ("x_summary.json", "{"), ("nowhere", None),
     ("x_summary.json", '{"best": 1, "last": 2, "cls_num_list": [1]}'),
     ("x_summary.json", '{"best": {"epoch": 1, "acc1": 1}, "last": {"epoch": 1, "acc1": "x"}, "cls_num_list": [1]}')],
)  # fmt: skip
def test_files_that_are_no_runs_are_named(tmp_path, name, content):
    if content is not None:
        (tmp_path / name).write_text(content)
    assert name in wrong(read_runs, [tmp_path / name])
