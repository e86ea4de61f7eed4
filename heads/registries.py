"""Networks by name, of torchvision, of timm, or made by a function of one's own, and files of weights for them."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import nn
from torchvision import models

from harness.checkpoint import load_checkpoint
from harness.errors import UserError
from harness.weights import StateDict, stripped
from heads.preparation import Preparation, of_config
from resnet import own_function

TIMM = "timm:"
DOWNLOADED = "DEFAULT"  # of --pretrained: the library's own weights
# Their weights come with a change of the input inside the network, which a file of weights does not tell.
CHANGING_INPUTS = ("googlenet", "inception_v3")
# Names in torchvision's files that its networks no longer have: its own download changes them too.
OLDER_NAMES = (
    (r"(denselayer\d+\.(?:norm|conv))\.([12])\.", r"\1\2."),
    (r"(encoder_layer_\d+\.mlp)\.linear_1\.", r"\1.0."),
    (r"(encoder_layer_\d+\.mlp)\.linear_2\.", r"\1.3."),
)
Made = tuple[nn.Module, Preparation, str | None]  # a network, its usual images, where its last layer was if that is known


@contextmanager
def told_as(what: str, advice: str, address: str | None = None) -> Iterator[None]:
    """Make an error of other code into a `UserError`; if it is one of weights of an address, a damaged copy is named."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:  # whatever it raises
        for copy in downloaded(address) if address else ():
            read_pretrained(copy)
        said = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
        raise UserError(f"{what} ({said}): {advice}") from error


def downloaded(address: str) -> list[Path]:
    """Return the files in which PyTorch and the hub keep weights of an address."""
    from huggingface_hub.constants import HF_HUB_CACHE

    own = Path(torch.hub.get_dir(), "checkpoints", address.rpartition("/")[2])
    of_hub = Path(HF_HUB_CACHE, f"models--{address.replace('/', '--')}").glob("snapshots/*/*model*.*")
    return [file for file in (own, *of_hub) if os.path.isfile(file)]


def is_library(name: str) -> bool:
    """Return whether a name is one of torchvision's or timm's, and no function's."""
    return name.startswith(TIMM) or ":" not in name


def is_torchvision(name: str) -> bool:
    """Return whether a name is one of torchvision's, which come before timm's."""
    return name in models.list_models(module=models)


def read_pretrained(source: Path) -> dict[str, Any]:
    """Return what a file of weights holds, as `load_checkpoint` does."""
    if source.suffix.lower() != ".safetensors":
        return load_checkpoint(source)
    with told_as(f"{source} cannot be read as .safetensors", "download or create it again"):
        return {"state_dict": stripped(load_file(source))}


def of_torchvision(name: str, pretrained: str | None, size: int | None) -> Made:
    """Return a network of torchvision, and the preparation of those of its weights that are `pretrained`."""
    if name in CHANGING_INPUTS:
        raise UserError(f"--backbone {name} cannot be used: its weights change its input, which a file does not tell")
    known = models.get_model_weights(name)
    of_file = (entry for entry in known if entry.url.rpartition("/")[2] == Path(pretrained or "").name)
    weights = known[DOWNLOADED] if pretrained == DOWNLOADED else None
    preset = (weights or next(of_file, next(iter(known)))).transforms()
    ([crop], [resized]), statistics = (preset.crop_size, preset.resize_size), (tuple(preset.mean), tuple(preset.std))
    usual = Preparation(crop, resized, *statistics, preset.interpolation.value)
    sizes = {"image_size": size or crop} if name.startswith("vit_") and weights is None else {}  # made for one size
    if weights is None:
        return models.get_model(name, **sizes), usual, None
    with downloading(name, weights.url):
        return models.get_model(name, weights=weights), usual, None


def of_timm(name: str, pretrained: str | None, size: int | None, weights: StateDict | None) -> Made:
    """Return a network of timm, which makes weights of a file fit it as its own."""
    import timm

    name = name.removeprefix(TIMM)
    known: Any = timm.get_pretrained_cfg(name)
    if known is None:
        raise ValueError("timm.list_models() lists the names; a function is given as package.module:function")
    changes: dict[str, Any] = {} if size is None else {"input_size": (3, size, size)}
    classes, blame = 0, downloading(name, known.hf_hub_id or known.url)
    if weights is not None:  # with its classifier, by which timm tells forms of files apart
        weights = stripped(weights)
        first = known.classifier if isinstance(known.classifier, str) else next(iter(known.classifier or ()), "")
        classes = len(weights.get(f"{first}.weight", ()))
        changes |= {"state_dict": weights, "num_classes": classes, "label_offset": 0}
        blame = told_as(f"{pretrained} does not fit --backbone {name}", "give the file of that network, or see --image_size")
    with blame if pretrained else nullcontext():
        model: Any = timm.create_model(name, pretrained is not None, num_classes=classes, pretrained_cfg_overlay=changes)
    model.reset_classifier(0)
    last = dict(model.named_modules()).get(known.classifier)
    usual = of_config(timm.data.resolve_model_data_config(model))
    return model, usual, known.classifier if isinstance(last, nn.Identity) else ""


def downloading(name: str, address: str) -> AbstractContextManager[None]:
    """Say so if weights cannot be fetched from an address, or are not those that they should be."""
    advice = f"fetch {address} elsewhere and give the file by --pretrained"
    return told_as(f"the weights of {name} could not be downloaded", advice, address)


def present_name(name: str) -> str:
    """Return the name that weights of a file of torchvision have in its network."""
    for older, present in OLDER_NAMES:
        name = re.sub(older, present, name)
    return name


def of_function(name: str) -> Made:
    """Return what a function of one's own returns; by `pretrained_cfg`, as timm's, it may say how images are prepared."""
    from timm.data import resolve_data_config

    model = own_function(name)()  # type: ignore[call-arg]
    if not isinstance(model, nn.Module):
        raise TypeError(f"it returned a {type(model).__name__}, not an nn.Module")
    config = getattr(model, "pretrained_cfg", None)
    return model, of_config(resolve_data_config(pretrained_cfg=config)) if config else Preparation(), None
