#!/usr/bin/env python3
"""Train MetaSAug with the LDAM loss on a long-tailed image set.

Published command (error 42.47 on CIFAR-100-LT, imbalance ratio 20, is the published figure):
  python3 MetaSAug_LDAM_train.py --gpu 0 --lr 0.1 --lam 0.75 --imb_factor 0.05 --dataset cifar100 --num_classes 100 \
      --save_name MetaSAug_cifar100_LDAM_imb0.05 --idx 1
Without any data, in a minute or two on a CPU:
  python3 MetaSAug_LDAM_train.py --dataset digits --imb_factor 0.02 --epochs 20
Your own images in my/train/<class>/* and my/test/<class>/*:
  python3 MetaSAug_LDAM_train.py --dataset folder --data_root my
"""

if __name__ == "__main__":
    from harness.before_loading import prepare_process
    prepare_process(help_of="harness.flags:TrainingFlags")

import torch

from covariance_rules import RULES
from data_utils import build_dataset, epoch_batches, meta_batches, plain_batches
from harness.cuda_graphs import StepTaker
from harness.devices import choose_device
from harness.errors import blamed_on, run_main
from harness.evaluation import validate
from harness.flags import STAGE2, TrainingFlags, check_num_classes, choice_words, effect_notes
from harness.process_group import Group
from harness.run import Run
from harness.training_flags import parse_training
from loss import EstimatorCV, MetaSAugLDAM, augmentation_note, covariance_traces, moved_note
from meta_layers import head_of
from meta_step import META_COST, augmented_step, meta_step, plain_step
from passes import Passes
from resnet import make_model


def learning_rate(lr: float, epoch: int, epochs: int) -> float:
    """Return `lr`, times 0.01 from `epoch` 160 of 200 and again from 180, both rounded up for other lengths."""
    return lr * 0.01 ** sum(epoch * 200 >= drop * epochs for drop in (160, 180))


def train(flags: TrainingFlags, make_criterion: type = MetaSAugLDAM, loss_name: str = "LDAM") -> None:
    """Stage 1 is plain cross-entropy; stage 2, from --meta_start on, is MetaSAug or what --stage2 says."""
    device = choose_device(flags.gpu, flags.no_cuda)
    torch.set_num_threads(flags.threads or torch.get_num_threads())
    with Run(flags, flags.folder, Group(0, 1, device)) as run:  # keeps a second run off these files
        data = build_dataset(flags.dataset, flags.num_meta, flags.imb_factor, flags.data_root, flags.heldout, flags.skip_bad,
                             join_meta=flags.joins_meta, device=device)  # fmt: skip
        classes = len(data.cls_num_list)
        check_num_classes(flags.num_classes, classes, flags.data_root)
        with blamed_on("--arch"):
            model = make_model(flags.arch, classes, flags.seed).to(device).to(memory_format=torch.channels_last)
        optimizer = torch.optim.SGD(
            model.parameters(), flags.lr, flags.momentum, nesterov=flags.nesterov, weight_decay=flags.weight_decay,
            fused=device.type in ("cpu", "cuda"),
        )  # fmt: skip
        criterion = make_criterion(data.stage2_counts, balance=flags.balance).to(device)
        estimator = EstimatorCV(head_of(model).in_features, classes).to(device)  # empty until stage 2
        passes = Passes(model, torch.bfloat16 if flags.amp == "bf16" else None)
        take = StepTaker(device, (model, criterion, estimator), flags.cuda_graphs == "on")  # as a CUDA graph
        flags = run.begin(  # goes on with an interrupted run, or ends here if it is finished
            model, optimizer, estimator, extra={"loss": loss_name, **data.digests()}, stage1=flags.stage1,
            facts={"arch": flags.arch, "dataset": flags.dataset, "imb_factor": flags.imb_factor, **data.facts()},
            cost=lambda epoch: META_COST[flags.virtual] if epoch >= flags.meta_start and flags.stage2 == "metasaug" else 1,
        )  # fmt: skip
        counts = f"training images a class: {data.cls_num_list}"
        run.say(f"{flags.arch} on {device}, {flags.dataset}, {classes} classes, loss {loss_name}", counts, *data.about())
        then = f"stage 2 from epoch {flags.meta_start} on: {STAGE2[flags.stage2]}{choice_words(flags)}"
        run.say(f"epochs: {flags.epochs}, {then if flags.meta_start < flags.epochs else 'no stage 2'}", *effect_notes(flags))

        meta = meta_batches(data.meta, flags.batch_size, flags.seed, run.meta_taken)
        for epoch in run.epochs:
            second = epoch >= flags.meta_start
            stage, method, rate = (2, flags.stage2, flags.lr * flags.stage2_lr) if second else (1, "none", flags.lr)
            # The virtual step's rate drops an epoch after the real one's, as published.
            lr, virtual_lr = (learning_rate(rate, now, flags.epochs) for now in (epoch + 1, epoch))
            optimizer.param_groups[0]["lr"] = lr
            lam_t = 0.0 if method == "reweight" else flags.lam * epoch / flags.epochs  # λ_t
            model.train()
            images = (data.train, data.trained)[second]
            batches = epoch_batches(images, flags.batch_size, flags.seed, epoch, run.meter.steps)
            steps = -(-len(images) // flags.batch_size)
            for batch in run.watch(batches, f"epoch {epoch}/{flags.epochs} stage {stage}", steps):
                meta_batch = next(meta) if method == "metasaug" or (second and flags.trains_on_meta) else None
                parts = model, criterion, estimator, optimizer, batch, meta_batch
                if method == "metasaug":
                    seen = take(
                        meta_step, *parts, lam_t=lam_t, virtual_lr=virtual_lr, meta_lr=flags.step_size, passes=passes,
                        rule=RULES[flags.meta_update], virtual=flags.virtual, train_on_meta=flags.trains_on_meta,
                    )  # fmt: skip
                elif method in ("isda", "reweight"):
                    seen = take(augmented_step, *parts, lam_t=lam_t, passes=passes)
                elif method == "none":
                    seen = take(plain_step, passes, optimizer, batch, meta_batch)
                else:
                    raise ValueError(f"networks are not trained by --stage2 {method}")
                run.after_step(seen, batch[1])
            values = {"stage": stage, "lr": lr}
            tested = validate(model, run.testing(plain_batches(data.test, flags.test_batch_size), len(data.test)))
            if held := data.heldout:  # the best epoch is chosen on these images
                heldout = validate(model, run.testing(plain_batches(held, flags.test_batch_size), len(held)))
                values["heldout_acc1"] = heldout.accuracy(data.cls_num_list).mean_over_classes
            moved = flags.step_size * run.meter.read_grad_trace() if run.meter.has_meta else None
            spread = covariance_traces(estimator, moved)
            run.after_epoch(tested, values, spread, stage2_from=flags.meta_start, picture=data.test.picture)
            if epoch == max(flags.meta_start, 1):  # the first of stage 2 with a λ_t
                run.say(*augmentation_note(head_of(model), estimator, lam_t))
            if epoch + 1 == flags.epochs:
                run.say(*moved_note(spread, flags.step_size_flag))


if __name__ == "__main__":
    run_main(lambda: train(parse_training()))
