"""Which runs belong together, and what their groups and long-tailed sets are called."""

import pytest
from support.finished_runs import write_run

from harness.flags import UNSAID
from reporting.finished_runs import find_runs
from reporting.groups import grouped, long_tails

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
    "many flags": (
        {"x1": {"stage2": "isda"}, "x2": {"stage2": "isda", "seed": 2}, "rel": LONG},
        {"ISDA lam 0.75 lr 0.1": ["x1", "x2"], "MetaSAug lam 8.0 lr 0.003": ["rel"]}),
    "no two belong together": ({"a": {}, "b": {"lam": 0.5}}, {"a": ["a"], "b": ["b"]}),
    "a seed twice": ({"a1": {}, "a2": {"seed": 2}, "again": {"seed": 2}}, {"all": ["a1", "a2"], "all (2)": ["again"]}),
    "other images": (
        {"a1": {**OWN, "data": "01"}, "a2": {**OWN, "data": "01", "seed": 2}, "b1": {**OWN, "data": "02", "seed": 3}},
        {"all": ["a1", "a2"], "all (2)": ["b1"]}),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_groups_are_named_by_what_tells_them_apart(tmp_path, case):
    runs, wanted = CASES[case]
    for name, flags in runs.items():
        write_run(tmp_path, name, **{"seed": 1, **flags})
    found = grouped(find_runs([tmp_path]).runs)
    assert {name: sorted(run.name for run in group) for name, group in found.items()} == wanted


def test_runs_are_compared_on_one_long_tailed_set_only(tmp_path):
    names = {"a": ("cat", "dog", "owl"), "b": ("bus", "car", "van")}
    for name, classes in names.items():
        write_run(tmp_path, name, class_names=[*classes], **OWN)
    write_run(tmp_path, "c", **OWN | {"features": "/y/fish.npz", "dataset": "own"})
    write_run(tmp_path, "d")
    write_run(tmp_path, "e", imb_factor=0.02, dataset="cifar100")
    assert {title: [*groups] for title, groups in long_tails(find_runs([tmp_path]).runs).items()} == {
        "images, 3 classes (a)": ["a"], "images, 3 classes (b)": ["b"], "fish.npz": ["c"],
        "CIFAR-10-LT, imbalance ratio 100": ["d"], "CIFAR-100-LT, imbalance ratio 50": ["e"],
    }  # fmt: skip
