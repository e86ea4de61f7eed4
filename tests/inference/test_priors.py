"""Probabilities for other class frequencies: predict.py --prior, against Bayes' rule in float64."""

import re
from pathlib import Path

import numpy as np
import pytest
import torch
from support.classifiers import COUNTS, FILES, NAMES
from support.refusals import wrong

from inference.priors import prior_shift

FILE = [0.2, 0.0, 0.6]  # not yet of sum 1
EVEN = [1, 1, 1]
PLAIN, BALANCED = "as frequent as in training", "equally frequent"


def shares(folder, text, encoding="utf-8"):
    (folder / "shares.csv").write_bytes(text.encode(encoding))
    return str(folder / "shares.csv")


@pytest.mark.parametrize(
    ("more", "own", "taken"),
    [
        ({"flags": {"stage2": "none", "meta_start": 5}}, COUNTS, PLAIN),
        ({"flags": {"stage2": "metasaug", "meta_start": 20}}, COUNTS, PLAIN),  # it ended in stage 1
        ({"flags": {"stage2": "reweight", "meta_start": 5, "balance": "none"}}, COUNTS, PLAIN),
        ({"flags": {"stage2": "none", "meta_start": 5}, "stage2_counts": [100, 19, 11]}, [100, 19, 11], PLAIN),  # joined
        ({"flags": {"stage2": "metasaug", "meta_start": 5}}, EVEN, BALANCED),
        ({}, EVEN, BALANCED),  # a released one says nothing
    ],
)
def test_probabilities_follow_the_frequencies(tmp_path, more, own, taken):
    state = {"cls_num_list": COUNTS, "epoch": 9, **more}
    file = shares(tmp_path, "class,share\n" + "".join(f'"{n}",{s}\n' for n, s in zip(NAMES[::-1], FILE[::-1], strict=True)))
    logits = np.random.default_rng(0).normal(0, 2, (20, 3))
    for prior, wanted, words in (
        ("train", more.get("stage2_counts", COUNTS), "as frequent as in training"),
        ("uniform", EVEN, "equally frequent"),
        (file, FILE, f"as frequent as {file} says"),
    ):
        shift, line = prior_shift(prior, NAMES, state, Path("x"))
        found = torch.from_numpy(logits).add(shift).softmax(1)
        weighed = torch.from_numpy(logits).softmax(1) * torch.tensor(wanted) / torch.tensor(own)
        torch.testing.assert_close(found, weighed / weighed.sum(1, keepdim=True), atol=1e-6, rtol=0, check_dtype=False)
        assert line == f"probabilities assume classes {words}; without --prior this network assumes them {taken}"


def test_the_command_adds_what_a_prior_says(run_in, folder):
    command = f"predict.py --checkpoint_path small.pth.tar --no-cuda --top 3 '{FILES[0]}'"
    plain, shifted = (run_in(f"{command} {more}", cwd=folder) for more in ("", "--prior train"))
    before, after = (dict(re.findall(r"\t([^\t]+) ([\d.]+)", said.stdout)) for said in (plain, shifted))
    weighed = [float(before[name]) * count for name, count in zip(NAMES, COUNTS, strict=True)]
    found = [float(after[name]) for name in NAMES]
    assert found == pytest.approx([100 * each / sum(weighed) for each in weighed], abs=0.5)
    assert shifted.stderr.startswith("note: probabilities assume classes as frequent as in training; without")


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ('Häher,1\nowl,2\nHäher,1\n"two, words",1', "has a class twice"),
        *((f"Häher,1\nowl,{x}", "owl needs a line with a number of 0 or more") for x in (-2, "inf", "nan")),
        ("Häher:0,75\nbee,2", "bee is no class of the network"),  # the first line may be a heading
        ("class;share\nHäher;75\nowl;2", "cannot be read as a table (not enough values"),
        ('Häher,1\nowl,"0,2"', "cannot be read as a table (could not convert"),
        ('Häher,0\nowl,0\n"two, words",0', "no number above 0"),
        ("class,share", "Häher needs a line with a number of 0 or more"),
    ],
)
def test_tables_that_make_no_sense(tmp_path, text, told):
    said = wrong(prior_shift, shares(tmp_path, text), NAMES, {}, Path("x"))
    assert said.startswith(f"--prior {tmp_path}/shares.csv")
    assert told in said
    assert said.endswith("name (quoted if it contains a comma), comma, number")


def test_what_else_a_prior_needs(tmp_path):
    for prior, told in (
        ("train", "--prior needs the training images of each class"),
        ("gone.csv", "gone.csv cannot be read"),
        (shares(tmp_path, "Häher,1", "latin-1"), "write a UTF-8 CSV"),
    ):
        assert told in wrong(prior_shift, prior, NAMES, {}, Path("x"))


def test_the_largest_numbers_byte_order_marks_and_empty_rows(tmp_path):
    numbers = shares(tmp_path, "9,75\n10,75\n2;3,75")
    assert prior_shift(numbers, ["9", "10", "2;3"], {}, Path("x"))[0].tolist() == [0, 0, 0]  # names as they are
    file = shares(tmp_path, '\ufeffHäher,1e308\r\nowl,1e308\r\n"two, words",1e308\r\n,\r\n\r\n')
    torch.testing.assert_close(prior_shift(file, NAMES, {}, Path("x"))[0], torch.zeros(3))
