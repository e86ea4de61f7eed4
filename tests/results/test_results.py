"""The tables and figures of results/ are those of the CSVs beside them."""

import math
import re

import pandas as pd
from scipy import stats
from support.places import ROOT

RESULTS = ROOT / "results"
SETS = {"CIFAR-100": "cifar100", "CIFAR-10": "cifar10"}


def table_of(page, heading):
    """The cells of the table whose first heading is given, by row and column."""
    lines = (RESULTS / page).read_text(encoding="utf-8").split(f"\n| {heading} |", 1)[1].split("\n\n")[0].splitlines()
    columns, *rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in [f"| x |{lines[0]}", *lines[2:]]]
    return {row[0]: dict(zip(columns[1:], row[1:], strict=True)) for row in rows}


def spread(values):
    """Mean and standard deviation over the seeds, as the tables write them."""
    if values.isna().any():
        return "-"
    return f"{values.mean():.2f}" + (f"±{values.std():.2f}" if len(values) > 1 else "")


def gap(runs, others, key="acc1"):
    """The mean paired difference over the seeds with half the 95 % interval of Student's t."""
    gaps = (runs.set_index("seed")[key] - others.set_index("seed")[key]).to_numpy()
    half = stats.t.ppf(0.975, len(gaps) - 1) * gaps.std(ddof=1) / math.sqrt(len(gaps))
    return f"{gaps.mean():+.2f}±{half:.2f}"


def study(part, dataset, ratio, loss, row):
    """The runs of a row of the study, one a seed; at the published rate of stage 2 where its name ends so."""
    runs = pd.read_csv(RESULTS / "meta_study.csv")
    name = row.removesuffix("_1")
    found = runs[(runs.part == part) & (runs.dataset == dataset) & (runs.imb_factor == 1 / ratio) & (runs.row == name)]
    found = found if name == "plain" else found[found.loss == loss]
    rates = found.stage2_lr
    return found[rates == (rates.min() if row.endswith("_1") else rates.max())]


NETWORKS = {
    "plain cross-entropy": "plain", "re-weighting, published rate": "reweight_1", "re-weighting": "reweight",
    "ISDA, published rate": "isda_1", "ISDA": "isda", "MetaSAug, published rule and rate": "published",
    "MetaSAug, relative rule": "relative_all", "MetaSAug, relative rule, virtual step of the head": "relative_head",
    "re-weighting, meta images trained on": "meta_train", "re-weighting, meta batch's loss added": "meta_loss",
    "log prior in place of the weights": "prior",
}  # fmt: skip
HEADS = {
    "plain cross-entropy": "plain", "plain, log prior subtracted when testing": "plain_subtracted",
    "log prior in stage 2": "prior", "log prior from the start": "prior_throughout", "re-weighting": "reweight",
    "ISDA": "isda", "MetaSAug, published rule": "published", "MetaSAug, relative rule": "relative",
    "MetaSAug, relative rule, log prior for the weights": "relative_prior",
}  # fmt: skip
ALONE = ("plain", "published", "relative_prior")  # rows that were not run with the meta images trained on
JOINED = {f"{words}, joined": f"joined_{row}" for words, row in HEADS.items() if row not in ALONE}


def test_the_networks_of_the_study_are_those_of_their_runs():
    table = table_of("meta_study.md", "networks, stage 2")
    assert list(table) == list(NETWORKS)
    for words, row in NETWORKS.items():
        for title, dataset in SETS.items():
            runs, isda = (study("cifar", dataset, 100, "LDAM", name) for name in (row, "isda"))
            assert table[words][title] == spread(runs.acc1)
            assert table[words][f"{title} ECE"] == spread(runs.ece)
            assert table[words][f"{title} − ISDA"] == ("" if row == "isda" else gap(runs, isda))
        assert table[words]["CIFAR-100 few"] == spread(study("cifar", "cifar100", 100, "LDAM", row).few)


def test_the_heads_of_the_study_are_those_of_their_runs():
    table = table_of("meta_study.md", "heads, stage 2")
    assert table.keys() == HEADS.keys() | JOINED.keys()
    for words, row in {**HEADS, **JOINED}.items():
        cells = [(title, ratio) for title in SETS for ratio in (100, 10)]
        own = {(title, ratio): study("features", SETS[title], ratio, "CE", row) for title, ratio in cells}
        assert [table[words][f"{title} at {ratio}"] for title, ratio in own] == [spread(runs.acc1) for runs in own.values()]
        reference = "joined_isda" if row.startswith("joined") else "isda"
        isda = study("features", "cifar100", 100, "CE", reference)
        assert table[words]["− ISDA, CIFAR-100 at 100"] == ("" if row == reference else gap(own["CIFAR-100", 100], isda))


def test_gaps_that_the_reading_names_are_those_of_the_runs():
    text = (RESULTS / "meta_study.md").read_text(encoding="utf-8")
    named = """
        cifar cifar100 100 LDAM relative_head reweight
        cifar cifar10 100 LDAM relative_head reweight
        cifar cifar100 100 LDAM meta_loss reweight
        cifar cifar100 100 LDAM reweight reweight_1
        features cifar10 100 CE relative isda
        features cifar100 10 CE relative isda
    """
    for line in named.strip().splitlines():
        part, dataset, ratio, loss, *rows = line.split()
        assert gap(*(study(part, dataset, int(ratio), loss, row) for row in rows)) in text, line


def test_each_choice_of_the_study_is_the_best_of_its_candidates_on_held_out_images():
    candidates = pd.read_csv(RESULTS / "meta_study_choices.csv")
    best = candidates.groupby(["part", "dataset", "imb_factor", "row"]).heldout_acc1.idxmax()
    assert sorted(best) == list(candidates.index[candidates.chosen == "yes"])


def short(dataset, title):
    """The runs of a row of the short study, whose title names loss, stage 2, λ and meta rate where they are unusual."""
    runs = pd.read_csv(RESULTS / "ablation_short.csv")
    loss, stage2 = re.match(r"(?:(CE|LDAM), )?(none|reweight|isda|metasaug)", title).groups()
    lam, rate, start = (re.search(rf"{word} ([\d.e]+)", title) for word in ("λ", "meta_lr", "from epoch"))
    runs = runs[(runs.which == "last") & (runs.dataset == f"folder {dataset}") & (runs.seed <= 3)]
    found = runs[runs.stage2 == stage2]
    found = found if loss is None else found[found.loss == loss]
    found = found if stage2 not in ("isda", "metasaug") else found[found.lam == float(lam[1] if lam else 0.75)]
    found = found if stage2 != "metasaug" else found[found.meta_lr == float(rate[1] if rate else 0.1)]
    return found[found.meta_start == int(start[1] if start else 24)].sort_values("seed")


def test_the_short_tables_are_those_of_their_runs():
    tables = {title: table_of("ablation_short.md", f"{title}-LT, stage 2") for title in SETS}
    for title, words in ((title, words) for title, table in tables.items() for words in table):
        runs, cells = short(SETS[title], words), tables[title][words]
        assert list(runs.seed) == [1, 2, 3]
        assert cells == {column: spread(runs[{"overall": "acc1"}.get(column, column.lower())]) for column in cells}, words
    assert [*map(len, tables.values())] == [11, 11]


def test_the_full_length_runs_on_a_gpu_are_those_of_their_epochs():
    epochs = pd.read_csv(RESULTS / "full_length_gpu.csv")
    table = table_of("full_length.md", "ratio, loss, stage 2")
    runs = epochs[epochs.stage == 2].groupby(["imb_factor", "loss", "stage2"])
    assert len(table) == len(runs) == 11
    for (factor, loss, stage2), run in runs:
        row, best, last = table[f"{round(1 / factor)}, {loss}, {stage2}"], run.loc[run.test_acc1.idxmax()], run.iloc[-1]
        assert row["best epoch"] == f"{100 - best.test_acc1:.2f} ({best.epoch})"
        assert row["last epoch"] == f"{100 - last.test_acc1:.2f} ({last.epoch})"
        assert row["many, medium, few"] == ", ".join(f"{last[group]:.2f}" for group in ("many", "medium", "few"))
        assert row["ECE"] == f"{last.ece:.2f}"


def test_the_table_of_ways_to_make_a_head_is_that_of_its_draws():
    """The line of scikit-learn is the best one on the test images; what is recommended differs from draw to draw."""
    draws = pd.read_csv(RESULTS / "own_data.csv")
    table = table_of("../docs/own_data.md", "data set")
    table = {words.rstrip(" ¹²"): [*cells.values()] for words, cells in table.items()}
    assert list(table) == list(dict.fromkeys(draws.set))
    for name, own in draws.groupby("set"):
        lines = own.filter(like="sklearn").dropna(axis=1)
        taken = own.apply(lambda draw: draw[draw.recommended], axis=1)
        figures = [lines[lines.mean().idxmax()], own.logistic, taken, own.isda, own.metasaug]
        half = [stats.t.ppf(0.975, len(own) - 1) * one.std() / math.sqrt(len(own)) for one in figures]
        wanted = [f"{one.mean():.1f}±{width:.1f}" for one, width in zip(figures, half, strict=True)]
        wanted = ["not run" if own_figure == "nan±nan" else own_figure for own_figure in wanted]
        assert table[name] == [f"{round(own.images.mean()):,}", str(own.classes.iloc[0]), *wanted], name
