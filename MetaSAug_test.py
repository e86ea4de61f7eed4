#!/usr/bin/env python3
"""Test a checkpoint: a released one, or one that a training script wrote.

  python3 MetaSAug_test.py --dataset cifar10 --imb_factor 0.005 --checkpoint_path checkpoint/ours/0/name_ckpt.pth.tar

prints for instance "Dataset: cifar10  Imb_factor: 200  Accuracy: 77.35  Error: 22.65", tabs between (the published figure
of that cell), then the accuracy of each shot group and class. Groups need the training images of each class: our
checkpoints hold them; for a released one they follow from --dataset, --imb_factor and --num_meta. With --logit_adjust TAU
all of it is of logits adjusted for the long tail (arXiv 2007.07314, eq. 9).
"""

if __name__ == "__main__":
    from harness.before_loading import prepare_process
    prepare_process(help_of="harness.command_flags:CifarTestFlags")

import sys
from collections.abc import Sequence
from pathlib import Path

import torch

from data_utils import get_img_num_per_cls, plain_batches
from datasets.pictures import unreadable
from datasets.small_sets import PUBLISHED_FOLDERS, read_images
from harness.checkpoint import load_checkpoint
from harness.command_flags import CifarTestFlags
from harness.devices import choose_device
from harness.errors import run_main
from harness.evaluation import adjustment_notes, evaluate, prior_counts
from harness.flag_parser import parse_flags
from harness.flags import stage1_note
from harness.metrics import percent, shot_of, shots_line
from harness.progress import progress
from harness.text import printable, say
from harness.training_flags import tested_set
from inference.trained import restored
from loss import logit_adjustment


def main() -> None:
    """Load, evaluate, print."""
    args = parse_flags(CifarTestFlags)
    device = choose_device(args.gpu, args.no_cuda)
    path = Path(args.checkpoint_path)
    state = load_checkpoint(path)
    dataset, imb_factor = tested_set(state, args.dataset, args.imb_factor)
    test = read_images(dataset, args.data_root, train=False, class_names=state.get("class_names"))
    if test.faults:
        raise unreadable(test.faults, len(test) + len(test.faults), skippable=False)
    classes = len(test.class_names)
    model = restored(state, path, args.arch, classes)
    counts = state.get("cls_num_list")
    if counts is None and dataset in PUBLISHED_FOLDERS:  # a released checkpoint
        counts = get_img_num_per_cls(dataset, imb_factor, args.num_meta * classes)
    tau = args.logit_adjust
    subtracted = logit_adjustment(prior_counts(state, counts, path), tau).to(device) if tau else 0.0  # (C,)
    model.to(device).to(memory_format=torch.channels_last)

    batches, total = plain_batches(test.to(device), args.test_batch_size), -(-len(test) // args.test_batch_size)
    shown = progress(batches, total, "testing", file=sys.stderr)
    tested = evaluate(lambda images: model(images)[1] - subtracted, shown)  # the network is in eval mode
    tested.check(path)
    result = tested.accuracy(counts or [0] * classes)

    fields = [f"Dataset: {dataset}", f"Accuracy: {result.overall:.2f}", f"Error: {100 - result.overall:.2f}"]
    fields += [f"Mean over classes: {result.mean_over_classes:.2f}"] if result.uneven else []
    if imb_factor is not None:
        fields.insert(1, f"Imb_factor: {1 / imb_factor:g}")
    say(fields, *stage1_note(state.get("flags", {}), state.get("epoch")), *adjustment_notes(tau, state))
    if counts:
        say(f"Accuracy per shot: {shots_line(result.per_shot)}")
    say(f"Macro-F1: {percent(result.macro_f1)}  calibration error (ECE): {percent(result.ece)}")
    print_classes(test.class_names, counts, result.per_class)


def print_classes(names: Sequence[str], counts: Sequence[int] | None, per_class: Sequence[float]) -> None:
    """Print a line a class: name, training images, shot group, accuracy."""
    width = max(map(len, map(printable, names)))
    for k, (name, value) in enumerate(zip(names, per_class, strict=True)):
        trained = f"{counts[k]:6} training images, {shot_of(counts[k]):6}" if counts else ""
        say(f"  {printable(name):{width}} {trained} {percent(value):>7}")


if __name__ == "__main__":
    run_main(main)
