#!/usr/bin/env python3
"""What bfloat16 changes: the training loss after some steps from the same start, and a half-trained network's meta gradient.

  python3 benchmarks/precision.py [--steps 50] [--plain 60] [--batch-size 64] [--arch resnet32] [--json FILE]

Long-tailed digits: `--plain` steps of cross-entropy in float32, then from there `--steps` MetaSAug steps once in
float32 and once in bfloat16, on the same batches. Losses are means of the last ten steps. `--lr` is that of the MetaSAug
steps; the published stage 2 has 0.001 (0.1 times 0.01).
"""

from __future__ import annotations

import argparse
import copy
import statistics
import sys
from collections.abc import Iterator
from functools import partial
from itertools import count, islice
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.common import write_rows
from data_utils import build_dataset, epoch_batches, meta_batches
from datasets.drawn_sets import Sets
from datasets.small_sets import ImageSet
from harness.errors import run_main
from harness.flags import Parser, require
from loss import EstimatorCV, MetaSAugLDAM
from meta_step import MetaStepResult, meta_step
from passes import Passes
from resnet import make_model

PLAIN_LR = 0.05


def batches(data: Sets[ImageSet], batch_size: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield training batches without end."""
    for epoch in count():
        yield from epoch_batches(data.train, batch_size, 0, epoch)


def make_optimizer(model: nn.Module, lr: float) -> torch.optim.Optimizer:
    """Return the published optimizer."""
    return torch.optim.SGD(model.parameters(), lr, momentum=0.9, nesterov=True, weight_decay=5e-4, fused=True)


def train_plain(model: nn.Module, data: Sets[ImageSet], batch_size: int, steps: int) -> None:
    """Take plain cross-entropy steps."""
    optimizer = make_optimizer(model, PLAIN_LR)
    for x, y in islice(batches(data, batch_size), steps):
        optimizer.zero_grad()
        F.cross_entropy(model(x)[1], y).backward()
        optimizer.step()


def metasaug_steps(
    model: nn.Module, data: Sets[ImageSet], batch_size: int, steps: int, lr: float, amp: torch.dtype | None
) -> list[MetaStepResult]:
    """Return what each step saw, from a copy of `model`."""
    model = copy.deepcopy(model)
    criterion, estimator = MetaSAugLDAM(data.cls_num_list), EstimatorCV(64, len(data.cls_num_list))
    optimizer, passes = make_optimizer(model, lr), Passes(model, amp)
    meta = meta_batches(data.meta, batch_size, 0)
    pairs = islice(zip(batches(data, batch_size), meta, strict=False), steps)
    step = partial(
        meta_step, model, criterion, estimator, optimizer, lam_t=0.6, virtual_lr=lr, meta_lr=0.1, passes=passes
    )  # fmt: skip
    return [step(batch, meta) for batch, meta in pairs]


def compare_gradients(model: nn.Module, data: Sets[ImageSet], batch_size: int, lr: float) -> tuple[float, float]:
    """Return relative distance and cosine of the second step's meta gradient; at the first the covariances are zero."""
    seconds = (metasaug_steps(model, data, batch_size, 2, lr, amp)[-1] for amp in (None, torch.bfloat16))
    exact, ours = (second.grad_covariance.flatten() for second in seconds)
    return float((ours - exact).norm() / exact.norm()), float(F.cosine_similarity(ours, exact, dim=0))


def main() -> None:
    """Train, compare, print, write the rows."""
    parser = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--plain", type=int, default=60)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--lr", type=float, default=0.001)
    parser.add_argument("--arch", default="resnet32")
    parser.add_argument("--json", type=Path, help="write the rows to this file")
    args = parser.parse_args()
    require(args.steps >= 10, "--steps", args.steps, "at least 10")
    require(args.batch_size >= 1, "--batch-size", args.batch_size, "at least 1")
    require(args.plain >= 0, "--plain", args.plain, "0 or more")
    data = build_dataset("digits", 10, 0.1)
    model = make_model(args.arch, 10).to(memory_format=torch.channels_last).train()
    train_plain(model, data, args.batch_size, args.plain)
    distance, cosine = compare_gradients(model, data, args.batch_size, args.lr)
    losses = {}
    for name, amp in (("float32", None), ("bf16", torch.bfloat16)):
        seen = metasaug_steps(model, data, args.batch_size, args.steps, args.lr, amp)
        losses[name] = statistics.mean(float(result.loss) for result in seen[-10:])
    change = losses["bf16"] / losses["float32"] - 1
    print(f"{args.arch} on digits, after {args.plain} plain steps: the bf16 meta gradient is {distance:.4f} from float32's "
          f"(relative norm), cosine {cosine:.5f}")  # fmt: skip
    print(f"after {args.steps} MetaSAug steps at rate {args.lr}: training loss {losses['float32']:.5f} in float32, "
          f"{losses['bf16']:.5f} in bf16 ({100 * change:+.2f} %)")  # fmt: skip
    row = {"name": "bf16", "relative_norm": distance, "cosine": cosine, "losses": losses, "change": change}
    write_rows([row], args.json)


if __name__ == "__main__":
    run_main(main)
