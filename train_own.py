#!/usr/bin/env python3
"""Train a classifier of your own long-tailed images, on a network that others have trained, or of features that you have.

A folder with a folder of photographs for each class is all that is needed; a fifth of each class is kept for tests:
  python3 train_own.py --data_root photographs
  python3 train_own.py --data_root photographs --backbone efficientnet_b0
Folders that are split already (photographs/train/<class>/*, photographs/val/<class>/*), or lists:
  python3 train_own.py --data_root photographs --train_list train.txt --val_list val.txt
Features of any kind, in a file with features (N, A), labels (N,) and split (N,) of train and val:
  python3 train_own.py --features embeddings.npz
The network stays as it is: its features are computed once and kept, and a linear head is made of them, by logistic
regression minus the log prior, whose constants are chosen by folds over the training images. MetaSAug is one flag away,
--way metasaug; scripts/compare_own.py says whether it is worth it. With a GPU or several the whole network can be trained:
  python3 train_own.py --data_root photographs --finetune --batch_size 32 --amp bf16
Afterwards:
  python3 predict.py --checkpoint_path checkpoint/ours/own/head_last.pth.tar new_photographs --out predictions.csv
"""

if __name__ == "__main__":
    from harness.before_loading import prepare_process
    prepare_process(help_of="heads.run_flags:GroupFlags,HeadWords")

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch

from datasets.image_check import check_readable
from harness.errors import run_main
from harness.process_group import Group, process_group
from harness.run import Run
from harness.weights import network_weights
from heads.backbone import make_head, trained_part
from heads.choosing import open_folds
from heads.feature_scale import scaled_batches
from heads.finetune import image_shares, network_task
from heads.folds import FOLDS
from heads.head_training import begin, fitted_task, make_task, train_epochs
from heads.own_flags import OwnFlags, parse_own
from heads.own_sources import OpenRows, Source, read_source
from heads.run_flags import parse_group
from heads.ways import DEFAULT_WAY, RECIPE, begin_head


def with_constants(flags: OwnFlags, source: Source, rows: OpenRows, group: Group, run: Run) -> OwnFlags:
    """Return the flags with the constants that folds over the training images choose; their scores are kept."""
    if not flags.by_folds:
        return flags
    folds = open_folds(flags, source, rows(source.sets.trained)[0], group)
    chosen = folds.choose(flags.way)
    run.say(f"{chosen.words}: {chosen.reached} (mean over classes, {FOLDS} folds over the training images)")
    return replace(flags, **group.broadcast_object(chosen.constants))


def train(flags: OwnFlags, group: Group, read: Callable[[], Source]) -> None:
    """Make a head at once or by steps, or train all of a network; see `heads.ways` and `heads.head_training`.

    `read` reads what is trained on.
    """
    with Run(flags, flags.folder, group) as run:  # keeps a second run off these files
        source = group.agree(read, lambda made: {**flags.facts(), **made.digests(), "PyTorch": torch.__version__})
        source = source.without_bad(flags, group)  # test, meta and held-out images are drawn from those that can be read
        sets = source.sets
        with run.stoppable("while computing features and choosing hyperparameters; finished work is kept"):
            if flags.finetune:
                task = network_task(flags, source, group)
                batches, scale = image_shares(flags, source, task, group)
            else:
                rows = source.open_rows(flags, group)
                flags = run.flags = with_constants(flags, source, rows, group, run)
                head = make_head(len(sets.cls_num_list), flags.seed, source.features)
                task = make_task(flags, sets, head, group, flags.logit_adjust)
                task = task if flags.fit is None else fitted_task(task, flags.fit, flags.constants)
                batches, scale = scaled_batches(flags, sets, rows, group, task.batch_size)

        def saved() -> dict[str, Any]:
            """Return the network with a head for features as they come, while the one that is trained is for scaled ones."""
            last = scale.folded(task.head, task.subtracted)
            whole = source.backbone if flags.whole else None
            weights = network_weights(trained_part(last)) if whole is None else whole.whole(last)
            transform = "none" if flags.transform == "standard" else flags.transform  # that one is in the weights
            return {"state_dict": weights, "estimator": task.estimator.state_dict(), "transform": transform}

        subject, facts = source.subject(flags), source.facts(flags.whole)
        begin(run, flags, task, group, subject, source.digests(), saved, facts)
        if flags.way == RECIPE and not flags.finetune:
            run.say(f"note: flags of steps were given, so steps of SGD make the head, not --way {DEFAULT_WAY}")
        checks = run.is_new and flags.finetune and not flags.skip_bad  # features are only computed of what can be read
        if checks and source.backbone is not None:
            with run.stoppable("while checking images"):
                check_readable(sets.parts.values(), group, source.backbone.prepared.resize_size)
        if run.is_new and flags.constants and flags.fit is None:  # steps begin where the way before ends
            plain = scale(torch.from_numpy(rows(sets.trained)[0]).float())
            begin_head(flags.way, task.head, plain, torch.from_numpy(sets.trained.targets), flags.constants)
        train_epochs(run, flags, task, batches, group)  # the recipe


def main() -> None:
    """Find the other processes, read the flags with them, train."""
    found = parse_group()
    with process_group(found.gpu, found.no_cuda, found.local_rank, found.timeout) as group:
        flags = group.agree(parse_own, OwnFlags.facts)
        train(flags, group, lambda: read_source(flags))


if __name__ == "__main__":
    run_main(main)
