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
Own images in my/train/<class>/* and my/val/<class>/*, with torchvision's weights:
  python3 train.py --dataset custom --data_root my --pretrained resnet50.pth --fresh_head --lr 0.01
"""

import sys
from pathlib import Path

sys.path.insert(1, str(Path(__file__).resolve().parent.parent))  # the root's rooms, right after this folder

import head_options
from errors import run_main
from head_training import head_run
from loss import MetaSAugCE
from process_group import process_group


def main() -> None:
    """Every epoch is MetaSAug: the backbone has had its plain stage."""
    found = head_options.parse_group()
    with process_group(found.gpu, found.no_cuda, found.local_rank, found.timeout) as group:
        flags = group.agree(lambda: head_options.parse_training(__doc__), lambda made: made.facts())
        with head_run(flags, group) as run:
            criterion = MetaSAugCE(run.cls_num_list).to(group.device)
            for epoch in run.epochs:
                run.train_epoch(epoch, criterion)
            run.finish()


if __name__ == "__main__":
    run_main(main)
