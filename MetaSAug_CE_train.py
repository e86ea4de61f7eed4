#!/usr/bin/env python3
"""Train MetaSAug with the cross-entropy loss on a long-tailed image set: the recipe of MetaSAug_LDAM_train.py, no margins.

One cell of the published table (error 42.15 on CIFAR-100-LT, imbalance ratio 20, is the published figure):
  python3 MetaSAug_CE_train.py --gpu 0 --lr 0.1 --lam 0.75 --imb_factor 0.05 --dataset cifar100 --num_classes 100 \
      --save_name MetaSAug_cifar100_CE_imb0.05 --idx 1
To compare with: --stage2 isda (no meta-learning), reweight (no augmentation either) or none (plain cross-entropy).
"""

if __name__ == "__main__":
    from harness.before_loading import prepare_process
    prepare_process(help_of="harness.flags:TrainingFlags")

from harness.errors import run_main
from harness.training_flags import parse_training
from loss import MetaSAugCE
from MetaSAug_LDAM_train import train

if __name__ == "__main__":
    run_main(lambda: train(parse_training(), MetaSAugCE, "CE"))
