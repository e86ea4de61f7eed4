"""Pictures of test images that a network got wrong: which a training keeps, and what a page takes of their file."""

import base64
import io
import os

import msgspec
import numpy as np
import pytest
from PIL import Image
from support.finished_runs import write_run
from support.pages import Parsed
from support.runs import end_epoch, small_run

from harness.mistakes import most_confused


def photograph(place):
    """An image whose brightness says its place; each fifth cannot be read."""
    return None if place % 5 == 4 else Image.new("RGB", (200, 100), (place,) * 3)


def noise(place):
    return Image.fromarray(np.random.default_rng(place).integers(0, 255, (300, 400, 3), dtype=np.uint8))


def test_the_pairs_most_confused_have_their_first_images():
    target, predicted = np.random.default_rng(0).integers(0, 4, (2, 200))
    pairs = [*zip(target, predicted, strict=True)]
    order = sorted({pair for pair in pairs if pair[0] != pair[1]}, key=lambda pair: (-pairs.count(pair), pair))[:6]
    found = most_confused(target, predicted, photograph)
    for one, pair in zip(found, order, strict=True):
        assert (one.target, one.predicted, one.times) == (*pair, pairs.count(pair))
        wanted = [place for place in range(200) if pairs[place] == pair and photograph(place)][:6]
        pixels = np.asarray(Image.open(io.BytesIO(one.picture)))
        assert (one.images, pixels.shape) == (len(wanted), (64, 64 * len(wanted), 3))
        assert pixels[16, 32::64, 0].tolist() == pytest.approx(wanted, abs=3)
    assert len(msgspec.json.encode(most_confused(target, predicted, noise))) < 130_000  # photographs are smaller


def test_the_last_epoch_keeps_pictures_and_a_longer_run_its_own(tmp_path):
    for epochs, right in ((2, 3), (3, 4)):
        with small_run(tmp_path, "--epochs", epochs, "--resume", "auto") as run:
            for epoch in run.epochs:
                assert (tmp_path / "a_mistakes.json").exists() == (epoch == 2)
                end_epoch(run, right=right, picture=photograph)
        assert (tmp_path / "a_mistakes.json").exists() == (right < 4)


@pytest.mark.parametrize("file", ["own", "link", "pipe", "large"])
def test_a_page_shows_the_pictures_in_the_own_file_of_a_run(run, tmp_path, file):
    write_run(tmp_path / "runs", "a", class_names=["x", "<b>", "z"])
    path = tmp_path / "runs" / "a_mistakes.json"
    (pair,) = found = most_confused(np.array([0, 0]), np.array([1, 1]), noise)
    path.write_bytes(msgspec.json.encode(found) + b" " * 2**20 * (file == "large"))
    if file == "link":
        path.rename(tmp_path / "other.json")
        path.symlink_to(tmp_path / "other.json")
    elif file == "pipe":
        path.unlink()
        os.mkfifo(path)
    run("report.py runs")
    page = Parsed((tmp_path / "report" / "report.html").read_text(encoding="utf-8"))
    shown = [(attrs["src"], attrs["alt"]) for attrs, _ in page.all("img")]
    address = f"data:image/jpeg;base64,{base64.b64encode(pair.picture).decode()}"
    assert shown == [(address, "2 test images of x taken for <b>")] * (file == "own")
    assert ("x → <b>, 2 times" in [text for _, text in page.all("figcaption")]) == (file == "own")
