"""The published code's figures. `GOLDEN_DIR` names another folder of figures of the same form."""

import os
import zlib
from pathlib import Path

import numpy as np
import torch
from support.places import ROOT
from torch import nn

GOLDEN = Path(os.environ.get("GOLDEN_DIR", ROOT / "tests" / "golden"))
RTOL = 1e-9


def figures(name):
    return dict(np.load(GOLDEN / name))


def load_weights(model, seed):
    with torch.no_grad():
        for name, p in model.named_parameters():
            n = np.random.RandomState((zlib.crc32(name.encode()) + seed) % 2**32).standard_normal(tuple(p.shape))
            if p.dim() >= 2:
                n = n * np.sqrt(2 / np.prod(p.shape[1:]))
            else:
                n = 1 + 0.1 * n if name.endswith("weight") else 0.1 * n
            p.copy_(torch.from_numpy(np.asarray(n)))


def batch(i, g, shape, batch_size=None):
    n = batch_size or int(g["batch_size"])
    r = np.random.RandomState(1000 + 7 * i + int(g["seed"]))
    inputs = r.standard_normal((n, *shape))
    labels = r.randint(0, int(g["num_classes"]), n)
    return torch.from_numpy(inputs), torch.from_numpy(labels).long()


def assert_close(ours, expected):
    expected = np.asarray(expected)
    ours = ours.detach().numpy() if torch.is_tensor(ours) else np.asarray(ours)
    np.testing.assert_allclose(ours, expected, rtol=RTOL, atol=1e-3 * RTOL * max(np.abs(expected).max(), 1e-300))


class Head(nn.Module):
    """A network that is a linear layer alone."""

    head = "fc"

    def __init__(self, features, classes):
        super().__init__()
        self.fc = nn.Linear(features, classes)

    def forward(self, x):
        return x, self.fc(x)
