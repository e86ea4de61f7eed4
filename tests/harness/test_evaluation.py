"""What a network says of a test set, against a loop over its images and on several processes."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from harness.evaluation import evaluate, validate
from harness.process_group import Group

ALONE = Group(0, 1, torch.device("cpu"))
def made(count, classes, seed=0):
    """Logits (M, C) and labels (M,)."""
    generator = torch.Generator().manual_seed(seed)
    return 3 * torch.randn(count, classes, generator=generator), torch.randint(0, classes, (count,), generator=generator)


def batches(logits, target, size):
    return [(logits[i : i + size], target[i : i + size]) for i in range(0, len(target), size)]


@given(st.integers(1, 12), st.integers(2, 8), st.integers(1, 13), st.integers(0, 2**16))
def test_predictions_are_those_of_each_image_whatever_the_batches(count, classes, size, seed):
    logits, target = made(count, classes, seed)
    for group in (None, ALONE):
        tested = evaluate(lambda x: x, batches(logits, target, size), group)
        losses, rows = [], logits.double().tolist()
        for row, label, predicted, confidence, in_top5 in zip(rows, *map(Tensor.tolist, tested[1:]), strict=True):
            order, total = sorted(range(classes), key=lambda k, row=row: -row[k]), sum(map(math.exp, row))
            losses.append(math.log(total) - row[label])
            assert (predicted, in_top5) == (order[0], label in order[:5])
            assert confidence == pytest.approx(math.exp(max(row)) / total, rel=1e-5)
        assert torch.equal(tested.target, target)
        assert tested.loss == pytest.approx(sum(losses) / count, rel=1e-5, abs=5e-6)
        assert tested.top5 == pytest.approx(100 * float(tested.in_top5.double().mean()))
    none = evaluate(lambda x: x, [])
    assert (none.loss, none.top5, len(none.target)) == (0, 0, 0)


def test_a_network_is_tested_in_eval_mode_and_without_a_graph():
    class Network(nn.Module):
        def forward(self, x):
            assert (self.training, torch.is_grad_enabled()) == (False, False)
            return None, x

    logits, target = made(4, 3)
    assert torch.equal(validate(Network().train(), batches(logits, target, 3)).predicted, logits.argmax(1))
