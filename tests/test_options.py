"""Names, short forms and defaults of the published flags; what is said of values that make no sense."""

import pytest
import torch

import options
import places
from errors import UserError

PUBLISHED = {
    "dataset": "cifar10", "batch_size": 100, "num_meta": 10, "test_batch_size": 100, "epochs": 200,
    "lr": 0.1, "momentum": 0.9, "nesterov": True, "weight_decay": 5e-4, "no_cuda": False, "seed": 42, "lam": 0.25,
    "gpu": 0, "meta_lr": 0.1,
}  # fmt: skip


def parse(*argv):
    return options.parse_training("", argv)


def test_defaults():
    flags = parse()
    for name, value in PUBLISHED.items():
        assert getattr(flags, name) == value, name
    assert (flags.arch, flags.meta_start, flags.imb_factor) == ("resnet32", 160, 0.1)


@pytest.mark.parametrize(
    "argv",
    [
        ["--batch-size", "7", "--test_batch_size=8", "--weight_decay", "0.5", "--no_cuda", "--save-name", "s", "-p", "3"],
        ["--batch_size", "7", "--test-batch-size=8", "--wd", "0.5", "--no-cuda", "--save_name", "s", "--print_freq", "3"],
    ],
)
def test_both_spellings_and_short_forms(argv):
    flags = parse(*argv, "--learning-rate", "0.2", "--meta-lr", "0.3", "--data-root", "d_-")
    assert (flags.batch_size, flags.test_batch_size, flags.weight_decay, flags.no_cuda) == (7, 8, 0.5, True)
    assert (flags.save_name, flags.print_freq, flags.lr, flags.meta_lr, flags.data_root) == ("s", 3, 0.2, 0.3, "d_-")


def test_a_flag_cannot_be_cut_short():
    """The shell scripts look for flags by their whole names."""
    for short in ("--imb", "--see", "--work"):
        with pytest.raises(UserError, match=short):
            parse(short, "1")


def test_nesterov_is_read_as_a_truth_value():
    assert not parse("--nesterov", "False").nesterov
    assert parse("--nesterov", "True").nesterov


def test_split_is_taken_and_said_to_be_without_effect(capsys):
    assert parse("--split", "1000") == parse()
    assert "--split has no effect" in capsys.readouterr().out


def test_a_folder_keeps_its_natural_counts():
    assert parse("--dataset", "folder").imb_factor is None
    assert parse("--dataset", "folder", "--imb_factor", "0.5").imb_factor == 0.5


def test_schedule_is_the_published_one_at_200_epochs_and_scales():
    rates = [options.learning_rate(0.1, e, 200) for e in (0, 159, 160, 179, 180, 199)]
    assert rates == pytest.approx([0.1, 0.1, 1e-3, 1e-3, 1e-5, 1e-5])
    assert parse("--epochs", "30").meta_start == 24
    assert parse("--epochs", "2").meta_start == 1
    assert [options.learning_rate(1, e, 2) for e in (0, 1, 2)] == pytest.approx([1, 1, 1e-4])
    assert [options.learning_rate(1, e, 30) for e in (23, 24, 26, 27)] == pytest.approx([1, 0.01, 0.01, 1e-4])


@pytest.mark.parametrize(
    ("argv", "named"),
    [
        (["--imb_factor", "0"], "--imb_factor 0.0"),
        (["--imb_factor", "1.5"], "--imb_factor 1.5"),
        (["--imb_factor", "nan"], "--imb_factor nan"),
        (["--num_meta", "0"], "--num_meta 0"),
        (["--batch-size", "0"], "--batch-size 0"),
        (["--test-batch-size", "-1"], "--test-batch-size -1"),
        (["--epochs", "0"], "--epochs 0"),
        (["--meta_start", "-1"], "--meta_start -1"),
        (["--lr", "0"], "--lr 0.0"),
        (["--lr", "inf"], "--lr inf"),
        (["--momentum", "1"], "--momentum 1.0"),
        (["--momentum", "0"], "--nesterov false"),
        (["--wd", "-1"], "--weight-decay -1"),
        (["--lam", "nan"], "--lam nan"),
        (["--meta_lr", "-0.1"], "--meta_lr -0.1"),
        (["--seed", "-1"], "--seed -1"),
        (["--seed", str(2**64)], "--seed 18446744073709551616"),
        (["--print-freq", "0"], "--print-freq 0"),
        (["--save_name", "a/b"], "--save_name 'a/b'"),
        (["--save_name", ""], "--save_name ''"),
        (["--idx", "../x"], "--idx '../x'"),
        (["--num_classes", "100"], "--num_classes 100 contradicts cifar10, which has 10"),
    ],
)
def test_values_that_make_no_sense_are_named(argv, named):
    with pytest.raises(UserError) as error:
        parse(*argv)
    assert named in str(error.value)


def test_an_output_folder_that_cannot_be_written_is_refused(tmp_path):
    (tmp_path / "checkpoint").write_text("a file")
    with pytest.raises(UserError, match="cannot be written"):
        places.output_folder(str(tmp_path), "0", "name")
    with pytest.raises(UserError, match="cannot be written"):
        places.output_folder(str(tmp_path / "new"), "0", "n" * 300)


def test_held_out_images_need_the_choice_that_uses_them():
    with pytest.raises(UserError, match="--num_heldout 5 holds nothing out unless --select_on is heldout"):
        options.parse_training("", ["--num_heldout", "5"])
    with pytest.raises(UserError, match="--num_heldout 0 makes no sense"):
        options.parse_training("", ["--num_heldout", "0", "--select_on", "heldout"])


def test_devices(monkeypatch):
    assert places.choose_device(0, no_cuda=True).type == "cpu"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert places.choose_device(1, no_cuda=False) == torch.device("cuda", 1)
    with pytest.raises(UserError, match="2 CUDA devices"):
        places.choose_device(2, no_cuda=False)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    assert places.choose_device(0, no_cuda=False).type == "mps"
