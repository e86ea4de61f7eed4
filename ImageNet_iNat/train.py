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
from collections.abc import Mapping
from pathlib import Path

sys.path.insert(1, str(Path(__file__).resolve().parent.parent))  # the method and the harness, right after this folder

if __name__ == "__main__":
    from harness.before_loading import prepare_process
    prepare_process(help_of="heads.run_flags:GroupFlags,LargeFlags")

import torch
from torch import nn

import head_flags
from datasets.drawn_sets import Sets
from datasets.image_check import check_readable, readable_sets
from datasets.large_sets import read_lists
from harness.checkpoint import load_checkpoint
from harness.errors import run_main
from harness.flags import SPLIT_NOTE, check_num_classes
from harness.process_group import Group, process_group
from harness.run import Run
from heads.backbone import FEATURES, fingerprint, load_network, published_form
from heads.batches import Batches, LiveViews, RowViews, drawn_images, extractor
from heads.feature_shards import FeatureCache
from heads.head_training import begin, make_task, train_epochs
from heads.preparation import preparation_of
from heads.run_flags import LargeFlags, parse_group


def read(flags: LargeFlags) -> tuple[Sets, nn.Module, nn.Linear, str]:
    """Return the lists, the backbone, the head and a digest of the backbone's weights."""
    f = flags
    own_lists = f.train_list, f.val_list, f.meta_list
    lists = read_lists(f.dataset, Path(f.data_root), *own_lists, f.val_fraction, f.val_seed)
    check_num_classes(f.num_classes, len(lists.train.class_names), lists.train.source)
    sets = f.drawn(lists)
    path = Path(f.pretrained)
    backbone, head = load_network(load_checkpoint(path), len(sets.cls_num_list), path, f.seed, f.fresh_head)
    return sets, backbone, head, fingerprint(backbone)


def must_agree(flags: LargeFlags, sets: Sets, _: nn.Module, head: nn.Linear, weights: str) -> dict[str, object]:
    """Return what must be the same on all processes."""
    digests = {"backbone weights": weights[:16], "head weights": fingerprint(head)[:16], "PyTorch": torch.__version__}
    return {**flags.facts(), **sets.digests(), **digests}


def train(flags: LargeFlags, group: Group) -> None:
    """Every epoch is stage 2: the backbone has had its plain stage. The rate is the same throughout, as published."""
    with Run(flags, flags.folder, group) as run:  # keeps a second run off these files
        sets, backbone, head, weights = group.agree(lambda: read(flags), lambda made: must_agree(flags, *made))
        if flags.skip_bad:  # all are read now, as meta images are drawn from those that can be
            sets = readable_sets(sets, flags.drawn, group)
        backbone = backbone.to(group.device)
        task = make_task(flags, sets, head, head, group)
        begin(
            run, flags, task, group, f"head of the ResNet-50 in {flags.pretrained}",
            {**sets.digests(), "backbone weights": weights},
            lambda: {"state_dict": published_form(backbone, task.head), "estimator": task.estimator.state_dict()},
            keep=flags.pretrained,
        )  # fmt: skip
        run.say(*([SPLIT_NOTE] if flags.split is not None else []))

        images, extract = drawn_images(sets, preparation_of(flags.dataset), flags.seed), extractor(backbone)
        parts: Mapping[str, LiveViews | RowViews]
        if flags.cache_features:
            sizes = FEATURES, group, flags.test_batch_size, flags.workers
            cache = FeatureCache(flags.cache_folder, extract, weights, *sizes)
            needed = {name: part for name, part in images.items() if name != "meta" or flags.needs_meta}
            with run.stoppable("while computing features; those already written are kept"):
                parts = cache.views(needed, flags.cache_features)
        else:
            if run.is_new and not flags.skip_bad:
                check_readable(sets.parts.values(), group)
            parts = {name: LiveViews(part, extract, flags.workers) for name, part in images.items()}
        batches = Batches(parts, group, task.batch_size, flags.test_batch_size, flags.seed)
        train_epochs(run, flags, task, batches, group)  # the recipe


def main() -> None:
    """Find the other processes, read the flags with them, train."""
    found = parse_group()
    with process_group(found.gpu, found.no_cuda, found.local_rank, found.timeout) as group:
        flags = group.agree(head_flags.parse_training, LargeFlags.facts)
        train(flags, group)


if __name__ == "__main__":
    run_main(main)
