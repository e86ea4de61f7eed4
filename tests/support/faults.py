"""Files with which something is wrong, beside some with which nothing is, for `test_refusals.py`."""

import math
import os
import shutil
import struct
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from support.classifiers import NAMES, write_all
from support.data import crt_checkpoint, write_image
from support.finished_runs import write_run
from support.image_lists import class_folders
from support.own import write_features, write_photos
from support.places import ROOT

from harness.checkpoint import save_checkpoint
from resnet import build_model

mkdir, mkfifo, touch = Path.mkdir, os.mkfifo, Path.touch


def bomb(path):
    """Write a BMP of a few bytes that says it has 10^10 pixels."""
    size = (100_000, 100_000)
    path.write_bytes(struct.pack("<2sIIIIiiHHIIiiII", b"BM", 54, 0, 54, 40, *size, 1, 24, 0, 0, 0, 0, 0, 0))


def cut(path):
    path.write_bytes(path.read_bytes()[:50])


def thin(path):
    Image.new("RGB", (1, 30_000)).save(path)


def empty(folder):
    for path in folder.iterdir():
        path.unlink()


def fill_disk(path):
    path.symlink_to("/dev/full")


def dangle(path):
    path.symlink_to("nowhere")


def a_run(path):
    write_run(path, "a", log=False)


def two_runs(path):
    a_run(path)
    write_run(path, "b", log=False, stage2="isda")


def damage(path):
    path.write_bytes(Path(path.parents[3] / "flipped.pth.tar").read_bytes())


def no_table(path):
    path.write_text("class,teacher\n")


def write_checkpoints(root):
    """Checkpoints that fit nothing here, or hold what they cannot."""
    inner = torch.load(root / "crt.pth", weights_only=True)["state_dict_best"]
    whole = {"feature": inner["feat_model"], "classifier": inner["classifier"]}
    parts = {"feature": {"x": torch.zeros(1)}, "classifier": {"fc.weight": torch.zeros(3, 2048), "fc.bias": torch.zeros(3)}}
    digits = {"epoch": 1, "arch": "resnet8", "dataset": "digits", "imb_factor": 0.1, "flags": {"meta_start": 1}}
    wide = {"module.fc.weight": torch.zeros(7, 2048), "module.fc.bias": torch.zeros(7)}
    infinite, small = torch.full((3,), math.inf), build_model("resnet8", 10).state_dict()
    for name, state in {
        "nan": {**digits, "state_dict": {**small, "linear.bias": torch.full((10,), math.nan)}},
        "deep": {**digits, "arch": "resnet1000000002", "state_dict": small},
        "infinite": {"state_dict": {**whole, "classifier": {**inner["classifier"], "module.fc.bias": infinite}}},
        "fits": {**digits, "state_dict": small},
        "seven": {**digits, "state_dict": build_model("resnet8", 7).state_dict()},
        "seven_heads": {"state_dict": {**whole, "classifier": wide}},
        "short": {**digits, "state_dict": small, "stage2_counts": [1, 2], "cls_num_list": [9] * 10},
        "old_resume": {"state_dict": parts["feature"], "resume": {"binding": {}, "epochs": 2}},
        "head_resume": {"state_dict": parts["classifier"], "resume": {"epochs": 2}},
        "miscounted": {"state_dict": whole, "dataset": "custom", "cls_num_list": [4, 3, 2, 2, 1]},
        "unnamed": {"state_dict": parts, "dataset": 7},
        "listed": {"state_dict": parts, "dataset": "custom", "flags": {"val_list": "somewhere.txt"}},
    }.items():
        save_checkpoint(state, root / f"{name}.pth.tar")
    content = bytearray((root / "fits.pth.tar").read_bytes())
    (root / "cut.pth.tar").write_bytes(content[: len(content) // 2])
    content[-1] ^= 1
    (root / "flipped.pth.tar").write_bytes(content)
    torch.save(os.system, root / "code.pth")


def write_networks(folder):
    """Networks to predict with, those of `write_all` and some that cannot be used."""
    folder.mkdir()
    write_all(folder)
    slim, small, rows = (torch.load(folder / f"{name}.pth.tar", weights_only=True) for name in ("slim", "small", "none"))
    flat = {name: value for part in slim["state_dict"].values() for name, value in part.items()}
    for name, state in {
        "headless": {"state_dict": {"conv1.weight": torch.zeros(1)}},
        "scalar": {"state_dict": {"linear.weight": torch.zeros(())}},
        "backbone": {"state_dict": {"feature": slim["state_dict"]["feature"]}},
        "other": {"state_dict": flat, "arch": "my:net", "cls_num_list": [9, 5, 2]},
        "cifar": {**slim, "dataset": "cifar10"},
        "resume": {**slim, "resume": {}},
        "names": {**small, "class_names": NAMES[:2]},
        "two": {**rows, "class_names": NAMES[:2]},
        "large": {**small, "state_dict": {**small["state_dict"], "linear.weight": torch.full((3, 64), 3e38)}},
    }.items():
        torch.save(state, folder / f"{name}.pth.tar")
    (folder / "gone.csv.tmp").write_text('Häher,1\nowl,1\n"two, words",1\n', encoding="utf-8")
    Image.new("RGB", (40000, 2)).save(folder / "thin.png")
    np.savez(folder / "wide.npz", features=np.ones((1, 8), np.float32))
    (folder / "small.onnx").mkdir()


def write_sound(root):
    """Write images, features and checkpoints with which nothing is wrong, beside some with which something is."""
    for k in range(3):
        for path in [*(f"train/class{k}/{i}.png" for i in range(5 - k)), f"test/class{k}/0.png"]:
            write_image(root / "small" / path, k)
    class_folders(root / "large", (6, 4, 2))
    for part in ("train", "val"):
        (root / "split" / part / "c").mkdir(parents=True)
    write_photos(root)
    write_features(root / "f.npz", [40, 14, 5])
    shutil.copy(ROOT / "tests" / "support" / "tiny_networks.py", root)
    crt_checkpoint(root / "crt.pth", 3)
    good = "".join(f"train/class{k}/{i}.png {k}\n" for k in range(3) for i in range(2))
    for name, text in {
        "text": "something else", "list.json": "[]", "good.txt": good, "gone.txt": f"{good}train/class1/gone.png 1\n",
        "short.txt": "train/class0/0.png 0\ntrain/class1/0.png\n",
        "no_class_1.txt": "train/class0/0.png 0\ntrain/class2/0.png 2\n" * 2,
    }.items():  # fmt: skip
        (root / name).write_text(text)
    write_checkpoints(root)
    write_networks(root / "net")
