"""The scale of features."""

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st
from support.refusals import wrong

from heads.backbone import make_head
from heads.feature_scale import TRANSFORMS, feature_scale

TRANSFORMED = {"unit": lambda z: z / z.square().sum(dim=1, keepdim=True).sqrt(), "sqrt": torch.sqrt}


@given(st.integers(0, 1000), st.booleans(), st.sampled_from(list(TRANSFORMS)))
def test_scaled_features_have_mean_zero_and_a_mean_variance_of_one(seed, subtract, transform):
    """All of one that vary with "standard". A folded head gives for features as they are what it gave for scaled ones."""
    rows = np.abs(np.random.default_rng(seed).normal(3, 2, (50, 5)).astype(np.float32))
    rows[:, 4] = 7
    scale = feature_scale(rows, transform)
    z = torch.from_numpy(rows)
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
    assert (head(z) - logits).abs().max() > 0.01  # the control: the head as it was


def test_features_that_are_all_the_same_and_features_without_a_square_root():
    same = np.full((4, 3), 0.1, np.float32)
    assert feature_scale(same).factor == 1
    for transform in TRANSFORMS:
        scaled = feature_scale(same, transform)(torch.full((4, 3), 0.1))
        torch.testing.assert_close(scaled, torch.zeros(4, 3), rtol=0, atol=1e-6)
    assert "some features are negative" in wrong(feature_scale, -same, "sqrt")
