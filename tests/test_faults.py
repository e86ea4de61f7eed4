"""What can go wrong, through the real command line: exit status 2, one line that names it, and every file as it was."""

import hashlib
import os
import struct
import zlib

import pytest
import torch
from PIL import Image
from test_imagenet_cli import crt_checkpoint, write_image

from checkpoint import save_checkpoint
from resnet import build_model

CE, LDAM, TEST, REPORT = "MetaSAug_CE_train.py", "MetaSAug_LDAM_train.py", "MetaSAug_test.py", "report.py"
HEAD, HEAD_TEST, LISTS = "ImageNet_iNat/train.py", "ImageNet_iNat/test.py", "ImageNet_iNat/data/prepare_lists.py"
DIGITS = ["--dataset", "digits", "--arch", "resnet8", "--no-cuda", "--epochs", "2"]
FOLDER = ["--dataset", "folder", "--data_root", "small", "--num_meta", "1", "--arch", "resnet8", "--no-cuda"]
LARGE = ["--dataset", "custom", "--data_root", "large", "--pretrained", "crt.pth", "--no-cuda", "--workers", "0"]
LISTED = [*LARGE, "--num_classes", "3", "--num_meta", "1", "--val_list", "good.txt", "--train_list"]


def bomb(path):
    """Write a PNG of a few bytes that says it has 10^10 pixels."""

    def chunk(kind, content):
        body = kind + content
        return struct.pack(">I", len(content)) + body + struct.pack(">I", zlib.crc32(body))

    header = struct.pack(">IIBBBBB", 100_000, 100_000, 1, 0, 0, 0, 0)
    chunks = (b"IHDR", header), (b"IDAT", zlib.compress(b"")), (b"IEND", b"")
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*each) for each in chunks))


@pytest.fixture(scope="module")
def sound(tmp_path_factory):
    """Images, lists and checkpoints with which nothing is wrong, beside some with which something is."""
    root = tmp_path_factory.mktemp("sound")
    for k in range(3):
        for split, number in (("train", 4), ("meta", 2), ("val", 1)):
            for i in range(number):
                write_image(root / "large" / split / f"class{k}" / f"{i}.png", k)
        for split in ("train", "test"):
            for i in range(3):
                write_image(root / "small" / split / f"class{k}" / f"{i}.png", k)
    crt_checkpoint(root / "crt.pth", 3)
    crt_checkpoint(root / "seven.pth", 7)
    (root / "text").write_text("something else")
    (root / "list.json").write_text("[]")
    line = "train/class{}/0.png {}\n"
    good = "".join(line.format(k, k) for k in (0, 1, 2, 0, 1, 2))
    for name, content in {
        "good.txt": good,
        "short.txt": good + "train/class1/0.png\n",
        "word.txt": good + "train/class1/0.png one\n",
        "high.txt": good + line.format(0, 3),
        "leaves.txt": good + "../outside.png 1\n",
        "two.txt": "".join(line.format(k, k) for k in (0, 2)) * 2,
        "gone.txt": good + "train/class1/gone.png 1\n",
    }.items():
        (root / name).write_text(content)
    model = build_model("resnet8", 10)
    state = {"epoch": 1, "state_dict": model.state_dict(), "arch": "resnet8", "dataset": "digits", "imb_factor": 0.1}
    save_checkpoint(state, root / "fits.pth.tar")
    save_checkpoint({**state, "state_dict": build_model("resnet8", 7).state_dict()}, root / "seven.pth.tar")
    content = bytearray((root / "fits.pth.tar").read_bytes())
    (root / "cut.pth.tar").write_bytes(content[: len(content) // 2])
    content[-1] ^= 1
    (root / "flipped.pth.tar").write_bytes(content)
    save_checkpoint({**state, "resume": {"binding": {"loss": "LDAM"}, "epochs": 2}}, root / "ldam_resume.pth.tar")
    save_checkpoint({"epoch": 0, "state_dict": {}, "resume": {"binding": {}, "epochs": 2}}, root / "old_resume.pth.tar")
    inner = torch.load(root / "crt.pth", weights_only=True)["state_dict_best"]
    feature = {name.removeprefix("module."): value for name, value in inner["feat_model"].items()}
    classifier = {name.removeprefix("module."): value for name, value in inner["classifier"].items()}
    head = {"epoch": 1, "state_dict": {"feature": feature, "classifier": classifier}, "dataset": "custom"}
    for name, more in {"miscounted": {"cls_num_list": [4, 3, 2, 2, 1]}, "unnamed": {"dataset": 7},
                       "listed": {"flags": {"val_list": "somewhere.txt"}}}.items():  # fmt: skip
        save_checkpoint({**head, **more}, root / f"{name}.pth.tar")
    save_checkpoint({"epoch": 0, "state_dict": classifier, "resume": {"epochs": 2}}, root / "head_resume.pth.tar")
    torch.save(os.system, root / "code.pth")
    return root


def spoiled_image(kind):
    def spoil(root, script):
        place = "small/train/class1/1.png" if script in (CE, LDAM) else "large/train/class1/1.png"
        path, whole = root / place, (root / place).read_bytes()
        path.unlink()
        if kind == "bomb":
            bomb(path)
        elif kind == "bomb without an ending":
            bomb(path.with_name("picture"))
        elif kind == "thin":
            Image.new("RGB", (1, 30_000)).save(path)
        elif kind != "missing":
            path.write_bytes({"empty": b"", "cut": whole[: len(whole) // 2], "text": b"not an image"}[kind])

    return spoil


def full_disk(root, _):
    folder = root / "checkpoint" / "ours" / "0"
    folder.mkdir(parents=True)
    (folder / "name_ckpt.pth.tar.tmp").symlink_to("/dev/full")


def taken_places(*names):
    """The first name is a folder where a file is wanted, or a file where a folder is; the others are empty files."""

    def spoil(root, _):
        folder = root / "checkpoint" / "ours" / "0"
        folder.mkdir(parents=True)
        (folder / names[0]).mkdir() if "lock" in names[0] else (folder / names[0]).touch()
        for name in names[1:]:
            (folder / name).touch()

    return spoil


def lost_class(part):
    def spoil(root, _):
        for path in (root / "large" / part / "class1").iterdir():
            path.unlink()

    return spoil


def earlier(root, _):
    """The state of a run to go on with is damaged, and so is the one before it."""
    folder = root / "checkpoint" / "ours" / "0"
    folder.mkdir(parents=True)
    for name in ("name_resume.pth.tar", "name_resume.pth.tar.previous"):
        (folder / name).write_bytes((root / "flipped.pth.tar").read_bytes())


ROWS = [
    (CE, ["--dataset", "mnist"], None, ["mnist", "cifar10"]),
    (CE, ["--imb_factor", "2"], None, ["--imb_factor 2.0"]),
    (LDAM, [*DIGITS, "--stage2", "mixup"], None, ["--stage2", "mixup", "reweight"]),
    (CE, [*DIGITS, "--epochs", "0"], None, ["--epochs 0"]),
    (CE, [*DIGITS, "--lr", "nan"], None, ["--lr nan"]),
    (CE, [*DIGITS, "--save_every", "-1"], None, ["--save_every -1"]),
    (CE, [*DIGITS, "--num_classes", "7"], None, ["--num_classes 7", "10"]),
    (CE, [*DIGITS, "--arch", "resnet33"], None, ["resnet33", "6n"]),
    (CE, [*DIGITS, "--idx", "../x"], None, ["--idx '../x'"]),
    (CE, [*DIGITS, "--workdir", "text"], None, ["text", "cannot be written"]),
    (CE, [*DIGITS, "--num_meta", "500"], None, ["class 0", "--num_meta 500"]),
    (CE, ["--dataset", "cifar10"], None, ["data/cifar-10-batches-py", "--data_root"]),
    (CE, ["--dataset", "folder", "--data_root", "nowhere"], None, ["nowhere/train"]),
    (CE, FOLDER, spoiled_image("empty"), ["class1/1.png (0 bytes)"]),
    (CE, FOLDER, spoiled_image("cut"), ["class1/1.png"]),
    (CE, FOLDER, spoiled_image("text"), ["class1/1.png"]),
    (CE, FOLDER, spoiled_image("bomb"), ["class1/1.png is absurdly large"]),
    (CE, FOLDER, spoiled_image("bomb without an ending"), ["class1/picture is absurdly large"]),
    (HEAD, LARGE, spoiled_image("bomb without an ending"), ["class1/picture is absurdly large"]),
    (CE, DIGITS, taken_places("name.lock"), ["name.lock cannot be written (Is a directory)"]),
    (CE, [*DIGITS, "--arch", "resnet8"], taken_places("earlier", "name_summary.json"), ["earlier cannot be written"]),
    (CE, [*DIGITS, "--lr", "1e30"], None, ["not finite in epoch 0, step", "nothing was saved yet"]),
    (CE, DIGITS, full_disk, ["name_ckpt.pth.tar cannot be written (No space left on device)"]),
    (CE, [*DIGITS, "--stage1", "flipped.pth.tar"], None, ["flipped.pth.tar is damaged (its checksum differs)"]),
    (CE, [*DIGITS, "--stage1", "fits.pth.tar", "--arch", "resnet14"], None, ["resnet8, not resnet14"]),
    (CE, [*DIGITS, "--resume", "none.pth.tar"], None, ["--resume none.pth.tar is not there"]),
    (CE, [*DIGITS, "--resume", "fits.pth.tar"], None, ["fits.pth.tar holds no run"]),
    (CE, [*DIGITS, "--resume", "ldam_resume.pth.tar"], None, ["loss LDAM, this run has CE"]),
    (CE, [*DIGITS, "--resume", "old_resume.pth.tar"], None, ["does not say its loss"]),
    (CE, [*DIGITS, "--resume", "auto"], earlier, ["name_resume.pth.tar is damaged", ".previous is damaged"]),
    (TEST, ["--checkpoint_path", "none"], None, ["there is no checkpoint none"]),
    (TEST, ["--checkpoint_path", "text"], None, ["text is cut, damaged or not a checkpoint"]),
    (TEST, ["--checkpoint_path", "code.pth"], None, ["code.pth is cut, damaged or not a checkpoint"]),
    (TEST, ["--checkpoint_path", "cut.pth.tar"], None, ["cut.pth.tar is cut"]),
    (TEST, ["--checkpoint_path", "flipped.pth.tar"], None, ["flipped.pth.tar is damaged (its checksum differs)"]),
    (TEST, ["--checkpoint_path", "seven.pth.tar"], None, ["7 classes", "10"]),
    (TEST, ["--checkpoint_path", "fits.pth.tar", "--dataset", "cifar100"], None, ["--dataset digits, not cifar100"]),
    (REPORT, ["list.json"], None, ["list.json"]),
    (HEAD, [*LISTED, "short.txt"], None, ["short.txt line 7"]),
    (HEAD, [*LISTED, "word.txt"], None, ["word.txt line 7", "one"]),
    (HEAD, [*LISTED, "high.txt"], None, ["high.txt line 7", "3"]),
    (HEAD, [*LISTED, "leaves.txt"], None, ["leaves.txt line 7", "../outside.png"]),
    (HEAD, [*LISTED, "two.txt"], None, ["class 1", "two.txt"]),
    (HEAD, [*LISTED, "nowhere.txt"], None, ["nowhere.txt"]),
    (HEAD, [*LISTED, "gone.txt"], None, ["class1/gone.png is missing"]),
    (HEAD, LARGE, spoiled_image("empty"), ["class1/1.png (0 bytes)"]),
    (HEAD, LARGE, spoiled_image("cut"), ["class1/1.png"]),
    (HEAD, LARGE, spoiled_image("bomb"), ["class1/1.png is absurdly large"]),
    (HEAD, LARGE, spoiled_image("thin"), ["class1/1.png is absurdly thin (1 x 30000)"]),
    (HEAD, LARGE, lost_class("train"), ["class1"]),
    (HEAD, LARGE, lost_class("meta"), ["class 1 (class1) has no meta image"]),
    (HEAD, [*LARGE, "--timeou", "0"], None, ["--timeou"]),
    (HEAD, [*LISTED, "good.txt", "--num_classes", "2000000000"], None, ["--num_classes 2000000000"]),
    (HEAD, [*LARGE, "--pretrained", "seven.pth"], None, ["seven.pth", "7 classes", "--fresh_head"]),
    (HEAD, [*LARGE, "--pretrained", "text"], None, ["text is cut, damaged or not a checkpoint"]),
    (HEAD, [*LARGE, "--dataset", "iNaturalist17"], None, ["train2017.json"]),
    (HEAD, [*LARGE, "--resume", "old_resume.pth.tar"], None, ["does not say its --"]),
    (HEAD, [*LARGE, "--cache_features", "1", "--cache_dir", "text"], None, ["text"]),
    (HEAD, [*LARGE, "--lr", "1e38"], None, ["not finite in epoch 0, step"]),
    (HEAD_TEST, ["--loading_path", "none.pth"], None, ["none.pth"]),
    (HEAD_TEST, ["--loading_path", "fits.pth.tar"], None, ["fits.pth.tar was trained on digits", "MetaSAug_test.py"]),
    (HEAD_TEST, ["--loading_path", "head_resume.pth.tar"], None, ["head_resume.pth.tar", "interrupted run"]),
    (HEAD_TEST, ["--loading_path", "miscounted.pth.tar", "--data_root", "large"], None, ["miscounted.pth.tar", "5 classes"]),
    (HEAD_TEST, ["--loading_path", "unnamed.pth.tar"], None, ["unnamed.pth.tar", "dataset is int"]),
    (HEAD_TEST, ["--loading_path", "listed.pth.tar", "--data_root", "large"], None, ["listed.pth.tar", "--val_list"]),
    (HEAD_TEST, ["--loading_path", "flipped.pth.tar", "--dataset", "custom"], None, ["flipped.pth.tar is damaged"]),
    (LISTS, ["ImageNet_LT", "--from", "nowhere", "--out", "lists"], None, ["nowhere/ImageNet_LT_train.txt"]),
    (LISTS, ["iNaturalist17"], None, ["--json_dir"]),
]


def digests(root):
    return {p: hashlib.sha256(p.read_bytes()).hexdigest() for p in root.rglob("*") if p.is_file() and not p.is_symlink()}


@pytest.mark.parametrize(("script", "flags", "spoil", "words"), ROWS, ids=range(len(ROWS)))
def test_a_fault_is_named_in_one_line_and_files_stay(sound, refused, tmp_path, script, flags, spoil, words):
    for path in sound.iterdir():
        (tmp_path / path.name).symlink_to(path)
    if spoil is not None:  # a copy of what is spoiled
        for name in ("small", "large"):
            (tmp_path / name).unlink()
            for path in (sound / name).rglob("*.png"):
                copy = tmp_path / path.relative_to(sound)
                copy.parent.mkdir(parents=True, exist_ok=True)
                copy.write_bytes(path.read_bytes())
        spoil(tmp_path, script)
    before = digests(sound) | digests(tmp_path)
    line = refused(script, *flags, **({"CIFAR_MD5": "{}"} if "cifar10" in flags else {}))
    assert all(word in line for word in words), line
    after = digests(sound) | digests(tmp_path)
    assert {path: after.get(path) for path in before} == before
    assert not [path for path in after.keys() - before.keys() if path.name.endswith((".pth.tar", ".tmp"))]


def test_a_file_that_holds_code_leaves_no_trace(sound, refused, tmp_path):
    class Code:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "trace"),)

    torch.save({"state_dict": Code()}, tmp_path / "code.pth.tar")
    out = ["--workdir", tmp_path]
    for script, flags in (
        (TEST, ["--checkpoint_path"]),
        (CE, [*DIGITS, *out, "--stage1"]),
        (CE, [*DIGITS, *out, "--resume"]),
        (HEAD, [*LARGE, *out, "--pretrained"]),
        (HEAD, [*LARGE, *out, "--resume"]),
        (HEAD_TEST, ["--loading_path"]),
    ):
        line = refused(script, *flags, tmp_path / "code.pth.tar", cwd=sound, TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD="1")
        assert "code.pth.tar is cut, damaged or not a checkpoint" in line
    assert not (tmp_path / "trace").exists()
    torch.load(tmp_path / "code.pth.tar", weights_only=False)  # the control
    assert (tmp_path / "trace").exists()
