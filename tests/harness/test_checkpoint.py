"""Saving and strict loading, and what is said of files that are no good."""

import io
import os
import pickle
import random
import signal
import time
from contextlib import suppress

import pytest
import torch
from support.refusals import wrong
from support.runs import small_run, take_step

from harness import checkpoint
from harness.errors import UserError
from harness.files import previous
from harness.resume import find_state
from harness.weights import fit_weights
from resnet import build_model


def test_what_is_saved_is_loaded_by_us_and_by_any_reader_of_the_form(tmp_path):
    path, weights = tmp_path / "x_ckpt.pth.tar", build_model("resnet8", 4).state_dict()
    checkpoint.save_checkpoint({"state_dict": weights}, path)
    for state in (checkpoint.load_checkpoint(path), torch.load(path, weights_only=True)):
        assert all(map(torch.equal, state["state_dict"].values(), weights.values()))
    before = path.read_bytes()
    with pytest.raises((AttributeError, pickle.PicklingError)):
        checkpoint.save_checkpoint({"state_dict": lambda: None}, path)
    assert [each.read_bytes() for each in tmp_path.iterdir()] == [before]


def damaged_copies(raw):
    """The file cut at every 5 %, and with one bit flipped, 300 times, a third of them close to the ends."""
    yield from (raw[: len(raw) * share // 100] for share in range(0, 100, 5))
    generator, whole = random.Random(0), 8 * len(raw)
    ranges = [(0, whole)] * 200 + [(whole - 800, whole)] * 60 + [(0, 4000)] * 40  # the checksum and its mark; the beginning
    for first, last in ranges:
        place, flipped = generator.randrange(first, last), bytearray(raw)
        flipped[place // 8] ^= 1 << place % 8
        yield bytes(flipped)


def test_every_cut_and_every_flipped_bit_is_refused_or_replaced_by_the_file_before(tmp_path):
    path = tmp_path / "a_resume.pth.tar"
    with small_run(tmp_path, cut=True) as run:
        next(run.epochs)
        for _ in range(2):
            take_step(run)
            run.save()
    raw = path.read_bytes()
    copies = list(damaged_copies(raw))
    assert len(copies) == 320
    for content in copies:
        path.write_bytes(content)
        with pytest.raises(UserError, match=r"is damaged|is no file of tensors"):
            checkpoint.load_checkpoint(path)
        state, source = find_state("auto", path)
        assert (state["resume"]["meter"]["steps"], source) == (1, previous(path))
    path.write_bytes(raw)
    assert find_state("auto", path)[0]["resume"]["meter"]["steps"] == 2

    def is_loaded_by_torch(content):
        with suppress(Exception):
            return bool(torch.load(io.BytesIO(content), weights_only=True))

    assert any(map(is_loaded_by_torch, copies))  # the control


def test_a_kill_amid_saves_leaves_a_file_that_loads(tmp_path):
    """Twelve processes save again and again, and are killed at a random moment after some saves."""
    generator = random.Random(0)
    for turn in range(12):
        path = tmp_path / f"{turn}.pth.tar"
        ours, theirs = os.pipe()
        if not (child := os.fork()):
            try:
                for epoch in range(10**6):
                    checkpoint.save_checkpoint({"epoch": epoch, "state_dict": {"a": torch.ones(100_000)}}, path)
                    os.write(theirs, b"x")
            finally:
                os._exit(1)
        os.close(theirs)
        saved = sum(len(os.read(ours, 1)) for _ in range(generator.randrange(1, 8)))
        time.sleep(generator.random() / 500)  # somewhere in the next save
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        saved += len(os.read(ours, 100))
        os.close(ours)
        state = checkpoint.load_checkpoint(path)
        assert saved - 1 <= state["epoch"] <= saved
        assert state["state_dict"]["a"].sum() == 100_000


def test_names_and_shapes_that_do_not_fit_are_named():
    model = build_model("resnet8", 4)
    for number, words in ((1, "missing none, unexpected x0"), (9, "x7 and 1 more")):
        assert words in wrong(fit_weights, model, model.state_dict() | {f"x{k}": torch.zeros(1) for k in range(number)}, "a")
    told = "bn1.bias is (5,), the one here is (16,)"
    assert told in wrong(fit_weights, model, model.state_dict() | {"bn1.bias": torch.zeros(5)}, "a")
