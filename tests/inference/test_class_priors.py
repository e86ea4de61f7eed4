"""Probabilities for other class frequencies: predict.py --prior, against Bayes' rule in float64."""

import csv

import numpy as np
import pytest
import torch
from PIL import Image

from resnet import make_model

NAMES = ["ant", "bee, or wasp", "Käfer"]
COUNTS = [90, 9, 1]
FILE = [0.2, 0.0, 0.6]  # not yet of sum 1


@pytest.fixture
def checkpoint(tmp_path):
    """Write a network whose training had these flags; return the file."""

    def call(**more):
        torch.manual_seed(0)
        state = {"state_dict": make_model("resnet8", 3).state_dict(), "arch": "resnet8", "class_names": NAMES}
        torch.save({**state, "cls_num_list": COUNTS, "epoch": 9, **more}, tmp_path / "a_last.pth.tar")
        return tmp_path / "a_last.pth.tar"

    return call


@pytest.fixture
def predicted(run, tmp_path):
    """The probabilities (N, 3) of four random images, in the order of the classes, and what is said."""
    generator = np.random.default_rng(0)
    for k in range(4):
        pixels = generator.integers(0, 256, (2, 2, 3), dtype=np.uint8)
        Image.fromarray(pixels).resize((32, 32)).save(tmp_path / f"{k}.png")

    def call(checkpoint, *flags):
        words = ["--checkpoint_path", checkpoint, "--no-cuda", "--out", "found.csv", *flags]
        result = run("predict.py", *words, *(f"{k}.png" for k in range(4)))
        with open(tmp_path / "found.csv", newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
        found = [{row[f"class {k}"]: float(row[f"probability {k}"]) for k in (1, 2, 3)} for row in rows]
        return np.array([[row[name] for name in NAMES] for row in found]), result.stderr

    return call


def bayes(probabilities, wanted, own):
    weighed = probabilities * np.array(wanted) / np.array(own)
    return weighed / weighed.sum(axis=1, keepdims=True)


PLAIN, BALANCED = "classes as frequent as in training", "equally frequent ones"


@pytest.mark.parametrize(
    ("more", "own", "taken"),
    [
        ({"flags": {"stage2": "none", "meta_start": 5}}, COUNTS, PLAIN),
        ({"flags": {"stage2": "metasaug", "meta_start": 20}}, COUNTS, PLAIN),  # it ended in stage 1
        ({"flags": {"stage2": "reweight", "meta_start": 5, "balance": "none"}}, COUNTS, PLAIN),
        ({"flags": {"stage2": "metasaug", "meta_start": 5}}, [1, 1, 1], BALANCED),
        ({"flags": {"stage2": "isda", "meta_start": 5, "balance": "prior"}}, [1, 1, 1], BALANCED),
        ({}, [1, 1, 1], BALANCED),  # a released one says nothing
    ],
)
def test_probabilities_follow_the_frequencies(checkpoint, predicted, tmp_path, more, own, taken):
    path = checkpoint(**more)
    lines = ["class,share", *(f'"{name}",{share}' for name, share in zip(NAMES, FILE, strict=True))][::-1]
    (tmp_path / "shares.csv").write_text("\n".join([lines[-1], *lines[:-1]]) + "\n", encoding="utf-8")
    plain, said = predicted(path)
    assert said == ""
    for prior, wanted, words in (
        ("train", COUNTS, "as frequent as in training"),
        ("uniform", [1, 1, 1], "equally frequent"),
        ("shares.csv", FILE, "as frequent as shares.csv says"),
    ):
        found, said = predicted(path, "--prior", prior)
        np.testing.assert_allclose(found, bayes(plain, wanted, own), atol=1e-6)
        theirs = f"those of the network are taken to be for {taken}"
        assert said == f"note: probabilities are for classes that are {words}; {theirs}\n"
        if wanted != own:
            assert np.abs(found - plain).max() > 0.01  # the control


def test_counts_of_joined_meta_images_are_those_trained_on(checkpoint, predicted):
    path = checkpoint(flags={"stage2": "none", "meta_start": 5}, stage2_counts=[100, 19, 11])
    plain = predicted(path)[0]
    np.testing.assert_allclose(predicted(path, "--prior", "uniform")[0], bayes(plain, [1, 1, 1], [100, 19, 11]), atol=1e-6)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("ant,1\nant,2", "line 2: ant is there twice"),
        ("ant,1\nbee,2", "line 2: bee is no class of the network"),
        ("ant,1\nKäfer,-2", "line 2: it must be a class (in quotes if it has a comma), a comma and a number"),
        ("ant,1\nKäfer", "line 2: it must be a class (in quotes if it has a comma), a comma and a number"),
        ("ant,inf", "line 1: it must be a class (in quotes if it has a comma), a comma and a number"),
        ("class,share\nant,1\nKäfer,1", "has no line for bee, or wasp: each of the 3 classes needs one"),
        ('ant,0\n"bee, or wasp",0\nKäfer,0', "one class at least needs a number above 0"),
        ("", "has no line for ant"),
        ("\n\nant,1\n\nbee,2", "line 5: bee is no class of the network"),
        ("bee, or wasp,1\nant,1", "line 1: it must be a class (in quotes if it has a comma), a comma and a number"),
        ("ant,x", "line 1: it must be a class (in quotes if it has a comma), a comma and a number"),
        ("ant,1_0", "line 1: it must be a class (in quotes if it has a comma), a comma and a number"),
    ],
)
def test_tables_that_make_no_sense(refused, checkpoint, tmp_path, text, told):
    (tmp_path / "shares.csv").write_text(text, encoding="utf-8")
    Image.new("RGB", (32, 32)).save(tmp_path / "a.png")
    line = refused("predict.py", "--checkpoint_path", checkpoint(), "--prior", "shares.csv", "a.png")
    assert f"--prior shares.csv{'' if told.startswith('has') else ',' if told.startswith('line') else ':'} {told}" in line


def test_what_a_prior_needs(refused, checkpoint, tmp_path):
    Image.new("RGB", (32, 32)).save(tmp_path / "a.png")
    path = checkpoint()
    state = torch.load(path, weights_only=True)
    del state["cls_num_list"]
    torch.save(state, path)
    flags = ["predict.py", "--checkpoint_path", path, "a.png", "--prior"]
    assert "--prior needs the training images of each class" in refused(*flags, "train")
    assert "gone.csv cannot be read" in refused(*flags, "gone.csv")
    (tmp_path / "latin.csv").write_bytes("Käfer,1".encode("latin-1"))
    line = refused(*flags, "latin.csv")
    assert "latin.csv cannot be read as a table" in line
    assert line.endswith("save it as CSV in UTF-8")
    (tmp_path / "x.csv.tmp").write_text('ant,1\n"bee, or wasp",1\nKäfer,1\n', encoding="utf-8")
    assert "which this command reads" in refused(*flags, "x.csv.tmp", "--out", "x.csv")
    assert (tmp_path / "x.csv.tmp").exists()


def test_the_largest_numbers_and_byte_order_marks(checkpoint, predicted, tmp_path):
    (tmp_path / "large.csv").write_bytes('\ufeffant,1e308\r\n"bee, or wasp",1e308\r\nKäfer,1e308\r\n'.encode())
    path = checkpoint()
    np.testing.assert_allclose(predicted(path, "--prior", "large.csv")[0], predicted(path)[0], atol=1e-6)
