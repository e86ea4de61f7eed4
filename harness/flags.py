"""Flags of all trainings and of the CIFAR scripts, and notes on flags without effect."""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path

from harness.errors import UserError
from harness.facts import Facts
from harness.flag_parser import (
    ABOVE_0,
    COUNT,
    FILE_NAME,
    FOLDER_NAME,
    FROM_0,
    SHARE,
    Check,
    FlagSet,
    between,
    data_flag,
    declared,
    free_data_flag,
    free_network_flag,
    free_training_flag,
    network_flag,
    output_flag,
    require,
    stage2_flag,
    training_flag,
)

PUBLISHED_RULE = "published"  # of --meta_update; its step size is --meta_lr
SPLIT_NOTE = "note: --split has no effect, as in the published code"
IMB_FACTOR, TESTED_IMB_FACTOR = 0.005, 0.1  # the published defaults of --imb_factor, in training and in testing
DIGITS_IMB_FACTOR = 0.1  # the digits are too few for 0.005
DATASETS = ("cifar10", "cifar100", "digits", "folder")
STAGE2 = {  # the choices of stage 2; of a head every epoch is one
    "metasaug": "MetaSAug",
    "isda": "ISDA, estimated covariances without meta-learning",
    "reweight": "re-weighting without augmentation",
    "none": "plain cross-entropy continued",
}
META_UPDATES = {  # the names of `covariance_rules.RULES`
    "published": "by --meta_lr times the meta gradient",
    "relative": "by --meta_step_size times their norm, against the meta gradient, kept positive semi-definite",
}


class DeviceFlags(FlagSet):
    """Where a command of one process computes."""

    gpu: int = output_flag(0, "which CUDA device")
    no_cuda: bool = output_flag(False, "use the CPU")


class LearningFlags(FlagSet):
    """What every training script has."""

    dataset: str
    data_root: str = free_data_flag("data", "folder of the data")
    num_meta: int = data_flag(10, "meta images per class", COUNT)
    skip_bad: bool = free_data_flag(False, "skip images that cannot be read, instead of ending with a list of them")
    select_on: str = data_flag("test", "what the best epoch, of those of stage 2 if there are any, is chosen on", choices={
        "test": "as published", "heldout": "images that are not trained on, whose accuracy is logged too"})  # fmt: skip
    num_heldout: int | None = data_flag(None, "held-out images per class: first unused ones, then up to a fifth of the "
                                        "class (default: 2,000 in all)", COUNT)  # fmt: skip
    batch_size: int = training_flag(100, "images per step and process, also in the meta batch", COUNT)
    test_batch_size: int = training_flag(100, "images at once in tests, per process", COUNT)
    epochs: int = free_training_flag(200, "length of the training; may grow at --resume", COUNT)
    lr: float = training_flag(0.1, "learning rate", ABOVE_0, "--lr", "--learning_rate")
    momentum: float = training_flag(0.9, "momentum of SGD", Check(lambda value: 0 <= value < 1, "at least 0 and below 1"))
    nesterov: bool = training_flag(True, "Nesterov momentum: true or false")
    weight_decay: float = training_flag(5e-4, "weight decay of SGD", FROM_0, "--weight_decay", "--wd")
    seed: int = training_flag(42, "seed of weights, order, crops and flips", between(0, 2**63 - 1))
    stage2: str = stage2_flag("metasaug", "what stage 2, of a head every epoch, is", choices=STAGE2)
    balance: str = stage2_flag("weights", "what makes up for the long tail in the loss of stage 2", choices={
        "weights": "class-balanced, as published", "prior": "the log of the class shares added to the logits "
        "(arXiv 2007.07314)", "none": "nothing"})  # fmt: skip
    lam: float = stage2_flag(0.25, "strength λ of the augmentation, which grows as λ · epoch / epochs", FROM_0)
    meta_update: str = stage2_flag("published", "how the covariances move", choices=META_UPDATES)
    meta_lr: float = stage2_flag(0.1, "step size of the published rule", FROM_0)
    meta_step_size: float = stage2_flag(0.5, "step size of any other rule", FROM_0)
    meta_images: str = stage2_flag("apart", "what stage 2 does with meta images besides meta batches", choices={
        "apart": "nothing", "train": "trains on them as on the others", "loss": "adds the cross-entropy of a meta batch to "
        "each step's loss"})  # fmt: skip
    print_freq: int = output_flag(100, "steps between log lines", COUNT, "--print_freq", "-p")
    workdir: str = output_flag(".", "files go to a folder below WORKDIR/checkpoint/ours")
    save_name: str = output_flag("name", "prefix of the file names", FILE_NAME)
    resume: str | None = output_flag(None, "go on with an interrupted run: auto, with its own files if there are any, or "
                                     "the path of its _resume.pth.tar", Check(bool, "auto or a path"))  # fmt: skip
    save_every: float = output_flag(10, "minutes between saves for --resume, besides after each epoch; 0: after every step",
                                    FROM_0)  # fmt: skip

    @property
    def step_size(self) -> float:
        """The step size of the rule for Σ̂."""
        return self.meta_lr if self.meta_update == PUBLISHED_RULE else self.meta_step_size

    @property
    def step_size_flag(self) -> str:
        """The flag that sets it."""
        return "--meta_lr" if self.meta_update == PUBLISHED_RULE else "--meta_step_size"

    @property
    def joins_meta(self) -> bool:
        """Whether the meta images are trained on as the others are."""
        return self.meta_images == "train"

    @property
    def trains_on_meta(self) -> bool:
        """Whether the loss of meta batches is trained on."""
        return self.meta_images == "loss"

    @property
    def heldout(self) -> int:
        """How many images a class to hold out, -1 for a number that the data set decides."""
        return (self.num_heldout or -1) if self.select_on == "heldout" else 0

    def check(self) -> None:
        """Check each flag, then those that depend on one another."""
        super().check()
        if self.num_heldout is not None and self.select_on == "test":
            raise UserError(f"--num_heldout {self.num_heldout} holds nothing out unless --select_on is heldout: add that")
        require(self.momentum > 0 or not self.nesterov, "--momentum", 0, "above 0 unless --nesterov false is given")

    def binding(self) -> dict[str, object]:
        """Return the flags that a resumed run must have as the interrupted one had them, by name."""
        free = free_flags(type(self))
        return {flag: value for flag, value in self.facts().items() if flag.removeprefix("--") not in free}

    def resumed(self, before: Facts) -> LearningFlags:
        """Return the flags to go on with where a run with the flags `before` was interrupted."""
        return self


class TwoStageFlags(LearningFlags):
    """Trainings that begin with plain cross-entropy."""

    amp: str = network_flag("off", "precision", choices={
        "off": "float32", "bf16": "passes in bfloat16, losses, statistics and updates in float32"})  # fmt: skip
    meta_start: int = stage2_flag(None, "first epoch of stage 2, from 0; --epochs: never (default: after four fifths of the "
                                  "epochs, of a head two thirds)", between(0, 2**31))  # fmt: skip
    idx: str = output_flag("0", "folder of the run", FOLDER_NAME)

    @property
    def folder(self) -> Path:
        """Where the run's files go."""
        return Path(self.workdir) / "checkpoint" / "ours" / self.idx


class TrainingFlags(TwoStageFlags, DeviceFlags):
    """The flags of a CIFAR training script."""

    dataset: str = data_flag("cifar100", "data set", choices=DATASETS)
    imb_factor: float | None = data_flag(None, "smallest class over largest (default: 0.005; digits: 0.1; folder: as it "
                                         "is)", SHARE)  # fmt: skip
    num_classes: int | None = free_data_flag(None, "checked against the data set")
    split: int | None = free_data_flag(None, "accepted for published command lines, without effect there and here")
    arch: str = network_flag("resnet32", "resnet20, resnet32 and so on (depth 6n + 2), or your package.module:function, "
                             "called with the class count")  # fmt: skip
    cuda_graphs: str = free_network_flag("on", "record each step on CUDA as a graph, which one call starts",
                                         choices=("on", "off"))  # fmt: skip
    threads: int = free_network_flag(0, "CPU threads; 0: PyTorch's choice", between(0, 1024))
    stage1: str | None = free_training_flag(None, "start stage 2 from another run's <save_name>_stage1.pth.tar")
    meta_start_given: bool = False
    stage2_lr: float = stage2_flag(1.0, "factor of the learning rate in stage 2", ABOVE_0)
    virtual: str = stage2_flag("all", "what the virtual step moves", choices={
        "all": "all weights, as published", "head": "the last layer alone, in less than half the time"})  # fmt: skip

    def resumed(self, before: Facts) -> TrainingFlags:
        """Let stage 2 begin where it did before the run grew, unless another epoch is asked for."""
        given = self.meta_start_given or before.get("meta_start_given") or not isinstance(before.get("meta_start"), int)
        return self if given else replace(self, meta_start=before["meta_start"])


def free_flags(of: type[LearningFlags]) -> set[str]:
    """Return the flags that a resumed run may have otherwise: they change where and how it runs, not what comes out."""
    return {one.name for one in declared(of) if not one.metadata["binds"]} | {"meta_start_given"}


CHOICES = ("meta_update", "meta_step_size", "virtual", "meta_images", "balance", "stage2_lr")  # of stage 2, besides --stage2
# What files of older versions do, which do not say it.
UNSAID = {key: getattr(TrainingFlags, key) for key in (*CHOICES, "stage2", "select_on", "num_heldout")}
META = {"meta_lr", "meta_update", "meta_step_size", "virtual"}  # flags of metasaug alone
UNUSED = {"isda": META, "reweight": META | {"lam"}, "none": META | {"lam", "loss", "balance"}}  # by --stage2


def without_effect(flags: Facts) -> dict[str, str]:
    """Return the flags that change nothing beside the others, by name, and which other one is the reason."""
    unused = {"num_heldout": "select_on"} if flags["select_on"] == "test" else {}
    unused["meta_step_size" if flags["meta_update"] == PUBLISHED_RULE else "meta_lr"] = "meta_update"
    return {**unused, **dict.fromkeys(sorted(UNUSED.get(str(flags["stage2"]), ())), "stage2")}


def effect_notes(flags: LearningFlags) -> list[str]:
    """Return a line for each choice of a method that is not the default and changes nothing; of λ nothing is said."""
    given, usual = asdict(flags), {**UNSAID, "meta_lr": 0.1}
    idle = without_effect(given)
    other = [name for name in idle if name in given and name in usual and given[name] != usual[name]]
    return [f"note: --{name} {given[name]} has no effect with --{idle[name]} {given[idle[name]]}" for name in other]


def choice_words(flags: LearningFlags) -> str:
    """Return the choices of stage 2 besides --stage2 that are not the default and have an effect, each after a comma."""
    given = asdict(flags)
    names = [name for name in CHOICES if name in given.keys() - without_effect(given) and given[name] != UNSAID[name]]
    return "".join(f", --{name} {given[name]}" for name in names)


def in_stage1(flags: Facts, epoch: int) -> bool:
    """Return whether an epoch, counted from 0, of a run with these flags is before its stage 2, if it has stages."""
    start = flags.get("meta_start")
    return isinstance(start, int) and epoch < start


def stage1_note(flags: Facts, epochs: int | None) -> list[str]:
    """Return a line for weights that were trained for so many epochs, if these are before stage 2; None: nobody knows."""
    if epochs is None or not in_stage1(flags, epochs - 1):
        return []
    told = f"note: no stage 2 up to epoch {epochs - 1} (--meta_start {flags['meta_start']})"
    return [f"{told}: these weights come from plain cross-entropy, without MetaSAug"]


def check_num_classes(num_classes: int | None, known: int, dataset: str) -> None:
    """Raise a `UserError` when --num_classes contradicts the data's own count."""
    if num_classes is not None and num_classes != known:
        raise UserError(f"--num_classes {num_classes} contradicts {dataset}, which has {known} classes: leave it out")
