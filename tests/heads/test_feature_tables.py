"""Batches of a head's training out of tables of features: rows that are picked, and the scale."""

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from support.image_lists import ALONE
from support.refusals import wrong

from heads.backbone import make_head
from heads.drawn_sets import Lists, Sets, united
from heads.feature_tables import TRANSFORMS, CachedFeatures, PickedRows, feature_scale, scaled_batches
from heads.image_lists import ImageList

SEEDS = st.integers(0, 1000)


def rows_of(seed, kind=np.float32, rows=37, features=5):
    generator = np.random.default_rng(seed)
    table = generator.normal(3, 2, (rows, features)).astype(kind)
    return table, generator.integers(0, rows, 50)


@given(SEEDS, st.sampled_from([np.float16, np.float32]))
def test_rows_are_picked_when_they_are_asked_for(seed, kind):
    table, order = rows_of(seed, kind)
    picked = PickedRows(table, order)
    assert (len(picked), picked.shape, picked.dtype) == (50, (50, 5), kind)
    index = np.random.default_rng(seed + 1).integers(0, 50, 9)
    for at in (index, slice(3, 20), slice(40, 90)):
        assert np.array_equal(picked[at], table[order][at])


TRANSFORMED = {"unit": lambda z: z / z.square().sum(dim=1, keepdim=True).sqrt(), "sqrt": torch.sqrt}


@given(SEEDS, st.booleans(), st.sampled_from(list(TRANSFORMS)))
def test_scaled_features_have_mean_zero_and_a_mean_variance_of_one(seed, subtract, transform):
    """All of one that vary with "standard". A folded head gives for features as they are what it gave for scaled ones."""
    table, order = rows_of(seed)
    table = np.abs(table)
    table[:, 4] = 7
    scale = feature_scale(PickedRows(table, order), "some rows", transform)
    z = torch.from_numpy(table[order])
    expected = TRANSFORMED.get(transform, torch.clone)(z.double())
    expected = expected - expected.mean(dim=0)
    squares = expected.square().mean(dim=0).clamp(min=1e-18)
    expected /= (squares if transform == "standard" else squares.mean()).sqrt()
    torch.testing.assert_close(scale(z), expected.float(), rtol=1e-4, atol=1e-4)
    head, subtracted = torch.nn.Linear(5, 3), torch.arange(3.0) if subtract else None
    whole = make_head(3, 0, 5, "none" if transform == "standard" else transform)
    whole.load_state_dict(scale.folded(head, subtracted).state_dict())
    logits = head(expected.float()) - (0 if subtracted is None else subtracted)
    torch.testing.assert_close(whole(z), logits, rtol=1e-4, atol=1e-4)
    whole.transform = "unit" if transform == "none" else "none"
    for control in (head, whole)[: 1 + (transform != "standard")]:  # the head as it was, and of other features
        with pytest.raises(AssertionError):
            torch.testing.assert_close(control(z), logits, rtol=1e-2, atol=1e-2)


def test_features_that_are_all_the_same_and_features_that_are_not_finite():
    same = PickedRows(np.full((4, 3), 0.1, np.float32), np.arange(4))
    assert feature_scale(same, "x").factor == 1
    for transform in TRANSFORMS:
        scaled = feature_scale(same, "x", transform)(torch.full((4, 3), 0.1))
        torch.testing.assert_close(scaled, torch.zeros(4, 3), rtol=0, atol=1e-6)
    large = PickedRows(np.array([[1, np.inf], [1, 2]], np.float16), np.arange(2))
    assert "features of photos are too large" in wrong(feature_scale, large, "photos")


def test_batches_keep_the_kind_of_their_rows():
    """float32 rows are not rounded to the 16 bits that cached ones have."""
    rows = (1 + np.arange(12, dtype=np.float32).reshape(6, 2) * 1e-6) * 70000  # beyond float16
    targets = {"train": torch.arange(6), "meta": torch.arange(6), "test": torch.arange(6)}
    features = CachedFeatures([rows], [rows], rows, targets, ALONE, 6, 4, 0)
    batch, target = next(features.train())
    assert torch.equal(batch, torch.from_numpy(rows)[target])
    assert torch.equal(torch.cat([part for part, _ in features.test()]), torch.from_numpy(rows))


def listed(names, root="root"):
    return ImageList(Path(root), list(names), np.array([len(name) for name in names]), ["x"], "a list")


@given(st.lists(st.lists(st.sampled_from(["a", "bb", "c", "dd/e"]), max_size=5), min_size=1, max_size=3), st.randoms())
def test_all_images_of_some_lists_are_the_same_list_however_they_are_shared_out(lists, random):
    parts = [listed(names) for names in lists]
    whole = united(parts)
    files = {file: label for part in parts for file, label in zip(part.files(), part.targets.tolist(), strict=True)}
    assert dict(zip(whole.files(), whole.targets.tolist(), strict=True)) == files
    assert whole.files() == sorted(files)
    random.shuffle(parts)
    assert united(parts).paths == whole.paths


def test_sets_are_batched_from_their_own_rows():
    table = np.random.default_rng(0).normal(0, 1, (8, 3)).astype(np.float32)
    names = [str(k) for k in range(8)]
    train, meta, test, heldout = (listed(names[a:b]) for a, b in ((0, 4), (4, 5), (5, 7), (7, 8)))
    sets = Sets(train, meta, test, [4], [], Lists(train, meta, test, "whole", []), heldout=heldout)
    place = {file: row for row, file in enumerate(listed(names).files())}

    def rows(of):
        return [PickedRows(table, np.array([place[file] for file in of.files()]))]

    features, scale = scaled_batches(sets, rows, ALONE, 4, 4, 1)
    scaled = scale(torch.from_numpy(table))
    assert torch.allclose(scaled[:4].mean(dim=0), torch.zeros(3), atol=1e-6)
    for found, expected in ((features.test(), scaled[5:7]), (features.test("heldout"), scaled[7:])):
        assert torch.equal(torch.cat([batch for batch, _ in found]), expected)
    assert torch.equal(next(features.meta())[0], scaled[4:5])
