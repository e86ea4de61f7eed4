"""What train_own.py trains on: images and their backbone, or features of a file."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor, nn

from data_utils import TRAIN_STREAM
from datasets.drawn_sets import Sets
from datasets.examples import repeat_notes, row_digests, united
from datasets.feature_files import read_features
from datasets.feature_lists import FeatureRows, feature_lists
from datasets.image_check import check_readable, readable_sets
from datasets.image_lists import ImageList
from datasets.large_sets import read_lists
from harness.process_group import Group
from harness.weights import network_weights
from heads.backbone import fingerprint
from heads.batches import ListedImages, Rows, ShardedRows, extractor, plain_images
from heads.feature_shards import FeatureCache
from heads.networks import Backbone, open_backbone
from heads.own_flags import OwnFlags

OpenRows = Callable[[Any], list[Rows]]  # the views of a list, (M, A) each; the first is the plain one


@dataclass(frozen=True)
class ImageSource:
    """Images, and the backbone whose features of them are computed once; `weights` is a digest of it."""

    sets: Sets
    backbone: Backbone
    weights: str

    @property
    def features(self) -> int:
        """How many features an image has."""
        return self.backbone.features

    def subject(self, flags: OwnFlags) -> str:
        """Return what is trained, in words."""
        where = "" if flags.pretrained is None else f" with the weights {flags.pretrained}"
        return f"{'all of' if flags.finetune else 'head of'} {self.backbone.name}{where}"

    def digests(self) -> dict[str, str]:
        """Return what tells it from others."""
        return {**self.sets.digests(), "backbone weights": self.weights}

    def facts(self, whole: bool = True) -> dict[str, Any]:
        """Return what a checkpoint of a head, or of the whole network, says of it."""
        return {"backbone": self.backbone.facts(whole)}

    def without_bad(self, flags: OwnFlags, group: Group) -> ImageSource:
        """Read all images now, and leave out those that cannot be read."""
        size = self.backbone.prepared.resize_size
        return replace(self, sets=readable_sets(self.sets, flags.drawn, group, size))

    def open_rows(self, flags: OwnFlags, group: Group) -> OpenRows:
        """Have the features computed or read, and return what gives the views of a list.

        Of each image there is a plain view, and --views augmented ones. They depend on no seed, and not on how the images
        are shared out among the sets: so many runs share them.
        """
        assert self.sets.lists is not None
        parts, prepared = self.sets.lists.parts, self.backbone.prepared
        whole = united(parts)
        augmented = ListedImages(whole, prepared, True, 0, TRAIN_STREAM)
        extract = extractor(self.backbone.model.to(group.device))
        check = partial(check_readable, self.sets, group, prepared.resize_size, whole=True)
        sizes = self.features, group, flags.test_batch_size, flags.workers
        cache = FeatureCache(flags.cache_folder, extract, self.weights, *sizes, check)
        views = [cache.open("images", plain_images(whole, prepared), 0)]
        views += [cache.open("augmented", augmented, view) for view in range(flags.views)]
        places = {file: row for row, file in enumerate(whole.items.tolist())}

        def rows(of: ImageList) -> list[Rows]:
            order = np.array([places[file] for file in of.items.tolist()], dtype=np.int64)
            return [ShardedRows(view, order) for view in views]

        return rows


def read_image_source(flags: OwnFlags) -> ImageSource:
    """Read the lists of images and the backbone; a `UserError` names what is wrong."""
    own_lists = flags.train_list, flags.val_list, flags.meta_list
    lists = read_lists("custom", flags.data_root, flags.num_meta, None, *own_lists, flags.val_fraction, flags.val_seed)
    sets = flags.drawn(lists)
    assert flags.backbone is not None
    backbone = open_backbone(flags.backbone, flags.pretrained, flags.images)
    return ImageSource(sets, backbone, f"{flags.backbone} {fingerprint(backbone.model)}")


@dataclass(frozen=True)
class FeatureSource:
    """Features of files."""

    sets: Sets[FeatureRows]

    @property
    def features(self) -> int:
        """How many features a row has."""
        return int(self.sets.train.matrix.shape[1])

    def subject(self, flags: OwnFlags) -> str:
        """Return what is trained, in words."""
        return f"head of the {self.features} features in {flags.features}"

    def digests(self) -> dict[str, str]:
        """Return what tells it from others."""
        return self.sets.digests()

    def facts(self, whole: bool = True) -> dict[str, Any]:
        """Return what a checkpoint says of it."""
        return {"backbone": None}

    def without_bad(self, flags: OwnFlags, group: Group) -> FeatureSource:
        """Return it as it is: nothing is bad, or the file could not have been read."""
        return self

    def open_rows(self, flags: OwnFlags, group: Group) -> OpenRows:
        """Return what gives the features of a list."""
        return lambda of: [of.features()]


Source = ImageSource | FeatureSource


def head_weights(head: nn.Linear) -> dict[str, Tensor]:
    """Return the weights of a head alone, as a checkpoint has them."""
    return {f"fc.{name}": tensor for name, tensor in network_weights(head).items()}


def read_feature_files(flags: OwnFlags) -> FeatureSource:
    """Read the files of features; a `UserError` names what is wrong."""
    given = [None if path is None else read_features(Path(path)) for path in flags.feature_files]
    train, val, meta = given
    assert train is not None
    lists = feature_lists(train, val, meta, flags.val_fraction, flags.val_seed)
    rows = [row_digests(part.features()) for part in (lists.train, lists.test)]
    notes = repeat_notes(rows[0], lists.train.targets, rows[1])
    return FeatureSource(flags.drawn(replace(lists, notes=[*lists.notes, *notes])))


def read_source(flags: OwnFlags) -> Source:
    """Read what the flags say is trained on."""
    return read_image_source(flags) if flags.features is None else read_feature_files(flags)
