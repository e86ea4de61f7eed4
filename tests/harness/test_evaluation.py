"""What a network says of a test set, against a loop over its images and on several processes."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import log_loss
from support.runs import ALONE
from torch import nn

from harness.evaluation import evaluate, validate


@given(st.integers(1, 12), st.integers(2, 8), st.integers(1, 13), st.integers(0, 2**16))
def test_predictions_are_those_of_each_image_whatever_the_batches(count, classes, size, seed):
    torch.manual_seed(seed)
    logits, target = 3 * torch.randn(count, classes), torch.randint(classes, (count,))
    expected, best = logits.double().softmax(1), logits.argsort(dim=1, descending=True)
    for group in (None, ALONE):
        tested = evaluate(lambda x: x, zip(logits.split(size), target.split(size), strict=True), group)
        assert torch.equal(tested.target, target)
        assert torch.equal(tested.predicted, best[:, 0])
        assert torch.equal(tested.in_top5, (best[:, :5] == target[:, None]).any(1))
        torch.testing.assert_close(tested.confidence.double(), expected.amax(1), rtol=1e-5, atol=0)
        assert tested.loss == pytest.approx(log_loss(target, expected, labels=range(classes)), rel=1e-5, abs=5e-6)
        assert tested.top5 == pytest.approx(100 * float(tested.in_top5.double().mean()))
    none = evaluate(lambda x: x, [])
    assert (none.loss, none.top5, len(none.target)) == (0, 0, 0)


def test_a_network_is_tested_in_eval_mode_and_without_a_graph():
    class Network(nn.Module):
        def forward(self, x):
            assert (self.training, torch.is_grad_enabled()) == (False, False)
            return None, x

    logits = torch.eye(3)
    assert validate(Network().train(), [(logits, torch.arange(3))]).predicted.tolist() == [0, 1, 2]
