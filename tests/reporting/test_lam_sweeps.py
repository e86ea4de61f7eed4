"""λ chosen by held-out accuracy: over the seeds that all have, cell by cell, and never by the test set."""

import csv

from support.finished_runs import write_run

from reporting.finished_runs import read_runs
from reporting.lam_sweeps import find_sweeps, write_choices


def held_out(folder, name, accuracy, seed=0, **flags):
    """Write a run of a sweep, whose accuracy on the test set would choose the other way round."""
    write_run(folder, name, seed, accuracy=95 - accuracy, heldout=accuracy, **flags)


def choices(path):
    rows = csv.DictReader(path.read_text().splitlines())
    return [[row[key] for key in ("dataset", "loss", "imb_factor", "lam")] for row in rows]


def test_lam_is_chosen_by_held_out_accuracy_over_seeds_cell_by_cell(run, tmp_path):
    """Where the test set would choose another, and where one seed would."""
    table = {  # data set, λ: held-out accuracy of two seeds
        ("cifar10", 0.25): (50.0, 52.0), ("cifar10", 0.5): (51.9, 51.9), ("cifar10", 1.0): (40.0, 53.0),
        ("cifar100", 0.25): (20.0, 21.0), ("cifar100", 0.5): (20.0, 21.0), ("digits", 0.5): (90.0, 91.0),
    }  # fmt: skip
    for (dataset, lam), accuracies in table.items():
        for seed, accuracy in enumerate(accuracies):
            held_out(tmp_path / "runs", f"{dataset}_{lam}_{seed}", accuracy, seed, dataset=dataset, lam=lam, log=False)
    out = run("report.py", "runs", "--out", "out").stdout
    chosen = [[cell.strip() for cell in line.split("|")[1:4]] for line in out.splitlines() if "| chosen |" in line]
    # cifar100 comes before cifar10, as the files' names go
    assert [row[:2] for row in chosen] == [["0.25", "2"], ["0.5", "2"]]
    assert "51.90 ± 0.00" in chosen[1][2]
    wanted = [["cifar100", "LDAM", "0.01", "0.25"], ["cifar10", "LDAM", "0.01", "0.5"]]
    assert choices(tmp_path / "out" / "chosen_lam.csv") == wanted
    page = (tmp_path / "out" / "report.html").read_text()
    assert "λ chosen without the test set" in page
    assert "Against the publication" not in page  # trained on fewer images than the published ones


def test_lam_is_compared_on_the_seeds_that_all_have(tmp_path):
    path, before = tmp_path / "chosen_lam.csv", tmp_path / "chosen_lam.csv.previous"

    def choose(accuracy, seed):
        held_out(tmp_path / "runs", "high_1", accuracy, seed, lam=0.1234567)
        return write_choices(find_sweeps(read_runs([tmp_path / "runs"])), path)

    for seed, accuracy in ((1, 60.0), (2, 50.0), (3, 40.0)):
        held_out(tmp_path / "runs", f"low_{seed}", accuracy, seed, lam=0.25)
    assert choose(55.0, 1) == []
    assert choices(path) == [["cifar10", "LDAM", "0.01", "0.25"]]
    assert "held-out training images (60.00 %; seeds: 1)" in path.read_text()
    assert choose(65.0, 1) == []
    assert choices(path) == [["cifar10", "LDAM", "0.01", "0.1234567"]]
    assert "these runs choose no λ" in choose(55.0, 4)[0]  # no seed in common
    assert not path.exists()
    assert "0.1234567" in before.read_text()  # the choice of before is not lost
    assert choose(55.0, 4) == []
    assert "0.1234567" in before.read_text()


def test_sweeps_of_two_networks_make_no_choice_for_the_cell(tmp_path):
    for arch in ("resnet20", "resnet32"):
        for lam in (0.25, 0.5):
            held_out(tmp_path / "runs", f"{arch}_{lam}", 50 + lam, arch=arch, lam=lam)
    sweeps = find_sweeps(read_runs([tmp_path / "runs"]))
    assert [sweep.title for sweep in sweeps] == [
        f"LDAM, cifar10, imb_factor 0.01, metasaug, {arch}, 200 epochs" for arch in ("resnet20", "resnet32")
    ]
    (note,) = write_choices(sweeps, tmp_path / "chosen_lam.csv")
    assert note.startswith("note: several sweeps of cifar10 LDAM 0.01: not in ")
    assert not (tmp_path / "chosen_lam.csv").exists()
