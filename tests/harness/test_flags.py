"""Names, short forms and defaults of the published flags; what is said of values that make no sense."""

from dataclasses import asdict

import pytest
import torch
from support.refusals import wrong

from harness.devices import choose_device
from harness.flags import TrainingFlags, free_flags
from harness.training_flags import parse_training
from heads.run_flags import HeadWords
from MetaSAug_LDAM_train import learning_rate

PUBLISHED = {
    "dataset": "cifar100", "imb_factor": 0.005, "batch_size": 100, "num_meta": 10, "test_batch_size": 100, "epochs": 200,
    "lr": 0.1, "momentum": 0.9, "nesterov": True, "weight_decay": 5e-4, "no_cuda": False, "seed": 42, "lam": 0.25,
    "gpu": 0, "meta_lr": 0.1,
}  # fmt: skip
OURS = {"arch": "resnet32", "meta_start": 160, "stage2": "metasaug"}
SAID = {"batch_size": 7, "test_batch_size": 8, "weight_decay": 0.5, "no_cuda": True, "save_name": "s", "print_freq": 3,
        "lr": 0.2, "meta_lr": 0.3, "data_root": "d_-", "nesterov": False}  # fmt: skip


def parse(line):
    return parse_training(line.split())


@pytest.mark.parametrize(
    ("line", "values"),
    [
        ("", PUBLISHED | OURS),
        ("--dataset cifar10", {"imb_factor": 0.005}),
        ("--dataset digits", {"imb_factor": 0.1}),
        ("--dataset folder", {"imb_factor": None}),
        ("--dataset folder --imb_factor 0.5", {"imb_factor": 0.5}),
        ("--nesterov True", {"nesterov": True}),
        ("--batch-size 7 --test_batch_size=8 --weight_decay 0.5 --no_cuda --save-name s -p 3 --learning-rate 0.2 "
         "--meta-lr 0.3 --data-root d_- --nesterov False", SAID),
        ("--batch_size 7 --test-batch-size=8 --wd 0.5 --no-cuda --save_name s --print_freq 3 --lr 0.2 --meta_lr 0.3 "
         "--data_root d_- --nesterov false", SAID),
        *((f"--epochs {epochs}", {"meta_start": first}) for epochs, first in ((30, 24), (2, 1), (1, 0))),
    ],
)  # fmt: skip
def test_defaults_spellings_and_short_forms(line, values):
    assert asdict(parse(line)).items() >= values.items()


def test_only_flags_that_leave_the_outcome_alone_may_differ_at_resume():
    free = free_flags(TrainingFlags)
    assert parse("--seed 7").binding()["--seed"] == 7
    assert parse("").binding().keys() == {f"--{name}" for name in asdict(parse("")) if name not in free}
    assert " ".join(sorted(free)) == (
        "cuda_graphs data_root epochs gpu idx meta_start_given no_cuda num_classes print_freq resume save_every save_name "
        "skip_bad split stage1 threads workdir"
    )
    assert " ".join(sorted(free_flags(HeadWords) - free)) == (
        "cache_dir meta_list pretrained train_list val_fraction val_list val_seed whole workers"
    )


def test_split_is_taken_and_said_to_be_without_effect(capsys):
    assert parse("--split 1000") == parse("")
    assert "--split has no effect" in capsys.readouterr().out


@pytest.mark.parametrize(("epochs", "first", "second"), [(200, 160, 180), (30, 24, 27)])
def test_schedule_is_the_published_one_at_200_epochs_and_scales(epochs, first, second):
    rates = [0.1] * first + [0.001] * (second - first) + [1e-5] * (epochs - second)
    assert [learning_rate(0.1, epoch, epochs) for epoch in range(epochs)] == pytest.approx(rates)


def test_devices(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert choose_device(1, no_cuda=False) == torch.device("cuda", 1)
    assert "2 CUDA devices" in wrong(choose_device, 2, no_cuda=False)
