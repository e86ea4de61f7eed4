"""What a head of each way says, by definition, in float64."""

import numpy as np
import torch
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from torch.nn import functional as F


def minimum(loss, z, classes):
    """The weight (C, A) and bias (C,) where a loss of them is least, from zeros, by L-BFGS in float64."""
    both = torch.zeros(classes, z.shape[1] + 1, dtype=torch.float64, requires_grad=True)
    exact = {"max_iter": 3000, "tolerance_grad": 1e-9, "tolerance_change": 0, "line_search_fn": "strong_wolfe"}
    optimizer = torch.optim.LBFGS([both], **exact)

    def closure():
        optimizer.zero_grad()
        value = loss(both[:, :-1], both[:, -1])
        value.backward()
        return value

    optimizer.step(closure)
    return both[:, :-1].detach(), both[:, -1].detach()


def by_definition(way, flags, features, target, train):
    """The logits (M, C) of features (M, A), of which some are trained on, in float64."""
    x = torch.from_numpy(features).double()
    x = {"unit": x / x.norm(dim=1, keepdim=True), "sqrt": x.sqrt()}.get(flags["transform"], x)
    z = x - x[train].mean(dim=0)
    z = z / (z[train].square().mean(dim=0) if flags["transform"] == "standard" else z[train].square().mean()).sqrt()
    rows, y = z[train], torch.from_numpy(target[train])
    count = y.bincount().double()
    classes = len(count)
    if way == "lda":
        model = LinearDiscriminantAnalysis(solver="lsqr", shrinkage="auto", priors=np.full(classes, 1 / classes))
        return torch.from_numpy(model.fit(rows.numpy(), y.numpy()).predict_log_proba(z.numpy()))
    if way == "nearest_mean":
        return -torch.cdist(z, torch.stack([rows[y == k].mean(dim=0) for k in range(classes)])).square() / 2
    strength = flags["C"] / z.shape[1]
    share = len(y) / (classes * count[y]) if way == "balanced" else torch.ones(len(y))

    def loss(weight, bias):
        logits = rows @ weight.T + bias
        if way in ("isda", "metasaug"):
            raised = []
            for i, k in enumerate(y.tolist()):
                variance = rows[y == k].var(dim=0, correction=0)
                raised.append(logits[i] + flags["lam"] / 2 * ((weight - weight[k]).square() @ variance))
            logits = torch.stack(raised)
        return weight.square().sum() / 2 + strength * (share * F.cross_entropy(logits, y, reduction="none")).sum()

    weight, bias = minimum(loss, z, classes)
    logits = z @ weight.T + bias
    return logits if way == "balanced" else logits - (count / len(y)).log()
