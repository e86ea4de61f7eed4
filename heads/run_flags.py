"""The flags of the commands that train or test heads of frozen backbones, on one process or many."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

from harness.command_flags import ADJUSTED, MAX_CLASSES, TAU
from harness.flag_parser import (
    ABOVE_0,
    COUNT,
    FILE_NAME,
    SHARE,
    Check,
    FlagSet,
    between,
    data_flag,
    free_data_flag,
    free_network_flag,
    free_training_flag,
    network_flag,
    output_flag,
    parse_known,
    training_flag,
)
from harness.flags import LearningFlags, TrainingFlags, TwoStageFlags, free_flags

# Where --pretrained is looked for, inside ImageNet_iNat: cRT's files by the names that they are downloaded with, then ours.
PRETRAINED = {
    "ImageNet_LT": ("models/resnet50_uniform_e90.pth", "models/ImageNet_LT_cRT.pth"),
    "iNaturalist18": ("models/iNat18/resnet50_uniform_e200.pth", "models/iNaturalist18_cRT.pth"),
    "iNaturalist17": ("models/iNaturalist17_cRT.pth",),
    "custom": ("models/custom_cRT.pth",),
}
WORKERS = between(0, 1024)
VIEWS = between(0, 1000)
THREE = Check(lambda text: bool(re.fullmatch(r"(\d*\.?\d+,){2}\d*\.?\d+", text)), "three numbers with commas between")


class GroupFlags(FlagSet):
    """What a process needs to find the others."""

    gpu: int | None = output_flag(None, "CUDA device number (default: the local rank)")
    no_cuda: bool = output_flag(False, "use the CPU")
    local_rank: int | None = output_flag(None, "given by torch.distributed.launch")
    timeout: float = output_flag(600, "seconds to wait for another process", between(1, 1e6))


class ListFlags(FlagSet):
    """Lists of images in place of folders, and how images are read."""

    train_list: str | None = free_data_flag(None, "training list with lines 'relative/path label', instead of folders")
    val_list: str | None = free_data_flag(None, "the list of the test images")
    meta_list: str | None = free_data_flag(None, "the list of the meta images (default: some of the training list)")
    test_batch_size: int = training_flag(100, "images at once in tests, per process", COUNT)
    workers: int = free_training_flag(4, "data-loading workers per process", WORKERS)


class LargeSetFlags(FlagSet):
    """The data sets of ImageNet_iNat."""

    dataset: str = data_flag(None, "data set (default: ImageNet_LT, or the checkpoint's)", choices=tuple(PRETRAINED))
    data_root: str = free_data_flag(None, "folder of the images (default: ../DATASET)")
    num_classes: int | None = free_data_flag(None, "checked against the data set", between(2, MAX_CLASSES))
    num_meta: int = data_flag(None, "meta images per class (default: 10; iNaturalist18: 2, iNaturalist17: 5)", COUNT)


class FrozenFlags(ListFlags, LearningFlags):
    """What all trainings of heads have; `batch_size` is that of one process."""

    val_fraction: float | None = free_data_flag(
        None, "share of each class folder of DATA_ROOT to draw as the test set; the drawn lists are "
        "written beside the checkpoints; 0: train on all images, test nothing",
        Check(lambda value: 0 <= value < 1, "at least 0 and below 1"),
    )  # fmt: skip
    val_seed: int = free_data_flag(0, "seed of that draw", between(0, 2**32 - 1))
    cache_dir: str | None = free_network_flag(None, "folder of the computed features (default: WORKDIR/feature_cache)")

    @property
    def folder(self) -> Path:
        """Where the run's files go."""
        return Path(self.workdir) / "checkpoint" / "ours" / self.dataset

    @property
    def cache_folder(self) -> Path:
        """Where the features of images are kept."""
        return Path(self.cache_dir or Path(self.workdir) / "feature_cache")

    @property
    def needs_meta(self) -> bool:
        """Whether steps take meta batches."""
        return self.stage2 == "metasaug" or self.trains_on_meta

    @property
    def meta_start(self) -> int:
        """The first epoch of stage 2, before which the loss is plain cross-entropy."""
        return 0

    def rate(self, epoch: int) -> float:
        """Return the learning rate of an epoch."""
        return self.lr

    def decayed(self, model: Any, features: int, rows: int) -> Any:
        """Return the parameters for the optimizer of a head of so many features and training rows."""
        return model.parameters()

    @property
    def writes_lists(self) -> bool:
        """Whether the lists that were drawn are written beside the checkpoints."""
        return self.val_fraction is not None

    def drawn(self, lists: Any) -> Any:
        """Return the sets that are drawn from the lists."""
        return lists.sets(self.num_meta, self.heldout, self.joins_meta)

    def binding(self) -> dict[str, object]:
        """Leave the batch of one process out: the global one is compared."""
        return {name: value for name, value in super().binding().items() if name != "--batch_size"}


class LargeFlags(LargeSetFlags, FrozenFlags):
    """The flags of ImageNet_iNat/train.py: the published names and short forms, the values of the published command."""

    usual: ClassVar[Mapping[str, Any]] = {"batch_size": 256, "epochs": 20, "lr": 0.0003}
    split: int | None = free_data_flag(None, "accepted, without effect")
    pretrained: str = free_network_flag(None, "a cRT, MetaSAug or torchvision checkpoint (default: cRT's)")
    fresh_head: bool = network_flag(False, "start with a new head and load only the backbone")
    cache_features: int = network_flag(0, "compute the features of so many views of each training image once, and train "
                                       "from them; 0: from the images", VIEWS)  # fmt: skip
    save_name: str = output_flag(None, "prefix of the file names (default: MetaSAug_DATASET)", FILE_NAME)


class LargeTestFlags(LargeSetFlags, ListFlags):
    """The flags of ImageNet_iNat/test.py."""

    loading_path: str = network_flag(None, "a released checkpoint, one from train.py, or a cRT one; needed", required=True)
    logit_adjust: float = network_flag(0.0, ADJUSTED, TAU)
    out: str | None = output_flag(None, "output file for the accuracy per class (default: <loading_path>_classes.csv)")


class HeadWords(TwoStageFlags, FrozenFlags):
    """The flags of train_own.py as they are given; `OwnFlags` says what follows from them."""

    usual: ClassVar[Mapping[str, Any]] = {
        "batch_size": 128, "epochs": 30, "lr": 0.01, "lam": 2.0, "meta_update": "relative", "meta_images": "train",
        "save_name": "head", "idx": "own",
    }  # fmt: skip
    dataset: str = "own"
    data_root: str = free_data_flag(None, "folder of the images: <class>/*; or train/<class>/*, val/<class>/* and, if any, "
                                    "meta/<class>/* and test/<class>/*; or that of the lists")  # fmt: skip
    features: str | None = data_flag(None, "in place of images: .npz or .safetensors with features (N, A), labels (N,) and, "
                                     "if there are no other files, split")  # fmt: skip
    val_features: str | None = data_flag(None, "test features, if in a separate file")
    meta_features: str | None = data_flag(None, "meta features, if in a separate file")
    workers: int = free_training_flag(None, "data-loading workers per process (default: one per processor, at most 4)",
                                      WORKERS)  # fmt: skip
    backbone: str | None = network_flag(None, "a network of torchvision or else of timm, timm:NAME, or "
                                        "package.module:function (default: resnet50)")  # fmt: skip
    pretrained: str | None = free_network_flag(None, "file of its weights; DEFAULT: the library's own are downloaded "
                                               "(default: DEFAULT; of a function, as it gives them)")  # fmt: skip
    image_size: int | None = network_flag(None, "pixels a side that it takes (default: the network's own)")
    resize_size: int | None = network_flag(None, "size of the short side before the centre crop (default: the "
                                           "network's own)")  # fmt: skip
    mean: str | None = network_flag(None, "mean of the pixels, from 0 to 1, as 0.5,0.5,0.5 (default: the network's)", THREE)
    std: str | None = network_flag(None, "their standard deviation (default: the network's own)", THREE)
    views: int = network_flag(0, "train on so many randomly augmented views of each image besides the plain one", VIEWS)
    whole: bool = free_network_flag(False, "checkpoints hold the weights of the whole network, not those of the head alone")
    finetune: bool = network_flag(False, "train the whole network; images are augmented anew in every epoch")
    micro_batch: int | None = network_flag(None, "images of a process that go through the network at once, with batch "
                                           "norm's statistics of their own, so that memory is that of so many (default: "
                                           "all)", COUNT)  # fmt: skip
    way: str = training_flag(None, "how the head is made; recipe: by SGD, with the flags of training and stage 2 "
                             "(default: logistic; recipe if one of those flags is given)", choices=(
                                 "logistic", "balanced", "nearest_mean", "lda", "isda", "metasaug", "recipe"))  # fmt: skip
    C: float | None = training_flag(None, "inverse regularisation as scikit-learn's, of features whose variances sum to one "
                                    "(default: chosen by cross-validation)", ABOVE_0)  # fmt: skip
    transform: str = training_flag(None, "scaling of the features (default: chosen by cross-validation; with recipe none)",
                                   choices=("none", "unit", "sqrt", "standard"))  # fmt: skip
    by_folds: str = ""  # the constants that folds choose, with blanks between
    lr_drop: float = training_flag(0.1, "factor of the learning rate in the last third of the epochs", SHARE)
    logit_adjust: float = training_flag(0.0, f"{ADJUSTED}, in tests and in the saved network", TAU)


class CompareFlags(FlagSet):
    """The flags of scripts/compare_own.py besides those of train_own.py."""

    ways: str | None = training_flag(None, "comma-separated ways to compare (default: all)")


# FlagSet that runs may have otherwise and still be of the same training.
FREE_FLAGS = free_flags(TrainingFlags) | free_flags(LargeFlags) | free_flags(HeadWords)


def parse_group(argv: Sequence[str] | None = None) -> GroupFlags:
    """Read only what is needed to find the other processes, so that all else can be checked together with them."""
    return parse_known(GroupFlags, argv)[0]
