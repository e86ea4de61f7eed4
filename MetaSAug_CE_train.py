#!/usr/bin/env python3
"""Train MetaSAug with the cross-entropy loss on a long-tailed image set.

One cell of the published table (error 42.15 on CIFAR-100-LT, ratio 20, is the published figure):
  python3 MetaSAug_CE_train.py --gpu 0 --lr 0.1 --lam 0.75 --imb_factor 0.05 --dataset cifar100 --num_classes 100 \
      --save_name MetaSAug_cifar100_CE_imb0.05 --idx 1
To compare with: --stage2 isda (no meta-learning), reweight (no augmentation either) or none (plain cross-entropy):
  python3 MetaSAug_CE_train.py --dataset digits --imb_factor 0.02 --epochs 20 --stage2 none --save_name plain
Own images in my/train/<class>/* and my/test/<class>/*:
  python3 MetaSAug_CE_train.py --dataset folder --data_root my
"""

import loss
import options
import training
from errors import run_main


def main() -> None:
    """Two stages: plain cross-entropy, then MetaSAug with class-balanced cross-entropy, or what --stage2 says."""
    flags = options.parse_training(__doc__)
    with training.training_run(flags, loss_name="CE") as run:
        criterion = loss.MetaSAugCE(run.cls_num_list).to(run.device)
        for epoch in run.stage1_epochs:
            run.cross_entropy_epoch(epoch)
        for epoch in run.stage2_epochs:
            run.stage2_epoch(epoch, criterion)
        run.finish()


if __name__ == "__main__":
    run_main(main)
