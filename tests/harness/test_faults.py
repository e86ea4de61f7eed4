"""What can go wrong, through the real command line: exit status 2, one line that names it, and every file as it was."""

import math
import os
import shutil
import struct
import zlib
from pathlib import Path

import pytest
import torch
from PIL import Image
from support.finished_runs import write_run

from harness.checkpoint import save_checkpoint
from resnet import build_model

CE, LDAM, TEST, REPORT = "MetaSAug_CE_train.py", "MetaSAug_LDAM_train.py", "MetaSAug_test.py", "report.py"
PREDICT = "predict.py"
HEAD, HEAD_TEST, LISTS = "ImageNet_iNat/train.py", "ImageNet_iNat/test.py", "ImageNet_iNat/data/prepare_lists.py"
DIGITS = ["--dataset", "digits", "--arch", "resnet8", "--no-cuda", "--epochs", "2"]
FOLDER = ["--dataset", "folder", "--data_root", "small", "--num_meta", "1", "--arch", "resnet8", "--no-cuda"]
LARGE = ["--dataset", "custom", "--data_root", "large", "--pretrained", "crt.pth", "--no-cuda", "--workers", "0"]
TESTED = ["--loading_path", "crt.pth", "--dataset", "custom", "--data_root", "large", "--no-cuda", "--workers", "0"]


def bomb(path):
    """Write a PNG of a few bytes that says it has 10^10 pixels."""

    def chunk(kind, content):
        body = kind + content
        return struct.pack(">I", len(content)) + body + struct.pack(">I", zlib.crc32(body))

    header = struct.pack(">IIBBBBB", 100_000, 100_000, 1, 0, 0, 0, 0)
    chunks = (b"IHDR", header), (b"IDAT", zlib.compress(b"")), (b"IEND", b"")
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*each) for each in chunks))


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


def damage(path):
    path.write_bytes(Path(path.parents[3] / "flipped.pth.tar").read_bytes())


@pytest.fixture(scope="module")
def sound(tmp_path_factory, photos, large_photos):
    """Images and checkpoints with which nothing is wrong, beside some with which something is."""
    root = tmp_path_factory.mktemp("sound")
    (root / "small").mkdir()
    for name in ("train", "test"):
        (root / "small" / name).symlink_to(photos / name)
    (root / "large").symlink_to(large_photos / "my")
    (root / "crt.pth").symlink_to(large_photos / "crt.pth")
    (root / "text").write_text("something else")
    (root / "list.json").write_text("[]")
    (root / "good.txt").write_text("".join(f"train/class{k}/{i}.png {k}\n" for k in range(3) for i in range(2)))
    torch.save(os.system, root / "code.pth")

    inner = torch.load(root / "crt.pth", weights_only=True)["state_dict_best"]
    whole = {"feature": inner["feat_model"], "classifier": inner["classifier"]}
    parts = {"feature": {"x": torch.zeros(1)}, "classifier": {"fc.weight": torch.zeros(3, 2048), "fc.bias": torch.zeros(3)}}
    digits = {"epoch": 1, "arch": "resnet8", "dataset": "digits", "imb_factor": 0.1}
    infinite, small = torch.full((3,), math.inf), build_model("resnet8", 10).state_dict()
    for name, state in {
        "nan": {**digits, "state_dict": {**small, "linear.bias": torch.full((10,), math.nan)}},
        "deep": {**digits, "arch": "resnet1000000002", "state_dict": small},
        "infinite": {"state_dict": {**whole, "classifier": {**inner["classifier"], "module.fc.bias": infinite}}},
        "fits": {**digits, "state_dict": small},
        "seven": {**digits, "state_dict": build_model("resnet8", 7).state_dict()},
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
    return root


SMALL, BIG, RUN = "small/train/class1/", "large/train/class1/", "checkpoint/ours/0/"
ROWS = [
    (CE, ["--dataset", "mnist"], None, ["mnist", "cifar10"]),
    (CE, ["--imb_factor", "2"], None, ["--imb_factor 2.0"]),
    (LDAM, [*DIGITS, "--stage2", "mixup"], None, ["--stage2", "mixup", "reweight"]),
    (CE, [*DIGITS, "--num_classes", "7"], None, ["--num_classes 7", "10"]),
    (CE, [*DIGITS, "--arch", "resnet33"], None, ["--arch", "resnet33", "6n"]),
    (CE, [*DIGITS, "--workdir", "text"], None, ["text", "cannot be written"]),
    (CE, [*DIGITS, "--workdir", "text/below"], None, ["text/below", "(Not a directory)"]),
    (CE, [*DIGITS, "--workdir", "dangling"], {"dangling": dangle}, ["dangling/checkpoint", "cannot be written"]),
    (CE, [*DIGITS, "--workdir", "pipe"], {"pipe": os.mkfifo}, ["pipe/checkpoint", "cannot be written"]),
    (CE, [*DIGITS, "--save_name", "n" * 231], None, ["File name too long", "--save_name may have 230 bytes there"]),
    (CE, [*DIGITS, "--save_name", "é" * 116], None, ["File name too long", "--save_name may have 230 bytes there"]),
    (CE, [*DIGITS, "--idx", "n" * 256], None, ["File name too long", "a name may have 255 bytes"]),
    (CE, [*DIGITS, "--save_name", "a\nb"], None, ["--save_name 'a\\nb'", "printable"]),
    (CE, [*DIGITS, "--save_name=-a"], None, ["--save_name '-a'", "no - or . before"]),
    (CE, [*DIGITS, "--save_name", ".a"], None, ["--save_name '.a'", "no - or . before"]),
    (CE, [*DIGITS, "--save_name", "a "], None, ["--save_name 'a '", "no blank"]),
    (CE, [*DIGITS, "--save_name", os.fsdecode(b"\xff")], None, ["--save_name '\\udcff'", "printable"]),
    (CE, [*DIGITS, "--idx", "a\nb"], None, ["--idx 'a\\nb'", "printable"]),
    (CE, [*DIGITS, "--num_meta", "500"], None, ["--num_meta 500 would take every training image", "lower it"]),
    (CE, ["--dataset", "cifar10"], None, ["data/cifar-10-batches-py", "--data_root"]),
    (CE, ["--dataset", "folder", "--data_root", "nowhere"], None, ["nowhere/train"]),
    (CE, FOLDER, {SMALL + "1.png": cut}, ["class1/1.png"]),
    (CE, FOLDER, {SMALL + "1.png": bomb}, ["class1/1.png is absurdly large"]),
    (CE, FOLDER, {SMALL + "picture": bomb}, ["class1/picture is absurdly large"]),
    (CE, DIGITS, {RUN + "name.lock": Path.mkdir}, ["name.lock cannot be written (Is a directory)"]),
    (CE, FOLDER, {RUN + "earlier": Path.touch, RUN + "name_summary.json": Path.touch}, ["earlier cannot be written"]),
    (CE, [*FOLDER, "--lr", "1e30"], None, ["not finite in epoch 0, step", "nothing was saved yet"]),
    (CE, FOLDER, {RUN + "name_ckpt.pth.tar.tmp": fill_disk}, ["name_ckpt.pth.tar cannot be written (No space left on"]),
    (CE, [*DIGITS, "--stage1", "flipped.pth.tar"], None, ["flipped.pth.tar is damaged (its checksum differs)"]),
    (CE, [*DIGITS, "--stage1", "fits.pth.tar", "--arch", "resnet14"], None, ["fits.pth.tar does not fit", "layer1.1."]),
    (CE, [*DIGITS, "--resume", "none.pth.tar"], None, ["--resume none.pth.tar is not there"]),
    (CE, [*DIGITS, "--resume", "fits.pth.tar"], None, ["fits.pth.tar holds no run"]),
    (CE, [*DIGITS, "--resume", "old_resume.pth.tar"], None, ["does not say its --dataset"]),
    (CE, [*DIGITS, "--resume", "auto"], {RUN + "name_resume.pth.tar": damage, RUN + "name_resume.pth.tar.previous": damage},
     ["name_resume.pth.tar is damaged", ".previous is damaged"]),
    (TEST, ["--checkpoint_path", "none"], None, ["there is no checkpoint none"]),
    (TEST, ["--checkpoint_path", "text"], None, ["text is not a file that torch.save wrote"]),
    (TEST, ["--checkpoint_path", "code.pth"], None, ["code.pth holds more than tensors", "a call of posix.system"]),
    (TEST, ["--checkpoint_path", "cut.pth.tar"], None, ["cut.pth.tar is damaged (its end is missing)"]),
    (TEST, ["--checkpoint_path", "flipped.pth.tar"], None, ["flipped.pth.tar is damaged (its checksum differs)"]),
    (TEST, ["--checkpoint_path", "seven.pth.tar"], None, ["7 classes", "10"]),
    (TEST, ["--checkpoint_path", "fits.pth.tar", "--dataset", "cifar100"], None, ["--dataset digits, not cifar100"]),
    *((script, [*flags, "nan.pth.tar"], None, ["nan.pth.tar cannot be used: linear.bias holds numbers that are not finite"])
      for script, flags in ((TEST, ["--checkpoint_path"]), (TEST, ["--export", "onnx", "--checkpoint_path"]),
                            (PREDICT, ["small/train/class1/1.png", "--checkpoint_path"]), (CE, [*DIGITS, "--stage1"]))),
    (TEST, ["--checkpoint_path", "deep.pth.tar"], None, ["it says that it holds a resnet1000000002", "those of a resnet8"]),
    (CE, [*DIGITS, "--arch", "resnet1000000002"], None, ["--arch: 'resnet1000000002' is unknown", "from 8 to 1202"]),
    (HEAD, [*LARGE, "--pretrained", "infinite.pth.tar"], None, ["the head, cannot be used: bias holds numbers"]),
    (HEAD_TEST, ["--loading_path", "infinite.pth.tar", "--dataset", "custom", "--data_root", "large"], None,
     ["the head, cannot be used: bias holds numbers that are not finite"]),
    (TEST, ["--checkpoint_path", "fits.pth.tar", "--export", "torchscript"], {"fits.pt": os.mkfifo}, ["fits.pt", "a pipe"]),
    (REPORT, ["list.json"], None, ["list.json"]),
    (REPORT, ["runs", "--out", "text/below"], {"runs": a_run}, ["text/below cannot be written (Not a directory)"]),
    (REPORT, ["runs", "--out", "pipe"], {"runs": a_run, "pipe": os.mkfifo}, ["pipe cannot be written (File exists)"]),
    (HEAD, LARGE, {BIG + "1.png": bomb}, ["class1/1.png is absurdly large"]),
    (HEAD, LARGE, {BIG + "picture": bomb}, ["class1/picture is absurdly large"]),
    (HEAD, LARGE, {BIG + "1.png": thin}, ["class1/1.png is absurdly thin (1 x 30000)"]),
    (HEAD, LARGE, {"large/train/class1": empty}, ["class1"]),
    (HEAD, LARGE, {"large/meta/class1": empty}, ["class 1 (class1) has no meta image"]),
    (HEAD, [*LARGE, "--timeou", "0"], None, ["--timeou"]),
    (HEAD, [*LARGE, "--train_list", "good.txt", "--val_list", "good.txt", "--num_meta", "1", "--num_classes", "2000000000"],
     None, ["--num_classes 2000000000"]),
    (HEAD, [*LARGE, "--resume", "old_resume.pth.tar"], None, ["does not say its --"]),
    (HEAD, [*LARGE, "--cache_features", "1", "--cache_dir", "text"], None, ["text"]),
    (HEAD, [*LARGE, "--lr", "1e38", "--batch_size", "2", "--save_every", "0"], None, ["not finite in epoch 0, step 1"]),
    (HEAD_TEST, ["--loading_path", "none.pth"], None, ["none.pth"]),
    (HEAD_TEST, ["--loading_path", "fits.pth.tar"], None, ["fits.pth.tar was trained on digits", "MetaSAug_test.py"]),
    (HEAD_TEST, ["--loading_path", "head_resume.pth.tar"], None, ["head_resume.pth.tar", "interrupted run"]),
    (HEAD_TEST, ["--loading_path", "miscounted.pth.tar", "--data_root", "large"], None, ["miscounted.pth.tar", "5 classes"]),
    (HEAD_TEST, ["--loading_path", "unnamed.pth.tar"], None, ["unnamed.pth.tar cannot be used: its dataset is 7"]),
    (HEAD_TEST, ["--loading_path", "listed.pth.tar", "--data_root", "large"], None, ["listed.pth.tar", "--val_list"]),
    (HEAD_TEST, ["--loading_path", "flipped.pth.tar", "--dataset", "custom"], None, ["flipped.pth.tar is damaged"]),
    *((HEAD_TEST, [*TESTED, "--loading_path", path, *lists, "--out", out], None, [f"--out {out} {words}"])
      for path, lists, out, words in (
          ("miscounted.pth.tar", [], "miscounted.pth.tar", "would replace miscounted.pth.tar, which this command reads"),
          ("crt.pth", ["--val_list", "good.txt"], "good.txt", "would replace good.txt, which this command reads"),
          ("crt.pth", [], "large/train/class1/0.png", "is another file than a table of this command"))),
    (HEAD_TEST, [*TESTED, "--loading_path", "crt.pth", "--out", "mine.csv"],
     {"mine.csv": lambda path: path.write_text("class,teacher\n")}, ["mine.csv is another file than a table of this"]),
    (HEAD_TEST, [*TESTED, "--out", "pipe"], {"pipe": os.mkfifo}, ["pipe cannot be written (it is a folder, a pipe or a"]),
    (HEAD_TEST, [*TESTED, "--out", "large"], None, ["large cannot be written (it is a folder, a pipe or a device)"]),
    (HEAD_TEST, [*TESTED, "--out", "text/x.csv"], None, ["text/x.csv cannot be written (Not a directory)"]),
    (HEAD_TEST, [*TESTED, "--out", "n" * 252], None, ["cannot be written (File name too long)"]),
    (LISTS, ["iNaturalist17"], None, ["invalid choice"]),
]  # fmt: skip


def signatures(*roots):
    """What tells whether somebody wrote to a file, without reading it."""
    stats = {path: path.stat() for root in roots for path in root.rglob("*") if path.is_file() and not path.is_symlink()}
    return {path: (stat.st_ino, stat.st_size, stat.st_mtime_ns) for path, stat in stats.items()}


@pytest.mark.parametrize(("script", "flags", "spoil", "words"), ROWS, ids=range(len(ROWS)))
def test_a_fault_is_named_in_one_line_and_files_stay(sound, large_photos, refused, tmp_path, script, flags, spoil, words):
    for path in sound.iterdir():
        (tmp_path / path.name).symlink_to(path)
    for place, make in (spoil or {}).items():
        top = tmp_path / place.split("/")[0]
        if top.is_symlink():  # a copy of what is spoiled
            top.unlink()
            shutil.copytree(sound / top.name, top)
        (tmp_path / place).parent.mkdir(parents=True, exist_ok=True)
        make(tmp_path / place)
    roots = sound, large_photos, tmp_path
    before = signatures(*roots)
    line = refused(script, *flags, **({"CIFAR_MD5": "{}"} if "cifar10" in flags else {}))
    assert all(word in line for word in words), line
    after = signatures(*roots)
    assert {path: after.get(path) for path in before} == before
    assert not [path for path in after.keys() - before.keys() if path.name.endswith((".pth.tar", ".tmp"))]


def test_a_file_that_holds_code_leaves_no_trace(sound, refused, tmp_path):
    class Code:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "trace"),)

    torch.save({"state_dict": Code()}, tmp_path / "code.pth.tar")
    (tmp_path / "x.png").touch()
    out = ["--workdir", tmp_path]
    for script, flags in (
        (TEST, ["--checkpoint_path"]),
        ("predict.py", [tmp_path / "x.png", "--checkpoint_path"]),
        (CE, [*FOLDER, *out, "--stage1"]),
        (CE, [*FOLDER, *out, "--resume"]),
        (HEAD, [*LARGE, *out, "--pretrained"]),
        (HEAD, [*LARGE, *out, "--resume"]),
        (HEAD_TEST, ["--loading_path"]),
    ):
        line = refused(script, *flags, tmp_path / "code.pth.tar", cwd=sound, TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD="1")
        assert "code.pth.tar holds more than tensors and plain values" in line
        assert "it holds code, a call of posix.mkdir" in line
    assert not (tmp_path / "trace").exists()
    torch.load(tmp_path / "code.pth.tar", weights_only=False)  # the control
    assert (tmp_path / "trace").exists()
