"""What a training run says of itself before it begins."""

from __future__ import annotations

import torch

from data_utils import LongTailedData
from options import STAGE2, TrainingFlags
from passes import lacks_bf16


def stages(flags: TrainingFlags, first_epoch: int) -> tuple[range, range]:
    """Return the epochs of stage 1 and those of stage 2, from `first_epoch` on."""
    split, end = min(flags.meta_start, flags.epochs), flags.epochs
    return range(first_epoch, split), range(max(first_epoch, flags.meta_start), end)


def describe(
    flags: TrainingFlags, loss_name: str, device: torch.device, data: LongTailedData, first_epoch: int, going_on: str | None
) -> None:
    """Print what is trained, on what, and the two stages; `going_on` says from where an interrupted run was taken."""
    f, names = flags, data.train.class_names
    print(f"{f.arch} on {device}, {f.dataset}, {len(names)} classes, MetaSAug with {loss_name}")
    print(f"training images a class: {data.cls_num_list}")
    held = f"  held out {len(data.heldout.targets)}" if data.heldout else ""
    print(f"training {sum(data.cls_num_list)}  meta {len(data.meta.targets)}{held}  test {len(data.test.targets)}")
    if f.amp == "bf16" and lacks_bf16(device):
        print("note: this device has no bfloat16 arithmetic, so --amp bf16 is slower than without")
    for note in data.notes:
        print(f"note: {note}")
    if going_on:
        print(f"going on in epoch {first_epoch} {going_on}")
    elif f.stage1:
        print(f"stage 1 to epoch {first_epoch - 1}: taken from {f.stage1}")
    titles = "stage 1, plain cross-entropy", f"stage 2, {STAGE2[f.stage2]}"
    for title, left in zip(titles, stages(f, first_epoch), strict=True):
        print(f"{title}: {f'epochs {left[0]} to {left[-1]}' if left else 'none'}", flush=True)
