"""What train_own.py trains on: images and their backbone, or features of a file."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor, nn

from data_utils import TRAIN_STREAM
from datasets.drawn_sets import Sets
from datasets.examples import repeat_notes, row_digests, united
from datasets.feature_files import read_features
from datasets.feature_lists import feature_lists
from datasets.image_check import readable_sets
from datasets.large_sets import read_lists
from harness.process_group import Group
from harness.weights import network_weights
from heads.backbone import fingerprint
from heads.batches import ListedImages, extractor, plain_images
from heads.feature_shards import FeatureCache
from heads.networks import Backbone, open_backbone
from heads.own_flags import OwnFlags

OpenRows = Callable[[Any], list[np.ndarray]]  # the views of a list, (M, A) each; the first is the plain one


@dataclass(frozen=True)
class Source:
    """What is trained on: images and the backbone whose features of them are computed once, or features of files.

    `weights` is a digest of the backbone, `features` how many an example has.
    """

    sets: Sets[Any]
    features: int
    backbone: Backbone | None = None
    weights: str | None = None

    def subject(self, flags: OwnFlags) -> str:
        """Return what is trained, in words."""
        if self.backbone is None:
            return f"head of the {self.features} features in {flags.features}"
        where = "" if flags.pretrained is None else f" with the weights {flags.pretrained}"
        return f"{'all of' if flags.finetune else 'head of'} {self.backbone.name}{where}"

    def digests(self) -> dict[str, str]:
        """Return what tells it from others."""
        return self.sets.digests() | ({} if self.weights is None else {"backbone weights": self.weights})

    def facts(self, whole: bool = True) -> dict[str, Any]:
        """Return what a checkpoint of a head, or of the whole network, says of it."""
        return {"backbone": None if self.backbone is None else self.backbone.facts(whole)}

    def without_bad(self, flags: OwnFlags, group: Group) -> Source:
        """Read all images now, and leave out those that cannot be read; of features nothing is bad."""
        if self.backbone is None:
            return self
        size = self.backbone.prepared.resize_size
        return replace(self, sets=readable_sets(self.sets, flags.drawn, group, size))

    def open_rows(self, flags: OwnFlags, group: Group) -> OpenRows:
        """Have the features computed or read, and return what gives the views of a list.

        Of each image there is a plain view, and --views augmented ones. They depend on no seed, and not on how the images
        are shared out among the sets: so many runs share them.
        """
        if self.backbone is None:
            return lambda of: [of.features()]
        assert self.sets.lists is not None
        parts, prepared = self.sets.lists.parts.values(), self.backbone.prepared
        whole, extract = united(parts), extractor(self.backbone.model.to(group.device))
        sizes = self.features, group, flags.test_batch_size, flags.workers
        cache = FeatureCache(flags.cache_folder, extract, str(self.weights), *sizes)
        augmented = ListedImages(whole, prepared, True, 0, TRAIN_STREAM)
        views = cache.open(("images", plain_images(whole, prepared), 0))
        views += cache.open(*(("augmented", augmented, view) for view in range(flags.views)))
        places = {file: row for row, file in enumerate(whole.items.tolist())}
        return lambda of: [view[[places[file] for file in of.items.tolist()]] for view in views]


def read_source(flags: OwnFlags) -> Source:
    """Read the lists of images and the backbone, or the files of features; a `UserError` names what is wrong."""
    if flags.features is not None:
        paths = flags.features, flags.val_features, flags.meta_features
        train, val, meta = (None if path is None else read_features(Path(path)) for path in paths)
        assert train is not None
        rows = feature_lists(train, val, meta, flags.val_fraction, flags.val_seed)
        parts = rows.split()
        digests = [row_digests(part.features()) for part in (parts.train, parts.test)]
        notes = repeat_notes(digests[0], parts.train.targets, digests[1])
        return Source(flags.drawn(replace(rows, notes=notes)), train.features.shape[1])
    own_lists = flags.train_list, flags.val_list, flags.meta_list
    lists = read_lists("custom", Path(flags.data_root), *own_lists, flags.val_fraction, flags.val_seed)
    sets = flags.drawn(lists)
    assert flags.backbone is not None
    backbone = open_backbone(flags.backbone, flags.pretrained, flags.images)
    return Source(sets, backbone.features, backbone, f"{flags.backbone} {fingerprint(backbone.model)}")


def head_weights(head: nn.Linear) -> dict[str, Tensor]:
    """Return the weights of a head alone, as a checkpoint has them."""
    return {f"fc.{name}": tensor for name, tensor in network_weights(head).items()}
