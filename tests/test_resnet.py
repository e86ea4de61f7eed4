"""ResNet-32 and its relatives; keys, sizes and logits are compared in test_golden.py, names in test_refusals.py."""

import torch

from resnet import make_model


def test_weights_follow_the_seed_and_nothing_else():
    state = torch.get_rng_state()
    heads = [make_model("resnet8", 4, seed).linear.weight for seed in (1, 1, 2)]
    assert torch.equal(heads[0], heads[1])
    assert not torch.equal(heads[0], heads[2])
    assert torch.equal(torch.get_rng_state(), state)
