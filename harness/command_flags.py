"""The flags of the commands that do not train."""

from __future__ import annotations

from pathlib import Path

from harness.flag_parser import COUNT, SHARE, FlagSet, between, data_flag, network_flag, output_flag, training_flag
from harness.flags import DATASETS, DeviceFlags

TAU = between(0, 1000)  # the published value is 1
ADJUSTED = "subtract so many times the log of each class's share of the training images from its logit (arXiv 2007.07314)"
MAX_CLASSES = 1_000_000  # larger labels are ids of another kind
LARGE_NAMES = ("ImageNet_LT", "iNaturalist18", "iNaturalist17", "custom")


def seed_list(text: str) -> list[int]:
    """Read --seeds."""
    return [int(word) for word in text.split(",")]


class NetworkFlags(DeviceFlags):
    """A trained network of the CIFAR scripts, or another."""

    checkpoint_path: str = network_flag(None, "a released checkpoint or one from a training script; needed", required=True)
    arch: str | None = network_flag(None, "package.module:function of your own network, a checkpoint does not choose what "
                                    "code runs (default: what its weights tell)")  # fmt: skip


class CifarTestFlags(NetworkFlags):
    """The flags of MetaSAug_test.py."""

    dataset: str | None = data_flag(None, "data set (default: the checkpoint's, else cifar10)", choices=DATASETS)
    imb_factor: float | None = data_flag(None, "smallest class over largest (default: the checkpoint's, else 0.1)", SHARE)
    data_root: str = data_flag("data", "folder of the data")
    num_meta: int = data_flag(10, "for the training images a class of a released checkpoint", COUNT)
    test_batch_size: int = network_flag(100, "images at once", COUNT)
    logit_adjust: float = network_flag(0.0, ADJUSTED, TAU)


class PredictFlags(NetworkFlags):
    """The flags of predict.py."""

    images: list[Path] = data_flag((), "image files, or folders of them; files of features, .npz or .safetensors", None,
                                   "images", nargs="*")  # fmt: skip
    dataset: str | None = data_flag(None, "of a released head, which does not record it (default: by its class count)",
                                    choices=LARGE_NAMES)  # fmt: skip
    pretrained: str | None = network_flag(None, "file of the weights that a head of train_own.py was trained on (default: "
                                          "where training found them)")  # fmt: skip
    prior: str | None = network_flag(None, "class frequencies in these images: train, uniform, or a CSV table "
                                     "with a line class,number for each (default: the network's own)")  # fmt: skip
    export: str = output_flag(None, "also export the network beside its checkpoint, for use without this code",
                              choices=("onnx",))  # fmt: skip
    top: int = output_flag(5, "how many classes to name", COUNT)
    out: Path | None = output_flag(None, "a table .csv instead of lines: path, classes, probabilities, error")


class ReportFlags(FlagSet):
    """The flags of report.py."""

    runs: list[Path] = data_flag((), "<save_name>_summary.json of a run, or a folder", None, "runs", nargs="+")
    baseline: str | None = data_flag(None, "group, by its name in the table, whose classes are compared with those of the "
                                     "best (default: plain cross-entropy, else the second)")  # fmt: skip
    out: Path = output_flag(Path("report"), "folder to write to")
    force: bool = output_flag(False, "replace a report, or other files of the names of its own")
    figures: bool = output_flag(False, "the charts as PNG and SVG too, 3.35 inches wide")
    latex: str | None = output_flag(None, "also write table.tex", nargs="?", const="accuracy", choices=("accuracy", "error"))


class SweepFlags(FlagSet):
    """The flags of scripts/sweep.py; others go to the trainings."""

    preset: str = data_flag(None, "a file of scripts/presets by its name, or the path of a .toml", None, "preset")
    sets: str | None = data_flag(None, "some of the preset's sets, with commas between (default: all)")
    jobs: int | None = training_flag(None, "simultaneous runs (default: the preset's, else 1)", COUNT)
    seeds: list[int] | None = training_flag(None, "with commas between (default: the preset's, else 42)", type=seed_list)
    workdir: str | None = output_flag(None, "files go to WORKDIR/checkpoint/ours (default: the preset's, else here)")
