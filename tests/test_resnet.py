"""ResNet-32 and its relatives: published names and sizes; their logits are compared in test_golden.py."""

import pytest
import torch

from resnet import build_model, make_model


def published_keys(blocks=5):
    def norm(name):
        return [f"{name}.{k}" for k in ("weight", "bias", "running_mean", "running_var")]

    keys = ["conv1.weight", *norm("bn1")]
    for stage in (1, 2, 3):
        for block in range(blocks):
            for i in (1, 2):
                keys += [f"layer{stage}.{block}.conv{i}.weight", *norm(f"layer{stage}.{block}.bn{i}")]
    return {*keys, "linear.weight", "linear.bias"}


@pytest.mark.parametrize(("arch", "blocks"), [("resnet20", 3), ("resnet32", 5), ("resnet56", 9)])
def test_state_dict_has_exactly_the_published_keys(arch, blocks):
    assert build_model(arch, 10).state_dict().keys() == published_keys(blocks)


def test_size_of_resnet32():
    # He et al. give 0.46 M for ten classes.
    assert sum(p.numel() for p in build_model("resnet32", 10).parameters()) == 464154


def test_weights_follow_the_seed_and_nothing_else():
    state = torch.get_rng_state()
    heads = [make_model("resnet8", 4, seed).linear.weight for seed in (1, 1, 2)]
    assert torch.equal(heads[0], heads[1])
    assert not torch.equal(heads[0], heads[2])
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("arch", ["resnet", "resnet2", "resnet18", "resnet31", "vgg", "resnet32x", ""])
def test_other_names_are_refused(arch):
    with pytest.raises(ValueError, match="6n"):
        build_model(arch, 10)
