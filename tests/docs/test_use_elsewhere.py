"""docs/own_data.md: an exported network is used by the lines that stand there, and by nothing of this project."""

import re
import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps
from support.own import network
from support.places import ROOT
from torch import nn

from heads.preparation import Preparation, transforms
from inference.exports import LARGE, export
from inference.photographs import FromPhotographs

BLOCKS = re.findall(r"^```python\n(.*?)^```", (ROOT / "docs" / "own_data.md").read_text(encoding="utf-8"), re.M | re.S)
NAMES = ["Häher", "cat", "dog", "owl", "two words"]
PREPARED = Preparation(40, 46)
FOUR_TIMES = """
import shutil, sys
for k in range(4):
    shutil.copy(f"{k}.jpg", "photo.jpg")
    exec(sys.argv[1], {})
"""


@pytest.mark.slow
def test_the_lines_name_a_photograph(tmp_path):
    (lines,) = (block for block in BLOCKS if "onnxruntime" in block)
    path = tmp_path / "checkpoint" / "ours" / "own" / "head_last.onnx"
    path.parent.mkdir(parents=True)
    model = network(len(NAMES))
    with torch.no_grad():
        model[-1].weight *= 50  # so that images are told apart
    export(nn.Sequential(FromPhotographs(PREPARED), model), path, {"class_names": NAMES, "preparation": {}}, LARGE)
    exif = Image.Exif()
    exif[0x0112] = 3  # upside down
    wanted = []
    for seed in range(4):
        pixels = np.random.default_rng(seed).integers(0, 256, (3, 2, 3), dtype=np.uint8)
        image = Image.fromarray(pixels).resize((70, 120), Image.Resampling.BICUBIC)
        image.save(tmp_path / f"{seed}.jpg", exif=exif)
        upright = ImageOps.exif_transpose(Image.open(tmp_path / f"{seed}.jpg"))
        with torch.no_grad():
            wanted.append(NAMES[model(transforms(PREPARED, train=False)(upright)[None])[0].argmax()])
    command = [sys.executable, "-X", "utf8", "-c", FOUR_TIMES, lines]
    result = subprocess.run(command, cwd=tmp_path, check=True, capture_output=True, encoding="utf-8")
    assert result.stdout.splitlines() == wanted
    assert len(set(wanted)) > 1  # the control
