"""What the time of a step goes to, and how far it is from the machine's peak."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from typing import Any

import torch
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

import meta_gradient
from benchmarks.common import measure
from benchmarks.measured_steps import Ours, Step
from covariance_rules import relative_rule

WARM_UP = 2


def peak_rates(tries: int) -> dict[str, float]:
    """Return the best float32 rates, in GFLOP/s, of a 2048 x 2048 matrix product and of a large 3x3 convolution.

    Two libraries compute them, and on some processors the one of matrix products leaves the wider vector units idle.
    """
    a, b = torch.randn(2, 2048, 2048).unbind()
    x = torch.randn(64, 128, 32, 32).contiguous(memory_format=torch.channels_last)
    w = torch.randn(128, 128, 3, 3).contiguous(memory_format=torch.channels_last)
    work: dict[str, tuple[float, Step]] = {
        "sgemm": (2 * 2048**3, lambda: a @ b),
        "convolution": (2 * 64 * 1024 * 128 * 128 * 9, lambda: F.conv2d(x, w, padding=1)),
    }
    best = {name: min(measure(step, torch.device("cpu")) for _ in range(tries)) for name, (_, step) in work.items()}
    return {name: flop / best[name] / 1e9 for name, (flop, _) in work.items()}


def forward_gflop(step: Ours) -> float:
    """Return the operations of convolutions and matrix products in a forward pass."""
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        step.model(step.images)
    return counter.get_total_flops() / 1e9


def time_rule(step: Ours, device: torch.device, repeats: int) -> float:
    """Return the median seconds of the relative rule on the covariances and the meta gradient of a step."""
    for _ in range(WARM_UP):  # from the second step on there are covariances
        sigma, seen = step.estimator.covariance, step()
    assert seen is not None
    times = [measure(lambda: relative_rule(sigma, seen.grad_covariance, 0.5), device) for _ in range(repeats + WARM_UP)]
    return statistics.median(times[WARM_UP:])


def time_parts(step: Ours, device: torch.device, repeats: int) -> dict[str, float]:
    """Return the median seconds of each part of a MetaSAug step."""
    found: dict[str, list[float]] = {}

    def timed(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            kept: list[Any] = []
            found.setdefault(name, []).append(measure(lambda: kept.append(function(*args, **kwargs)), device))
            return kept[0]

        return call

    names = ("gradients", "virtual_step", "mixed_gradient", "head_gradient")  # the last takes the place of the others
    functions = {name: getattr(meta_gradient, name) for name in names}
    passes = {"plain": "forward", "shared": "forward: shared", "moved": "forward: meta", "directional": "directional pass"}
    if step.kind == "metasaug":
        del passes["plain"]  # which `shared` calls
    for method, name in passes.items():
        setattr(step.passes, method, timed(name, getattr(step.passes, method)))
    step.optimizer.step = timed("optimizer", step.optimizer.step)  # type: ignore[method-assign]
    step.estimator.update = timed("class statistics", step.estimator.update)  # type: ignore[method-assign]
    try:
        for name, function in functions.items():
            setattr(meta_gradient, name, timed(name, function))
        whole = [measure(step, device) for _ in range(repeats + WARM_UP)][WARM_UP:]
    finally:
        for name, function in functions.items():
            setattr(meta_gradient, name, function)
    if backward := found.pop("gradients", None):
        found |= {"backward: virtual": backward[::2], "backward: meta": backward[1::2]}
    parts = {name: statistics.median(values[-repeats:]) for name, values in found.items()}
    rest = statistics.median(whole) - sum(parts.values())
    return {**parts, "backward: real, losses, meta batch": rest}
