"""The scale of features."""

import numpy as np
import torch
from support.refusals import wrong

from heads.feature_scale import feature_scale
from heads.ways import TRANSFORM


def test_features_that_are_all_the_same_and_features_without_a_square_root():
    same = np.full((4, 3), 0.1, np.float32)
    assert feature_scale(same).factor == 1
    for transform in TRANSFORM["transform"]:
        scaled = feature_scale(same, transform)(torch.full((4, 3), 0.1))
        torch.testing.assert_close(scaled, torch.zeros(4, 3), rtol=0, atol=1e-6)
    assert "some features are negative" in wrong(feature_scale, -same, "sqrt")
