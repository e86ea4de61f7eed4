#!/usr/bin/env python3
"""Train MetaSAug's classifier on ImageNet-LT, iNaturalist or your own images, on the frozen ResNet-50 of a cRT checkpoint.

Published command, in this folder, four processes (errors of the publication: ImageNet-LT 52.33, iNaturalist 2018 30.50):
  python3 -m torch.distributed.launch --nproc_per_node=4 --master_port 53212 train.py --lr 0.0003 --meta_lr 0.1 \
      --workers 0 --batch_size 256 --epochs 20 --dataset ImageNet_LT --num_classes 1000 --data_root ../ImageNet
The same by torchrun, or as one process:
  torchrun --nproc_per_node=4 train.py --dataset ImageNet_LT --data_root ../ImageNet
  python3 train.py --dataset ImageNet_LT --data_root ../ImageNet
Without GPUs: compute the features once, then train the head from them:
  python3 train.py --dataset ImageNet_LT --data_root ../ImageNet --cache_features 1
What meta-learning adds is told by the same run with --stage2 isda, reweight or none, or with --meta_images train.
Your own images in my/train/<class>/* and my/val/<class>/*, with torchvision's weights; or in my/<class>/* alone:
  python3 train.py --dataset custom --data_root my --pretrained resnet50.pth --fresh_head --lr 0.01
  python3 train.py --dataset custom --data_root my --pretrained resnet50.pth --fresh_head --lr 0.01 --val_fraction 0.2
"""

import sys
from collections.abc import Iterator
from functools import partial
from itertools import islice
from pathlib import Path

sys.path.insert(1, str(Path(__file__).resolve().parent.parent))  # the method and the harness, right after this folder

if __name__ == "__main__":
    from harness.before_loading import prepare_process
    prepare_process()

import torch
from torch import nn

import head_flags
from covariance_rules import RULES
from frozen.backbone import FEATURES, fingerprint, load_network, published_form, read_weights, trained_part
from frozen.drawn_sets import Sets
from frozen.feature_cache import CachedFeatures, cached_features
from frozen.features import LiveFeatures, extractor
from frozen.head_step import augmented_head_step, head_step, plain_head_step
from frozen.image_check import check_readable, readable_sets
from frozen.large_sets import read_lists
from frozen.transforms import preparation_of
from harness.errors import run_main
from harness.evaluation import Batch, evaluate
from harness.flags import SPLIT_NOTE, choice_words, effect_notes
from harness.process_group import Group, process_group
from harness.progress import StepFigures
from harness.run import Run
from loss import EstimatorCV, MetaSAugCE, augmentation_note, covariance_traces, moved_note
from meta_step import STAGE2


def read(flags: head_flags.HeadFlags) -> tuple[Sets, nn.Module, nn.Linear, str]:
    """Return the lists, the backbone, the head and a digest of the backbone's weights."""
    f = flags
    own_lists = f.train_list, f.val_list, f.meta_list
    lists = read_lists(f.dataset, f.data_root, f.num_meta, f.num_classes, *own_lists, f.val_fraction, f.val_seed)
    sets = f.drawn(lists)
    path = Path(f.pretrained)
    head_flags.check_pretrained(path, f.dataset)
    backbone, head = load_network(read_weights(path)[0], len(sets.cls_num_list), path, f.seed, f.fresh_head)
    return sets, backbone, head, fingerprint(backbone)


def must_agree(flags: head_flags.HeadFlags, sets: Sets, _: nn.Module, head: nn.Linear, weights: str) -> dict[str, object]:
    """Return what must be the same on all processes."""
    digests = {"backbone weights": weights[:16], "head weights": fingerprint(head)[:16], "PyTorch": torch.__version__}
    return {**flags.facts(), **sets.digests(), **digests}


def introduction(flags: head_flags.HeadFlags, sets: Sets, group: Group, batch_size: int) -> list[str]:
    """Return lines that say what is trained, on what and where; `batch_size` is that of all processes together."""
    choices = choice_words(flags)
    where = f"on {group.device}, {group.world_size} process{'es' if group.world_size > 1 else ''}"
    return [
        f"{flags.dataset}, {len(sets.cls_num_list)} classes, head of the ResNet-50 in {flags.pretrained}, {where}",
        f"batch {flags.batch_size} a process, {batch_size} in all; so are meta batches, if there are as many images",
        *sets.about(),
        *([SPLIT_NOTE] if flags.split is not None else []),
        *([f"every epoch: {STAGE2[flags.stage2]}{choices}"] if choices or flags.stage2 != "metasaug" else []),
        *effect_notes(flags),
    ]


def take_step(
    flags: head_flags.HeadFlags, head: nn.Linear, criterion: MetaSAugCE, estimator: EstimatorCV,
    optimizer: torch.optim.Optimizer, batch: Batch, meta: Iterator[Batch], lam_t: float,
) -> StepFigures:  # fmt: skip
    """Take the step that --stage2 says, with the next meta batch if it needs one."""
    if flags.stage2 == "metasaug":
        return head_step(
            head, criterion, estimator, optimizer, batch, next(meta), lam_t=lam_t, virtual_lr=flags.lr,
            meta_lr=flags.step_size, rule=RULES[flags.meta_update], train_on_meta=flags.trains_on_meta,
        )  # fmt: skip
    extra_batch = next(meta) if flags.trains_on_meta else None
    if flags.stage2 == "none":
        return plain_head_step(head, optimizer, batch, extra_batch)
    return augmented_head_step(head, criterion, estimator, optimizer, batch, extra_batch, lam_t=lam_t)


def train(flags: head_flags.HeadFlags, group: Group) -> None:
    """Every epoch is stage 2: the backbone has had its plain stage. The rate is the same throughout, as published."""
    with Run(flags, flags.folder, group) as run:  # keeps a second run off these files
        sets, backbone, head, weights = group.agree(lambda: read(flags), lambda made: must_agree(flags, *made))
        if flags.skip_bad:  # all are read now, as meta images are drawn from those that can be
            sets = readable_sets(sets, flags.drawn, group, flags.workers)
        check = partial(check_readable, sets, group, flags.workers)
        backbone, head = backbone.to(group.device), head.to(group.device)
        counts, batch_size = sets.cls_num_list, flags.batch_size * group.world_size  # that of all processes together
        optimizer = torch.optim.SGD(
            head.parameters(), flags.lr, flags.momentum, nesterov=flags.nesterov, weight_decay=flags.weight_decay,
            fused=group.device.type in ("cpu", "cuda"),
        )  # fmt: skip
        steps = -(-len(sets.trained) // batch_size)
        criterion = MetaSAugCE(sets.stage2_counts, balance=flags.balance).to(group.device)
        estimator = EstimatorCV(FEATURES, len(counts), diagonal=True).to(group.device)
        run.begin(  # goes on with an interrupted run, or ends here if it is finished
            trained_part(head), optimizer, estimator, keep=flags.pretrained,
            extra={"loss": "CE", "global batch size": batch_size, **sets.digests(), "backbone weights": weights},
            facts={"dataset": flags.dataset, **sets.facts(), "global_batch_size": batch_size, **flags.drawn_facts(sets)},
            steps=lambda _: steps,
            saved=lambda: {"state_dict": published_form(backbone, head), "estimator": estimator.state_dict()},
        )  # fmt: skip
        run.say(*introduction(flags, sets, group, batch_size))

        sizes = batch_size, flags.test_batch_size, flags.workers
        live = LiveFeatures(sets, preparation_of(flags.dataset), extractor(backbone), group, *sizes, flags.seed)
        features: LiveFeatures | CachedFeatures = live
        if flags.cache_features:
            place = flags.cache_features, flags.cache_folder, weights, FEATURES
            with run.stoppable("while features were computed; those computed so far are kept"):
                features = cached_features(live, *place, check, flags.needs_meta)
        elif run.is_new:
            check()
        batches = features.train(run.epoch * steps + run.meter.steps)  # of one epoch after the other
        meta = run.interruptible(features.meta(run.meta_taken))
        first = run.epoch
        for epoch in run.epochs:
            if epoch == first and flags.val_fraction is not None and group.main:  # earlier files are set aside by now
                run.say(sets.write_lists(flags.folder, flags.save_name))
            lam_t = 0.0 if flags.stage2 == "reweight" else flags.lam * epoch / flags.epochs  # λ_t
            left = islice(batches, steps - run.meter.steps)
            for batch in run.watch(left, f"epoch {epoch}/{flags.epochs}"):
                seen = take_step(flags, head, criterion, estimator, optimizer, batch, meta, lam_t)
                run.after_step(seen, batch[1])
            tested = evaluate(head, run.testing(features.test(), len(sets.test)), group)
            values = {"lr": flags.lr, "test_acc5": tested.top5}
            if sets.heldout is not None:  # the best epoch is chosen on these images
                heldout = evaluate(head, run.testing(features.test("heldout"), len(sets.heldout)), group)
                values["heldout_acc1"] = heldout.accuracy(counts).mean_over_classes
            ends, moved = epoch + 1 == flags.epochs, flags.step_size * run.meter.read_grad_trace()
            spread = covariance_traces(estimator, moved if run.meter.has_meta else None) if ends else {}
            run.after_epoch(tested, values)
            if epoch == 1:  # the first with a λ_t
                run.say(*augmentation_note(head, estimator, lam_t))
            run.say(*moved_note(spread, lam_t, flags.step_size, flags.step_size_flag))


def main() -> None:
    """Find the other processes, read the flags with them, train."""
    found = head_flags.parse_group()
    with process_group(found.gpu, found.no_cuda, found.local_rank, found.timeout) as group:
        flags = group.agree(lambda: head_flags.parse_training(__doc__), lambda made: made.facts())
        train(flags, group)


if __name__ == "__main__":
    run_main(main)
