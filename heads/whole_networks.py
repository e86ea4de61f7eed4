"""Whole networks by name, torchvision's, timm's, or what a function of one's own returns, and how they see images."""

from __future__ import annotations

import ast
import difflib
import math
import re
from collections.abc import Callable, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from torch import nn
from torchvision import models

from harness.errors import UserError, blamed_on
from harness.random_states import kept_apart
from heads.transforms import CROP, RESIZED, ImageFlags, Preparation, as_said
from resnet import own_function

TIMM = "timm:"
DOWNLOADED = "DEFAULT"  # of --pretrained: the library's own weights
# Their weights come with a change of the input inside the network, which a file of weights does not tell.
CHANGING_INPUTS = ("googlenet", "inception_v3")
FOR_ONE_SIZE = "vit_"  # the networks of torchvision that are made for one size of images
# Names in torchvision's files that its networks no longer have: its own download changes them too.
OLDER_NAMES = (
    (r"(denselayer\d+\.(?:norm|conv))\.([12])\.", r"\1\2."),
    (r"(encoder_layer_\d+\.mlp)\.linear_1\.", r"\1.0."),
    (r"(encoder_layer_\d+\.mlp)\.linear_2\.", r"\1.3."),
)


def is_torchvision(name: str) -> bool:
    """Return whether a name is one of torchvision's."""
    return ":" not in name


def is_library(name: str) -> bool:
    """Return whether a name is one of torchvision's or timm's, and no function's."""
    return name.startswith(TIMM) or is_torchvision(name)


def downloads(name: str) -> list[str]:
    """Return what --pretrained can have downloaded for a network."""
    if is_torchvision(name):
        return sorted(torchvision_weights(name), key=DOWNLOADED.__ne__)
    return [DOWNLOADED] if is_library(name) else []


@kept_apart(seed=0)  # weights at random, or what a function of one's own draws, are the same on all processes
def made(name: str, pretrained: str | None, images: ImageFlags) -> tuple[nn.Module, Preparation]:
    """Return a whole network, with weights if they are to be downloaded, and how its images are prepared."""
    if is_torchvision(name):
        return of_torchvision(name, pretrained, images)
    model = of_timm(name, pretrained == DOWNLOADED) if is_library(name) else of_function(name)
    return model, as_said(configured(name, model), images)


def torchvision_weights(name: str) -> dict[str, Any]:
    """Return the weights that torchvision has for a network by their names, DOWNLOADED among them, the oldest first."""
    names = models.list_models(module=models)
    if name in CHANGING_INPUTS:
        raise UserError(f"--backbone {name} cannot be used: its weights change its input, which a file does not tell")
    if name not in names:
        near = difflib.get_close_matches(name, names, 3) or ["resnet50", "efficientnet_b0", "vit_b_16"]
        raise UserError(f"--backbone {name} is no network of torchvision: {', '.join(near)} are some")
    return dict(models.get_model_weights(name).__members__)


def of_torchvision(name: str, pretrained: str | None, images: ImageFlags) -> tuple[nn.Module, Preparation]:
    """Return a network of torchvision's registry, and the preparation of those of its weights that `pretrained` says."""
    known = torchvision_weights(name)
    download = pretrained in known
    file = None if pretrained is None else Path(pretrained).name
    of_file = (weights for weights in known.values() if weights.url.rpartition("/")[2] == file)
    weights = known[str(pretrained)] if download else next(of_file, next(iter(known.values())))
    preset = weights.transforms()
    usual = Preparation(
        preset.crop_size[0], preset.resize_size[0], tuple(preset.mean), tuple(preset.std), preset.interpolation.value
    )
    prepared = as_said(usual, images)
    sizes = {"image_size": prepared.image_size} if name.startswith(FOR_ONE_SIZE) and not download else {}
    try:
        return models.get_model(name, weights=weights if download else None, **sizes), prepared
    except Exception as error:  # of the network at this size, or of whatever can be wrong with a download
        if download:
            raise UserError(not_downloaded(name, weights.url, error)) from error
        raise UserError(fails(name, prepared, error)) from error


def told(error: Exception) -> str:
    """Return what an error of other code says, on one line."""
    return f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"


def present_name(name: str) -> str:
    """Return the name that weights of a file of torchvision have in its network."""
    for older, present in OLDER_NAMES:
        name = re.sub(older, present, name)
    return name


def not_downloaded(name: str, url: str, error: Exception) -> str:
    """Return what is said where weights cannot be fetched, or are not those that they should be."""
    advice = f"fetch {url} elsewhere and give the file by --pretrained"
    return f"the weights of {name} could not be downloaded ({told(error)}): {advice}"


def fails(name: str, prepared: Preparation, error: Exception) -> str:
    """Return what is said of a network that does not take images of its size."""
    size = prepared.image_size
    return f"--backbone {name} fails on images of {size} x {size} ({told(error)}): see --image_size"


def of_timm(name: str, download: bool) -> nn.Module:
    """Return a network of timm."""
    if find_spec("timm") is None:
        raise UserError(f"--backbone {name} needs timm: pip install timm")
    try:
        import timm

        model: nn.Module = timm.create_model(name.removeprefix(TIMM), pretrained=download)
    except Exception as error:  # of timm itself, of the hub that it downloads from, of the network
        advice = "give the file of its weights by --pretrained" if download else "timm.list_models() knows the names"
        raise UserError(f"--backbone {name}: timm cannot make it ({told(error)}): {advice}") from error
    return model


def configured(name: str, model: nn.Module) -> Preparation:
    """Return the preparation that a network's `pretrained_cfg` says, as timm's networks and others have it."""
    found = getattr(model, "pretrained_cfg", None) or getattr(model, "default_cfg", None)
    said: Mapping[str, Any] = found if isinstance(found, Mapping) else {}
    usual, mode = Preparation(), said.get("interpolation")
    try:
        size = int(said.get("input_size", (3, CROP, CROP))[-1])
        resized = math.floor(size / said.get("crop_pct", CROP / RESIZED))
        (r, g, b), (of_r, of_g, of_b) = (map(float, said.get(key, getattr(usual, key))) for key in ("mean", "std"))
    except (TypeError, ValueError, LookupError, ArithmeticError) as error:
        raise UserError(f"--backbone {name}: its pretrained_cfg makes no sense ({told(error)}): mend it") from error
    mode = mode if mode in ("bilinear", "bicubic") else usual.interpolation
    return Preparation(size, resized, (r, g, b), (of_r, of_g, of_b), mode)


def of_function(name: str) -> nn.Module:
    """Return what a function of one's own returns."""
    try:
        with blamed_on("--backbone"):
            call = own_call(name)
        model = call()
    except UserError:
        raise
    except Exception as error:  # of the arguments, or of code that is not ours
        raise UserError(f"--backbone {name} cannot be made ({told(error)}): mend the call or the function") from error
    if not isinstance(model, nn.Module):
        raise UserError(f"--backbone {name} returned a {type(model).__name__}, not an nn.Module: mend it")
    return model


def own_call(name: str) -> Callable[[], object]:
    """Return the call that `package.module:function` or `package.module:function(arguments)` says.

    Raises
    ------
    ValueError
        If it is none, or there is no such function.
    """
    module, _, text = name.partition(":")
    form = "write package.module:function, or package.module:function('text', depth=3) with plain values"
    try:
        said = ast.parse(text, mode="eval").body
        call = said if isinstance(said, ast.Call) else ast.Call(said, [], [])
        function = ast.unparse(call.func)
        given = [ast.literal_eval(value) for value in call.args]
        named = {word.arg or "": ast.literal_eval(word.value) for word in call.keywords}
        if "" in named or len(named) < len(call.keywords):
            raise ValueError("two stars before an argument, or one name twice")
    except (SyntaxError, TypeError, ValueError) as error:
        raise ValueError(f"{name!r} is no call: {form}") from error
    make: Callable[..., object] = own_function(f"{module}:{function}")
    return lambda: make(*given, **named)
