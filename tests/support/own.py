"""One's own images and features, and a small network of one's own to be their backbone."""

import numpy as np
import torch
from PIL import Image
from torch import nn

BACKBONE = "my_network:make"
SOURCE = """
import torch
from torch import nn

def make(width=6, classes=5):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        layers = [nn.Conv2d(3, width, 7, stride=8), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten()]
        return nn.Sequential(*layers, nn.Linear(4 * width, classes))

def make_normed(width=6, classes=5, dropout=0.2):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        layers = [nn.Conv2d(3, width, 7, stride=8), nn.BatchNorm2d(width), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten()]
        return nn.Sequential(*layers, nn.Dropout(dropout), nn.Linear(4 * width, classes))

def make_still():
    return make_normed(dropout=0.0)
"""
COUNTS = {"Bär ä": 14, "cat": 9, "dog": 6, "owl": 3}
FLAGS = ["--data_root", "photos", "--backbone", BACKBONE, "--image_size", "32", "--no-cuda", "--workers", "0",
         "--epochs", "3", "--batch_size", "8", "--num_meta", "2"]  # fmt: skip


def write_photos(folder):
    """Write photos/<class>/*, noise in a colour a class, and the network's module into a folder."""
    generator = np.random.default_rng(0)
    for name, count in COUNTS.items():
        (folder / "photos" / name).mkdir(parents=True)
        colour = generator.integers(60, 200, 3)
        for i in range(count):
            pixels = colour + generator.normal(0, 50, (*generator.integers(36, 90, 2), 3))
            Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(folder / "photos" / name / f"{i} ö.png")
    (folder / "my_network.py").write_text(SOURCE)


def network(classes, function="make", **settings):
    """A network that `SOURCE` makes."""
    made = {}
    exec(SOURCE, made)
    model = made[function](classes=classes, **settings)
    assert isinstance(model, nn.Module)
    return model.eval()


def write_features(path, counts, features=12, seed=0, val=6, spread=1.5, **more):
    """Write features of classes around their own centres, `val` rows a class to test on; return the arrays."""
    generator = np.random.default_rng(seed)
    centres = generator.normal(0, 1, (len(counts), features))
    labels = np.concatenate([np.repeat(np.arange(len(counts)), counts), np.repeat(np.arange(len(counts)), val)])
    rows = centres[labels] + generator.normal(0, spread, (len(labels), features))
    split = np.array(["train"] * sum(counts) + ["val"] * (len(labels) - sum(counts)))
    arrays = {"features": rows.astype(np.float32), "labels": labels, "split": split, **more}
    np.savez(path, **arrays)
    return arrays


def saved(path):
    """What a checkpoint holds, read without this project's code."""
    return torch.load(path, weights_only=True)
