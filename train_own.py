#!/usr/bin/env python3
"""Train a classifier of your own long-tailed images, on a network that others have trained, or of features that you have.

A folder with a folder of photographs for each class is all that is needed; a fifth of each class is kept for tests:
  python3 train_own.py --data_root photographs
  python3 train_own.py --data_root photographs --backbone efficientnet_b0
Folders that are split already (photographs/train/<class>/*, photographs/val/<class>/*), or lists:
  python3 train_own.py --data_root photographs --train_list train.txt --val_list val.txt
Features of any kind, in a file with features (N, A), labels (N,) and split (N,) of train and val:
  python3 train_own.py --features embeddings.npz
The network stays as it is: its features are computed once and kept, and a linear head is trained on them, with plain
cross-entropy for two thirds of the epochs, then with MetaSAug. --stage2 and --balance choose other ways. With a GPU or
several the whole network can be trained by the same recipe:
  python3 train_own.py --data_root photographs --finetune --micro_batch 32 --amp bf16
Afterwards:
  python3 predict.py --checkpoint_path checkpoint/ours/own/head_last.pth.tar new_photographs --out predictions.csv
"""

if __name__ == "__main__":
    from harness.before_loading import prepare_process
    prepare_process()

from collections.abc import Callable
from functools import partial
from typing import Any

import torch

from frozen.backbone import make_head
from frozen.feature_tables import FeatureScale
from frozen.finetune_training import micro_batches, network_notes, network_task, step_cost
from frozen.head_training import GlobalBatches, Task, head_task, introduction, train_epochs
from frozen.own_flags import OwnFlags, parse_own
from frozen.own_sources import ImageSource, Source, head_weights, read_source
from frozen.run_flags import parse_group
from harness.checkpoint import BACKBONE
from harness.errors import run_main
from harness.process_group import Group, process_group
from harness.run import Run


def must_agree(flags: OwnFlags, source: Source) -> dict[str, object]:
    """Return what must be the same on all processes."""
    return {**flags.facts(), **source.digests(), "PyTorch": torch.__version__}


def task_of(
    flags: OwnFlags, source: Source, group: Group
) -> tuple[Task[Any], Callable[[], tuple[GlobalBatches[Any], FeatureScale]]]:
    """Return what is trained, and what makes its batches and says how features are scaled."""
    if flags.finetune:
        assert isinstance(source, ImageSource)
        network = network_task(flags, source, group)
        return network, partial(micro_batches, flags, source, network, group)
    head = make_head(len(source.sets.cls_num_list), flags.seed, source.features)
    task = head_task(flags, source.sets, head, group, flags.stages, flags.logit_adjust)
    return task, partial(source.batches, flags, group, task.batch_size)


def train(flags: OwnFlags, group: Group, read: Callable[[], Source], whole: bool = True) -> None:
    """Train a head, or all of a network: plain cross-entropy, then stage 2; see `frozen.head_training`.

    `read` reads what is trained on. With `whole` the checkpoints hold the whole network, else the head alone.
    """
    with Run(flags, flags.folder, group) as run:  # keeps a second run off these files
        source = group.agree(read, lambda made: must_agree(flags, made))
        if flags.skip_bad:  # all are read now, as test, meta and held-out images are drawn from those that can be
            source = source.without_bad(flags, group)
        sets = source.sets
        task, open_batches = task_of(flags, source, group)
        scales: list[FeatureScale] = []

        def saved() -> dict[str, Any]:
            """Return the network with a head for features as they come, while the one that is trained is for scaled ones."""
            last = scales[0].folded(task.head, task.subtracted)
            weights = source.state(last) if whole else head_weights(last)
            return {"state_dict": weights, "estimator": task.estimator.state_dict()}

        run.begin(  # goes on with an interrupted run, or ends here if it is finished
            task.trained, task.optimizer, task.estimator, keep=flags.pretrained,
            extra={"loss": "CE", "global batch size": task.batch_size, **source.digests()},
            facts={
                "dataset": flags.dataset, **(source.facts() if whole else {BACKBONE: None}), **sets.facts(),
                "global_batch_size": task.batch_size, **flags.drawn_facts(sets),
            },
            steps=lambda _: task.steps, saved=saved, cost=partial(step_cost, flags),
        )  # fmt: skip
        run.say(*introduction(flags, task, group, source.subject(flags)))
        run.say(*(network_notes(flags, group) if flags.finetune else ()))
        first = "images were checked" if flags.finetune else "features were computed; those computed so far are kept"
        with run.stoppable(f"while {first}"):
            batches, scale = open_batches()
        scales.append(scale)
        train_epochs(run, flags, task, batches, group)  # the recipe


def main() -> None:
    """Find the other processes, read the flags with them, train."""
    found = parse_group()
    with process_group(found.gpu, found.no_cuda, found.local_rank, found.timeout) as group:
        flags = group.agree(lambda: parse_own(__doc__), lambda made: made.facts())
        train(flags, group, lambda: read_source(flags))


if __name__ == "__main__":
    run_main(main)
