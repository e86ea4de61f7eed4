"""How far tensors are from each other."""

import torch


def relative(ours, expected):
    """The norm of the difference over that of `expected`."""
    return float((ours - expected).detach().double().norm() / expected.detach().double().norm())


def distance(ours, expected):
    """The largest `relative` of two state dicts."""
    assert ours.keys() == expected.keys()
    return float(torch.tensor([relative(ours[name], value) for name, value in expected.items()]).max())  # nan if one is
