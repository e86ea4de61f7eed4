"""Small images and trainings that several tests of the harness go on from."""

import pytest
from support.data import crt_checkpoint
from support.image_lists import class_folders, save_noise

# A network that draws from every global generator.
NETWORK = """
import random
import numpy as np
from torch import nn
from torch.nn import functional as F
from resnet import build_model

class Drawing(nn.Module):
    head = "inner.linear"

    def __init__(self, num_classes):
        super().__init__()
        self.inner = build_model("resnet8", num_classes)

    def forward(self, x):
        features, logits = self.inner(x)
        if self.training:
            logits = F.dropout(logits, 0.1) * (1 + 0.1 * np.random.rand() + 0.1 * random.random())
        return features, logits
"""


@pytest.fixture(scope="session")
def photos(tmp_path_factory):
    """Folders of three classes with 14, 12 and 10 training images and 3 test images, and a network in `drawing.py`."""
    root = tmp_path_factory.mktemp("photos")
    for k, count in enumerate((14, 12, 10)):
        for split, number in (("train", count), ("test", 3)):
            save_noise(root / split / f"class{k}", [f"{i}.png" for i in range(number)], number)
    (root / "drawing.py").write_text(NETWORK)
    return root


@pytest.fixture(scope="session")
def small_training(photos):
    """A command: a run of four epochs of four steps, the last two epochs in stage 2."""
    flags = "--imb_factor 0.6 --num_meta 2 --batch-size 8 --no-cuda --threads 1 --epochs 4 --meta_start 2 --lam 0.5"
    more = "--save_name a -p 1 --arch drawing:Drawing --select_on heldout --num_heldout 1"
    return f"MetaSAug_LDAM_train.py --dataset folder --data_root {photos} {flags} {more}"


@pytest.fixture(scope="session")
def whole(photos, small_training, run_in):
    """The folder of such a run that nothing stopped."""
    run_in(f"{small_training} --workdir whole", cwd=photos)
    return photos / "whole" / "checkpoint" / "ours" / "0"


@pytest.fixture(scope="session")
def large_photos(tmp_path_factory):
    """Folders of three classes with 6, 4 and 2 training images, and a cRT checkpoint."""
    root = tmp_path_factory.mktemp("large_photos")
    class_folders(root / "my", (6, 4, 2))
    crt_checkpoint(root / "crt.pth", 3)
    return root


@pytest.fixture(scope="session")
def large_training(large_photos):
    """A command: a training on them."""
    data = f"--dataset custom --data_root {large_photos}/my"
    return f"ImageNet_iNat/train.py {data} --pretrained {large_photos}/crt.pth --no-cuda -p 1 --workers 0"
