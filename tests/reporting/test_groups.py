"""Which runs belong together, and what their groups and long-tailed sets are called."""

import pytest
from support.finished_runs import write_run

from harness.flags import UNSAID
from reporting.finished_runs import read_runs
from reporting.groups import grouped, long_tails, stem

LONG = {"stage2": "metasaug", "meta_update": "relative", "lr": 0.003, "lam": 8.0}  # many flags that differ
OWN = {"dataset": "folder", "imb_factor": None, "data_root": "/a/images", "log": False}
CASES = {  # flags of runs by save name, and the names of their groups
    "flags that differ": (
        {"a": {}, "b": {"lam": 0.5}, "c": {"lam": 0.5, "seed": 2}, "d": {"stage2": "reweight"},
         "e": {"stage2": "reweight", "lam": 0.1, "seed": 2}, "f": {"stage2": "none", "loss": "CE", "lam": 0.3}},
        {"MetaSAug lam 0.75": ["a"], "MetaSAug lam 0.5": ["b", "c"], "re-weighting": ["d", "e"],
         "plain cross-entropy": ["f"]}),
    "flags of before, which were as their defaults": (
        {"old": {}, "new": {**UNSAID, "seed": 2}, "held": {**UNSAID, "select_on": "heldout", "seed": 3}},
        {"select_on heldout": ["held"], "select_on test": ["new", "old"]}),
    "a step size that the rule does not have": (
        {"p1": {"meta_step_size": 0.2}, "p2": {"meta_step_size": 0.5, "seed": 2}, "i": {"stage2": "isda", "meta_lr": 3.0}},
        {"MetaSAug": ["p1", "p2"], "ISDA": ["i"]}),
    "save names where flags would be long": (
        {"isda_seed1": {"stage2": "isda"}, "isda_seed2": {"stage2": "isda", "seed": 2}, "rel_seed1": LONG,
         "rel_seed2": {**LONG, "seed": 2}},
        {"isda": ["isda_seed1", "isda_seed2"], "rel": ["rel_seed1", "rel_seed2"]}),
    "save names that tell nothing": (
        {"x1": {"stage2": "isda"}, "x2": {"stage2": "isda", "seed": 2}, "x_seed1": LONG, "x_s2": {**LONG, "seed": 2}},
        {"ISDA lam 0.75 lr 0.1": ["x1", "x2"], "MetaSAug lam 8.0 lr 0.003": ["x_s2", "x_seed1"]}),
    "no two belong together": ({"a": {}, "b": {"lam": 0.5}}, {"a": ["a"], "b": ["b"]}),
    "a seed twice": ({"a1": {}, "a2": {"seed": 2}, "again": {"seed": 2}}, {"all": ["a1", "a2"], "all (again)": ["again"]}),
    "other images": (
        {"a1": {**OWN, "data": "01"}, "a2": {**OWN, "data": "01", "seed": 2}, "b1": {**OWN, "data": "02", "seed": 3}},
        {"all": ["a1", "a2"], "all (b1)": ["b1"]}),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_groups_are_named_by_what_tells_them_apart(tmp_path, case):
    runs, wanted = CASES[case]
    for name, flags in runs.items():
        write_run(tmp_path, name, **{"seed": 1, **flags})
    found = grouped(read_runs([tmp_path]))
    assert {name: sorted(run.name for run in group) for name, group in found.items()} == wanted


@pytest.mark.parametrize(
    ("name", "seed", "expected"),
    [("isda_seed3", 3, "isda"), ("isda_3", 3, "isda"), ("isda3", 3, "isda"), ("isda-s3", 3, "isda"),
     ("seed3_isda", 3, "isda"), ("x1_seed1", 1, "x1"), ("lam0.1", 1, "lam0.1"), ("lam0.1_seed1", 1, "lam0.1"),
     ("a13", 3, "a13"), ("a31", 3, "a31"), ("plus1", 1, "plus"), ("isda", 3, "isda")],
)  # fmt: skip
def test_a_stem_is_the_name_without_the_seed(tmp_path, name, seed, expected):
    write_run(tmp_path, name, seed)
    assert stem(*read_runs([tmp_path])) == expected


def test_runs_are_compared_on_one_long_tailed_set_only(tmp_path):
    names = {"a": ("cat", "dog", "owl"), "b": ("bus", "car", "van")}
    for name, classes in names.items():
        write_run(tmp_path, name, class_names=[*classes], **OWN)
    write_run(tmp_path, "c", **OWN | {"features": "/y/fish.npz", "dataset": "own"})
    write_run(tmp_path, "d")
    write_run(tmp_path, "e", imb_factor=0.02, dataset="cifar100")
    assert {title: [*groups] for title, groups in long_tails(read_runs([tmp_path])).items()} == {
        "images, 3 classes (a)": ["a"], "images, 3 classes (b)": ["b"], "fish.npz": ["c"],
        "CIFAR-10-LT, imbalance ratio 100": ["d"], "CIFAR-100-LT, imbalance ratio 50": ["e"],
    }  # fmt: skip
