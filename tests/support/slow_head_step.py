"""A slow reference for the step of a head with diagonal covariances: loops, and double backward."""

import torch
from torch.nn import functional as F


def slow_loss(weight, bias, batch, sigma, criterion, lam_t):
    """The weighted cross-entropy of the semantic logits, one sample and class at a time."""
    features, target = batch
    total = 0
    for z, y in zip(features, target, strict=True):
        logits = []
        for j in range(len(weight)):
            difference = weight[j] - weight[y]
            raised = 0 if criterion.log_prior is None else criterion.log_prior[j]
            logits.append(z @ weight[j] + bias[j] + lam_t / 2 * (difference * sigma[y] * difference).sum() + raised)
        logits[y] = logits[y] - criterion.margins[y]
        total = total - criterion.class_weights[y] * torch.stack(logits).log_softmax(0)[y]
    return total / criterion.class_weights[target].sum()


def slow_step(
    head, criterion, estimator, optimizer, batch, meta_batch, *, lam_t, virtual_lr, meta_lr
):
    """Take the step that head_step takes; return the losses and the meta gradient (C, A)."""
    weights, sigma = (head.weight, head.bias), estimator.covariance.clone().requires_grad_()
    loss_virtual = slow_loss(*weights, batch, sigma, criterion, lam_t)
    grads = torch.autograd.grad(loss_virtual, weights, create_graph=True)
    stepped = [w - virtual_lr * g for w, g in zip(weights, grads, strict=True)]
    loss_meta = F.cross_entropy(F.linear(meta_batch[0], *stepped), meta_batch[1])
    grad = torch.autograd.grad(loss_meta, sigma)[0]
    loss = slow_loss(*weights, batch, (sigma - meta_lr * grad).detach(), criterion, lam_t)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    estimator.update(*batch)
    return loss_virtual.detach(), loss_meta.detach(), loss.detach(), grad
