"""The recipe of the CIFAR scripts from the first step to the last: whole runs against a slow loop of the published details.

The loop is written out from the papers and shares with the project nothing but the images of each batch. All is in float64,
so that nothing but rounding may differ.
"""

import shutil
from copy import deepcopy

import pytest
import torch
from support.own import saved
from support.places import ROOT
from support.runs import log_of
from support.tiny_networks import logits
from torch.func import functional_call
from torch.nn import functional as F

from data_utils import build_dataset, epoch_batches, meta_batches, plain_batches

pytestmark = pytest.mark.usefixtures("float64")
EPOCHS, META_START, LAM, META_LR, BATCH_SIZE, SEED, CLASSES = 11, 5, 0.75, 100, 64, 3, 10
# Rates drop by 0.01 at 160 and 180 of 200 epochs, here at 8.8 and 9.9 of 11: the real one once epoch + 1 reaches them,
RATES = [0.1] * 8 + [1e-3] + [1e-5] * 2
VIRTUAL_RATES = [0.1] * 9 + [1e-3, 1e-5]  # the virtual one once epoch does, as published
# The other flags keep their defaults, which are published. With this --meta_lr the covariances move visibly.
FLAGS = ["--dataset", "digits", "--imb_factor", 0.1, "--arch", "in_float64:logits", "--no-cuda", "--seed", SEED]
FLAGS += ["--epochs", EPOCHS, "--meta_start", META_START, "--batch-size", BATCH_SIZE, "--lam", LAM, "--meta_lr", META_LR]
IN_FLOAT64 = "import torch\n\ntorch.set_default_dtype(torch.float64)\nfrom tiny_networks import logits\n"


def semantic_loss(network, out, target, sigma, lam_t, counts, max_m):
    """The loss of stage 2, of logits (N, C)."""
    n, weight = torch.tensor(counts, dtype=torch.float64), network[-1].weight
    gap = weight - weight[target].unsqueeze(1)  # w_j − w_y, (N, C, A)
    out = out + lam_t / 2 * torch.einsum("nca,nab,ncb->nc", gap, sigma[target], gap)  # ISDA, arXiv 1909.12220
    margins = max_m * n**-0.25 / (n**-0.25).max()  # LDAM, arXiv 1906.07413, eq. 13; without its scale s
    out = out - margins[target].unsqueeze(1) * F.one_hot(target, CLASSES)
    balance = (1 - 0.9999) / (1 - 0.9999**n)  # class-balanced, arXiv 1901.05555, eq. 2
    balance = (balance * CLASSES / balance.sum())[target]
    return (balance * F.cross_entropy(out, target, reduction="none")).sum() / balance.sum()


def meta_gradient(network, inputs, target, sigma, terms, meta_batch, virtual_lr):
    """∇_Σ L_meta(θ'(Σ)) by double backward, and L_meta; on a copy, so that batch norm's running statistics stay."""
    network, sigma = deepcopy(network), sigma.clone().requires_grad_()
    theta = dict(network.named_parameters())
    loss = semantic_loss(network, network(inputs), target, sigma, *terms)
    grads = torch.autograd.grad(loss, [*theta.values()], create_graph=True)
    moved = {name: w - virtual_lr * g for (name, w), g in zip(theta.items(), grads, strict=True)}  # no momentum, no decay
    meta_loss = F.cross_entropy(functional_call(network, moved, meta_batch[0]), meta_batch[1])  # unweighted
    return torch.autograd.grad(meta_loss, sigma)[0], meta_loss.detach()


def statistics(seen):
    """Count, mean and population covariance of each class, of all features (N, A) with target (N,) seen so far at once."""
    features, target = (torch.cat(part) for part in zip(*seen, strict=True))
    size = features.shape[1]
    count, mean, covariance = torch.zeros(CLASSES), torch.zeros(CLASSES, size), torch.zeros(CLASSES, size, size)
    for k in target.unique():
        rows = features[target == k]
        count[k], mean[k], covariance[k] = len(rows), rows.mean(dim=0), torch.cov(rows.T, correction=0)
    return {"count": count, "mean": mean, "covariance": covariance}


def traces(name, of_classes, counts):
    """The log's means of a trace (C,) over the shot groups."""
    n = torch.tensor(counts)
    groups = {"many": n > 100, "medium": (n <= 100) & (n >= 20), "few": n < 20}
    return {f"trace_{name}_{shot}": float(of_classes[chosen].mean()) for shot, chosen in groups.items()}


def train_epoch(network, optimizer, data, epoch, method, meta, seen, max_m, added):
    """Train an epoch, and add the features to `seen` if it is of stage 2; return its figures in the log.

    The plain cross-entropy of the meta batch may be `added`, which leaves batch norm's running statistics alone.
    """
    terms = 0 if method == "reweight" else LAM * epoch / EPOCHS, data.cls_num_list, max_m
    optimizer.param_groups[0]["lr"] = RATES[epoch]
    losses, right, meta_losses, norms, lowered = [], [], [], [], []
    for inputs, target in epoch_batches(data.train, BATCH_SIZE, SEED, epoch):
        sigma = statistics(seen)["covariance"]  # before this batch
        meta_batch = next(meta) if added or method == "metasaug" else None  # the k-th one in the k-th step of stage 2
        if method == "metasaug":
            grad, meta_loss = meta_gradient(network, inputs, target, sigma, terms, meta_batch, VIRTUAL_RATES[epoch])
            sigma = sigma - META_LR * grad  # Σ̂, for this step alone
            meta_losses, norms = [*meta_losses, meta_loss], [*norms, grad.norm()]
            lowered.append(torch.where(target.bincount(minlength=CLASSES) > 0, torch.einsum("caa->c", grad), torch.nan))
        features = network[:-1](inputs)
        out = network[-1](features)
        loss = F.cross_entropy(out, target) if method == "plain" else semantic_loss(network, out, target, sigma, *terms)
        optimizer.zero_grad()
        loss.backward()
        if added:
            buffers = {name: buffer.clone() for name, buffer in network.named_buffers()}
            F.cross_entropy(functional_call(network, buffers, meta_batch[0]), meta_batch[1]).backward()
        optimizer.step()
        if method != "plain":
            seen.append((features.detach(), target))
        losses.append(loss.detach().expand(len(target)))
        right.append((out.argmax(dim=1) == target).double())
    found = {"train_loss": torch.cat(losses).mean(), "train_acc1": 100 * torch.cat(right).mean()}
    found |= {"meta_loss": torch.stack(meta_losses).mean(), "grad_norm": torch.stack(norms).mean()} if norms else {}
    spread = torch.einsum("caa->c", statistics(seen)["covariance"])
    found |= {} if method == "plain" else traces("estimated", spread, data.cls_num_list)
    found |= traces("learned", spread - META_LR * torch.stack(lowered).nanmean(dim=0), data.cls_num_list) if norms else {}
    return found


def reference(loss, stage2, added):
    """Train both stages; return the log and what is left at the end."""
    data = build_dataset("digits", 10, 0.1)
    torch.manual_seed(SEED)
    network = logits(CLASSES)
    optimizer = torch.optim.SGD(network.parameters(), 0.1, momentum=0.9, nesterov=True, weight_decay=5e-4)
    meta, log = meta_batches(data.meta, BATCH_SIZE, SEED), []
    seen = [(torch.zeros(0, network[-1].in_features), torch.zeros(0, dtype=torch.int64))]  # nothing before stage 2
    inputs, target = next(plain_batches(data.test, len(data.test)))
    for epoch in range(EPOCHS):
        second = epoch >= META_START
        method = stage2 if second and stage2 != "none" else "plain"
        max_m = {"LDAM": 0.5, "CE": 0}[loss]
        found = train_epoch(network.train(), optimizer, data, epoch, method, meta, seen, max_m, added and second)
        with torch.no_grad():
            out = network.eval()(inputs)
        right = (out.argmax(dim=1) == target).double()
        found |= {"test_loss": F.cross_entropy(out, target), "test_acc1": 100 * right.mean()}
        log.append({"epoch": epoch, "stage": 1 + second, "lr": RATES[epoch]} | {key: float(found[key]) for key in found})
    left = {"network": network.state_dict(), "momentum": optimizer.state_dict()["state"], "estimator": statistics(seen)}
    return log, left


@pytest.mark.parametrize("stage2", ["none", "reweight", "isda", "metasaug"])
@pytest.mark.parametrize("loss", ["LDAM", "CE"])
def test_a_run_is_that_of_the_published_details(run, tmp_path, loss, stage2):
    """With CE the meta images are trained on too, which is ours."""
    shutil.copy(ROOT / "tests" / "support" / "tiny_networks.py", tmp_path)
    (tmp_path / "in_float64.py").write_text(IN_FLOAT64)
    run(f"MetaSAug_{loss}_train.py", *FLAGS, "--stage2", stage2, "--meta_images", {"LDAM": "apart", "CE": "loss"}[loss])
    folder = tmp_path / "checkpoint" / "ours" / "0"
    last, resume = (saved(folder / f"name_{kind}.pth.tar") for kind in ("last", "resume"))
    log, left = reference(loss, stage2, added=loss == "CE")
    for line, expected in zip(log_of(folder, "name"), log, strict=True):
        figures = {key: value for key, value in line.items() if value is not None}
        assert {key for key in figures if key.startswith(("train", "meta", "grad", "trace"))} <= expected.keys()
        assert {key: figures.get(key) for key in expected} == pytest.approx(expected, rel=1e-9)
    found = {"network": last["state_dict"], "momentum": last["optimizer"]["state"]}
    found["estimator"] = resume["resume"]["estimator"]
    torch.testing.assert_close(found, left, rtol=1e-8, atol=1e-10)
