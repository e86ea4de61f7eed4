"""Checkpoints of every kind, images and rows to name, and their logits by the definition, in float64."""

from dataclasses import asdict

import numpy as np
import torch
from PIL import Image, ImageOps
from support.own import BACKBONE, SOURCE, network
from support.slim_resnet import slim_resnet50

from data_utils import MEAN, STD
from heads.preparation import IMAGENET, INATURALIST, Preparation
from resnet import make_model

NAMES = ["Häher", "owl", "two, words"]
COUNTS = [90, 9, 1]
FILES = ["photos/a b.jpg", "photos/dä/c.png", "photos/dä/turned.png"]
MORE = {"own.pth.tar": f"--arch {BACKBONE}", "released.pth.tar": "--dataset iNaturalist18"}  # flags of a checkpoint
PREPARED = {
    "small.pth.tar": (MEAN, STD), "own.pth.tar": (*IMAGENET, 36, 32), "slim.pth.tar": (*IMAGENET, 256, 224),
    "released.pth.tar": (*INATURALIST, 256, 224),
}  # fmt: skip
TRANSFORMED = {
    "none.pth.tar": lambda rows: rows,
    "unit.pth.tar": lambda rows: rows / rows.norm(dim=1, keepdim=True),
    "sqrt.pth.tar": lambda rows: rows.clamp(min=0).sqrt(),
}
NETWORKS = {
    "small.pth.tar": lambda: make_model("resnet8", 3), "own.pth.tar": lambda: network(3),
    "slim.pth.tar": lambda: slim_resnet50(num_classes=3, zero_init_residual=True),
}  # fmt: skip
NETWORKS["released.pth.tar"] = NETWORKS["slim.pth.tar"]


def lively(which):
    """A network with weights at random that tell images apart."""
    torch.manual_seed(1)
    made = NETWORKS[which]()
    for name, value in made.state_dict().items():
        if "running_mean" in name and which == "small.pth.tar":
            value += torch.rand(value.shape)
        if name in ("fc.weight", "5.weight"):
            value *= 20
    return made.eval()


def parted(weights):
    """As ImageNet_iNat's checkpoints hold them."""
    kept = {name: value for name, value in weights.items() if not name.endswith("num_batches_tracked")}
    return {part: {name: v for name, v in kept.items() if name.startswith("fc.") == (part == "classifier")}
            for part in ("classifier", "feature")}  # fmt: skip


def write_all(made):
    """Write image files of several sizes, one turned by its EXIF, `rows.npz` and the checkpoints into a folder."""
    generator = np.random.default_rng(3)
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 270 degrees
    for name, size in zip(FILES, ((300, 400), (256, 256), (40, 90)), strict=True):
        (made / name).parent.mkdir(parents=True, exist_ok=True)
        coarse = Image.fromarray(generator.integers(0, 256, (6, 5, 3), dtype=np.uint8))
        more = {"exif": exif} if "turned" in name else {}
        coarse.resize(size, Image.Resampling.BICUBIC).save(made / name, **more)
    (made / "bad.jpg").write_text("no image")
    rows = generator.normal(0, 1, (5, 7)).astype(np.float32)
    np.savez(made / "rows.npz", features=rows, names=[f"row ä{k}" for k in range(5)])
    (made / "my_network.py").write_text(SOURCE)
    facts = {"class_names": NAMES, "cls_num_list": COUNTS}
    for which in TRANSFORMED:
        head = {"fc.weight": torch.randn(3, 7, generator=torch.Generator().manual_seed(0)), "fc.bias": torch.arange(3.0)}
        state = {"state_dict": head, "backbone": None, "transform": which.removesuffix(".pth.tar"), **facts}
        torch.save(state, made / which)
    weights = {which: lively(which).state_dict() for which in NETWORKS}
    torch.save({"state_dict": weights["small.pth.tar"], "arch": "resnet8", **facts}, made / "small.pth.tar")
    facts_of_images = {key: list(v) if isinstance(v, tuple) else v for key, v in asdict(Preparation(32, 36)).items()}
    backbone = {"name": BACKBONE, **facts_of_images}
    torch.save({"state_dict": weights["own.pth.tar"], "backbone": backbone, **facts}, made / "own.pth.tar")
    torch.save({"state_dict": parted(weights["slim.pth.tar"]), "dataset": "custom", **facts}, made / "slim.pth.tar")
    torch.save({"state_dict": parted(weights["released.pth.tar"])}, made / "released.pth.tar")


def pixels_of(which, file):
    """What an exported network takes of an image file, (H, W, 3) uint8."""
    image = ImageOps.exif_transpose(Image.open(file)).convert("RGB")
    return np.array(image.resize((32, 32), Image.Resampling.BILINEAR) if which == "small.pth.tar" else image)


def prepared(image, mean, std, short=None, crop=None):
    """An image normalised, and before that resized by its short side and cut to its middle; in float64 (1, 3, H, W)."""
    if short is not None:
        image = image.resize([int(short * side / min(image.size)) for side in image.size], Image.Resampling.BILINEAR)
        left, top = (round((side - crop) / 2) for side in image.size)
        image = image.crop((left, top, left + crop, top + crop))
    values = (np.asarray(image, dtype=np.float64) / 255 - np.array(mean)) / np.array(std)
    return torch.from_numpy(values.transpose(2, 0, 1).copy())[None]


@torch.no_grad()
def slow_logits(which, pixels):
    """The logits (3,) of an image (H, W, 3)."""
    found = lively(which).double()(prepared(Image.fromarray(pixels), *PREPARED[which]))
    return (found[1] if which == "small.pth.tar" else found)[0]
