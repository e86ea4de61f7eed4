"""Ways to make a linear head of frozen features: scikit-learn's baselines, ISDA as the convex problem that it is, MetaSAug.

All take features (N, A) of mean zero whose variances have the mean one, see `feature_scale.FeatureScale`, and every class
must be among the labels. The order of `WAYS` is that of simplicity: of ways that the folds cannot distinguish, the first is
taken.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
import torch
from scipy.optimize import minimize
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import NearestCentroid
from threadpoolctl import threadpool_limits
from torch import Tensor, nn
from torch.nn import functional as F

from loss import batch_statistics, log_prior, semantic_logits

Constants = dict[str, Any]  # numbers and words by flag
Fitted = tuple[np.ndarray, np.ndarray]  # (C, A) and bias (C,)
Fit = Callable[[np.ndarray, np.ndarray, Constants], Fitted]  # of features (N, A) and labels (N,)
MOST_ITERATIONS = 1000
MANY_PRODUCTS = 5 * 10**8  # rows x features x classes


def few_threads(products: int) -> threadpool_limits:
    """Return a context in which one thread computes, if there are few multiplications at once.

    Several wait for one another longer than they compute: 30 times as long where other work has their cores.
    """
    return threadpool_limits(1 if products < MANY_PRODUCTS else None)


def two_rows(weight: np.ndarray, bias: np.ndarray) -> Fitted:
    """Return a row for each class: scikit-learn has one row for two classes, the difference of their logits."""
    if len(weight) > 1:
        return weight, bias
    return np.concatenate([-weight, weight]) / 2, np.concatenate([-bias, bias]) / 2


def regularisation(constants: Constants, features: int) -> float:
    """Return scikit-learn's C for features whose variances have the mean one; --C is for those whose sum is one."""
    return float(constants["C"]) / features


def logistic(rows: np.ndarray, target: np.ndarray, constants: Constants, weights: str | None = None) -> Fitted:
    """Fit multinomial logistic regression, ½|W|² + C · the sum of the cross-entropies, `weights` being class_weight."""
    c = regularisation(constants, rows.shape[1])
    c *= 2 if target.max() == 1 else 1  # of two classes |w₁ − w₀|² is penalised, twice |W|²
    model = LogisticRegression(C=c, class_weight=weights, max_iter=MOST_ITERATIONS)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # at the largest C of features that separate the classes
        model.fit(rows, target)
    return two_rows(model.coef_, model.intercept_)


def nearest_mean(rows: np.ndarray, target: np.ndarray, constants: Constants) -> Fitted:
    """Return the head whose largest logit is that of the nearest class mean."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of features that are constant within classes, and classes of one row
        means = NearestCentroid().fit(rows, target).centroids_
    return means, -np.square(means).sum(axis=1) / 2


def discriminant(rows: np.ndarray, target: np.ndarray, constants: Constants) -> Fitted:
    """Fit linear discriminant analysis: shrunk common covariance (Ledoit and Wolf), all classes equally frequent.

    With a row a class there is no covariance, and the nearest mean is what is left.
    """
    classes = int(target.max()) + 1
    if len(target) <= classes:
        return nearest_mean(rows, target, constants)
    model = LinearDiscriminantAnalysis(solver="lsqr", shrinkage="auto", priors=np.full(classes, 1 / classes))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # of classes of one image, which add nothing to the covariance
        model.fit(rows.astype(np.float64), target)
    return two_rows(model.coef_, model.intercept_)


def isda(rows: np.ndarray, target: np.ndarray, constants: Constants) -> Fitted:
    """Fit logistic regression on ISDA's logits, with the variances of each class (arXiv 1909.12220, eq. 7).

    They are a convex function of the head, so that L-BFGS finds the one minimum: no rate, no epochs, no seed. λ is whole
    from the beginning.
    """
    features, y = torch.from_numpy(rows), torch.from_numpy(target)
    classes, size = int(target.max()) + 1, rows.shape[1]
    variances = batch_statistics(features, y, classes, diagonal=True)[2]
    decay = 1 / (regularisation(constants, size) * len(y))

    @torch.enable_grad()
    def objective(point: np.ndarray) -> tuple[float, np.ndarray]:
        both = torch.from_numpy(point).to(features.dtype).requires_grad_()
        weight, bias = both[:-classes].view(classes, size), both[-classes:]
        logits = semantic_logits(F.linear(features, weight, bias), weight, y, variances, float(constants["lam"]))
        loss = F.cross_entropy(logits, y) + decay / 2 * weight.square().sum()
        return loss.item(), torch.autograd.grad(loss, both)[0].double().numpy()

    start = np.zeros(classes * (size + 1))
    ends = {"maxiter": MOST_ITERATIONS, "ftol": 1e-7, "gtol": 1e-4}  # the second as scikit-learn has it
    found = minimize(objective, start, jac=True, method="L-BFGS-B", options=ends).x
    return found[:-classes].reshape(classes, size), found[-classes:]


@dataclass(frozen=True)
class Way:
    """A way to make a head.

    Parameters
    ----------
    words:
        What it is, for people.
    fit:
        Makes it at once; None where steps of SGD do, by the flags, from the head of the way `after` on.
    tried:
        Constants that folds choose, in order, and their values, the usual one first.
    flags:
        Flags of train_own.py that it has.
    after:
        The way whose chosen constants it begins with; those of its own are tried from there.
    """

    words: str
    fit: Fit | None
    tried: Mapping[str, tuple[float | str, ...]]
    flags: Mapping[str, Any] = field(default_factory=dict)
    after: str | None = None


STRENGTHS = (0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0, 300.0, 1000.0, 3000.0)
TRANSFORM = {"transform": ("none", "unit", "sqrt", "standard")}
WAYS = {
    "logistic": Way(
        "logistic regression minus the log prior", logistic,
        {**TRANSFORM, "C": (10.0, *STRENGTHS)}, {"logit_adjust": 1.0},
    ),
    "balanced": Way(
        "logistic regression with balanced class weights", partial(logistic, weights="balanced"), {"C": (10.0, *STRENGTHS)},
        after="logistic",
    ),
    "nearest_mean": Way("nearest class mean", nearest_mean, TRANSFORM),
    "lda": Way("discriminant analysis, shrunk, equal priors", discriminant, TRANSFORM),
    "isda": Way("ISDA", isda, {"lam": (0.5, 0.1, 0.25, 1.0, 2.0)}, {"logit_adjust": 1.0}, "logistic"),
    "metasaug": Way(
        "MetaSAug", None, {"meta_step_size": (0.5, 0.2), "lr": (0.01, 0.003)},
        {"stage2": "metasaug", "meta_update": "relative", "balance": "prior", "meta_start": 0, "batch_size": 64},
        "isda",
    ),
}  # fmt: skip
DEFAULT_WAY, RECIPE = "logistic", "recipe"  # the second is what --stage2 and its flags say, nothing chosen


@torch.no_grad()
def fit_into(head: nn.Linear, fit: Fit, features: Tensor, target: Tensor, constants: Constants) -> None:
    """Fit a head to features (N, A) and target (N,)."""
    with few_threads(features.numel() * head.out_features):
        fitted = fit(features.cpu().numpy(), target.cpu().numpy(), constants)
    for own, found in zip((head.weight, head.bias), fitted, strict=True):
        own.copy_(torch.from_numpy(found))


def begin_head(name: str, head: nn.Linear, features: Tensor, target: Tensor, constants: Constants) -> None:
    """Put a head that steps train where the way before has it, so that they train as if stage 1 had been run to its end."""
    fit = WAYS[str(WAYS[name].after)].fit
    assert fit is not None
    fit_into(head, fit, features, target, constants)
    with torch.no_grad():  # the loss of the steps adds it
        head.bias.sub_(log_prior(target.bincount(minlength=head.out_features).tolist()).to(head.bias))


def constants_of(name: str | None) -> Constants:
    """Return the constants of a way with their usual values, those of the way that it begins with before its own."""
    if name not in WAYS:
        return {}
    way = WAYS[name]
    return constants_of(way.after) | {key: values[0] for key, values in way.tried.items()}
