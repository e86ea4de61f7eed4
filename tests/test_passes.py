"""The passes in bfloat16, against those in full precision."""

import copy

import pytest
import torch
from support.compare import distance, relative
from torch.nn import functional as F

from covariance_rules import relative_rule
from data_utils import build_dataset, epoch_batches, meta_batches
from loss import EstimatorCV, MetaSAugLDAM
from meta_step import meta_step
from passes import Passes
from resnet import make_model

RATES = {"lam_t": 0.6, "virtual_lr": 0.05, "meta_lr": 0.1}
CHANGES = {
    "published": {},
    "head": {"virtual": "head"},
    "relative, trained on": {"virtual": "head", "rule": relative_rule, "train_on_meta": True},
}


@pytest.fixture(scope="module")
def half_trained():
    """A ResNet-8 after 21 plain steps on digits, its criterion and class statistics, a training and a meta batch."""
    data = build_dataset("digits", 10, 0.1)
    model = make_model("resnet8", 10).to(memory_format=torch.channels_last).train()
    optimizer = torch.optim.SGD(model.parameters(), 0.05, momentum=0.9, nesterov=True, weight_decay=5e-4)
    estimator = EstimatorCV(64, 10)
    for epoch in range(3):
        for x, y in epoch_batches(data.train, 64, 0, epoch):
            features, logits = model(x)
            optimizer.zero_grad()
            F.cross_entropy(logits, y).backward()
            optimizer.step()
            if epoch == 2:
                estimator.update(features.detach(), y)
    batch = next(epoch_batches(data.train, 48, 0, 20))
    return model, MetaSAugLDAM(data.cls_num_list), estimator, batch, next(meta_batches(data.meta, 32, 0))


def step(problem, make, **changes):
    model, criterion, estimator, batch, meta = copy.deepcopy(problem)
    optimizer = torch.optim.SGD(model.parameters(), 0.05, momentum=0.9, nesterov=True)
    result = meta_step(model, criterion, estimator, optimizer, batch, meta, **RATES, **changes, passes=make(model))
    return result, model, estimator


@pytest.mark.parametrize("changes", CHANGES.values(), ids=CHANGES)
def test_bf16_keeps_the_direction_of_the_meta_gradient_and_everything_else_in_float32(half_trained, changes):
    exact, twin, _ = step(half_trained, Passes, **changes)
    ours, model, estimator = step(half_trained, lambda model: Passes(model, torch.bfloat16), **changes)
    assert 0 < relative(ours.grad_covariance, exact.grad_covariance) < 0.3
    cosine = F.cosine_similarity(ours.grad_covariance.flatten(), exact.grad_covariance.flatten(), dim=0)
    assert float(cosine) > 0.95
    assert relative(ours.loss, exact.loss) < 0.02
    assert relative(ours.loss_meta, exact.loss_meta) < 0.02
    assert distance(model.state_dict(), twin.state_dict()) < 0.05
    kept = (*model.state_dict().values(), *estimator.buffers(), ours.logits, ours.grad_covariance, ours.covariance)
    assert {value.dtype for value in kept} == {torch.float32}


def test_the_convolutions_run_in_bf16_and_the_head_does_not(half_trained):
    model = copy.deepcopy(half_trained[0])
    seen = {}
    model.layer1[0].conv1.register_forward_hook(lambda m, i, out: seen.update(conv=out.dtype))
    model.linear.register_forward_hook(lambda m, i, out: seen.update(head=out.dtype))
    Passes(model, torch.bfloat16).plain(half_trained[3][0])
    assert seen == {"conv": torch.bfloat16, "head": torch.float32}
    Passes(model).plain(half_trained[3][0])
    assert seen == {"conv": torch.float32, "head": torch.float32}


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("changes", CHANGES.values(), ids=CHANGES)
def test_bf16_on_cuda(half_trained, changes):
    parts = copy.deepcopy(half_trained)
    on_gpu = [part.cuda() if hasattr(part, "cuda") else tuple(t.cuda() for t in part) for part in parts]
    exact, _, _ = step(half_trained, Passes, **changes)
    ours, _, _ = step(on_gpu, lambda model: Passes(model, torch.bfloat16), **changes)
    cosine = F.cosine_similarity(ours.grad_covariance.flatten().cpu(), exact.grad_covariance.flatten(), dim=0)
    assert float(cosine) > 0.95
