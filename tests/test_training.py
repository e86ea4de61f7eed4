"""The scripts as their users call them: trainings, what these leave behind, mistakes."""

import re
import shutil
from html import unescape
from pathlib import Path

import numpy as np
import pytest
import torch
from onnxruntime import InferenceSession
from support.compare import distance
from support.data import write_image
from support.own import saved
from support.places import ROOT, copy_of_the_project
from support.runs import log_of, summary_of

from data_utils import build_dataset

CE, LDAM, TEST = "MetaSAug_CE_train.py", "MetaSAug_LDAM_train.py", "MetaSAug_test.py"
# The published command, word for word (python3.6 read as python3), in its script.
PUBLISHED = (
    f"{LDAM} --gpu 0 --lr 0.1 --lam 0.75 --imb_factor 0.05 --dataset cifar100 --num_classes 100 "
    "--save_name MetaSAug_cifar100_LDAM_imb0.05 --idx 1"
)
ARCH = "--arch tiny_networks:logits --no-cuda"
TINY = f"--dataset digits --imb_factor 0.1 --batch-size 64 {ARCH}"
OURS = "checkpoint/ours"
TINY_NETWORKS = ROOT / "tests" / "support" / "tiny_networks.py"
PLAIN = "these weights come from plain cross-entropy, without MetaSAug"


@pytest.fixture
def tiny_folder(tmp_path):
    """Where a run of TINY leaves its files."""
    shutil.copy(TINY_NETWORKS, tmp_path)
    return tmp_path / OURS / "0"


@pytest.fixture(scope="module")
def trained(run_in, tmp_path_factory):
    """A run of CE through both stages: the folder of its files a_*, and what it printed."""
    root = tmp_path_factory.mktemp("trained")
    shutil.copy(TINY_NETWORKS, root)
    out = run_in(f"{CE} {TINY} --epochs 3 --meta_start 1 --idx d/1 --save_name a -p 2", cwd=root).stdout
    return root / OURS / "d" / "1", out


def write_folders(root, counts):
    """Write as many images into folders of classes as are told for each."""
    for place, count in counts.items():
        for i in range(count):
            write_image(root / place / f"{i}.png", 100 * place.endswith(("cat", "0")) + i)


def weights(path):
    return saved(path)["state_dict"]


def test_published_command_trains_and_its_checkpoint_is_tested_with_the_same_accuracy(run, cifar100_files, tmp_path):
    root, sums = cifar100_files
    (tmp_path / "data").symlink_to(root)
    out = run(f"{PUBLISHED} --epochs 2 --meta_start 1 --no-cuda --arch resnet8", CIFAR_MD5=sums).stdout
    printed = re.findall(r"^epoch \d  .*test loss ([\d.]+)  test acc ([\d.]+)", out, re.M)
    assert [float(loss) > 0 for loss, _ in printed] == [True, True]  # the published code always printed 0
    assert "(20 to 1 training images a class)" in out
    best, released = tmp_path / OURS / "1" / "MetaSAug_cifar100_LDAM_imb0.05_ckpt.pth.tar", tmp_path / "released.pth.tar"
    published = {key: saved(best)[key] for key in ("epoch", "state_dict", "best_acc1", "optimizer")}
    torch.save(published, released, _use_new_zipfile_serialization=False)
    accuracy, found = float(printed[1][1]), []  # of stage 2
    # A released file has the published counts.
    for path, flags, most in ((best, "", 20), (released, "--dataset cifar100 --imb_factor 0.05", 490)):
        first, _, *classes = run(f"{TEST} --no-cuda {flags} --checkpoint_path {path}", CIFAR_MD5=sums).stdout.splitlines()
        assert first == f"Dataset: cifar100\tImb_factor: 20\tAccuracy: {accuracy:.2f}\tError: {100 - accuracy:.2f}"
        assert re.search(rf"class000 +{most} training images, m", "\n".join(classes))
        found.append([line.split()[-1] for line in classes])
    assert found[0] == found[1]


def test_a_run_leaves_its_files_and_says_which(trained):
    folder, out = trained
    ends = [f"{kind}.pth.tar" for kind in ("ckpt", "last", "resume", "stage1")]
    ends += ["ckpt_predictions.npz", "last_predictions.npz", "metrics.jsonl", "mistakes.json", "summary.json", "tensorboard"]
    assert sorted(path.name for path in folder.iterdir()) == sorted(f"a_{end}" for end in ends)  # none of those before
    assert next((folder / "a_tensorboard").iterdir()).stat().st_size > 0
    words = ("the best epoch is chosen on the test set from epoch 1 on;", "epochs: 3, stage 2 from epoch 1 on: MetaSAug\n")
    assert all(each in out for each in words)
    assert re.search(r"epoch 1/3 stage 2  \[2/\d+\]  Loss [\d.]+  Acc@1 [\d.]+  left \d", out)
    assert "\r" not in out  # no bar where nobody looks
    assert re.search(r"\ndone in .*a_ckpt.pth.tar.*\nto make its report: python3 .*report.py .*a_summary.json\n\Z", out)


def test_log_summary_and_predictions_of_a_run(trained):
    folder, out = trained
    lines, summary = log_of(folder, "a"), summary_of(folder, "a")
    assert re.fullmatch(r"[0-9a-f]{40}\+?" if (ROOT / ".git").exists() else "None", str(summary["commit"]))
    assert summary["machine"]["cores"] >= 1
    accuracies = [line["test_acc1"] for line in lines]
    assert (summary["best"]["acc1"], summary["last"]["acc1"]) == (max(accuracies[1:]), accuracies[-1])
    assert summary["since"] == 1
    assert saved(folder / "a_last.pth.tar")["best_acc1"] == pytest.approx(max(accuracies[1:]))
    for which, kind in (("best", "ckpt"), ("last", "last")):
        kept = np.load(folder / f"a_{kind}_predictions.npz")
        assert 100 * (kept["target"] == kept["predicted"]).mean() == pytest.approx(summary[which]["acc1"])
        assert 0.1 <= kept["confidence"].min() <= kept["confidence"].max() <= 1
        line = next(line for line in out.splitlines() if line.startswith(f"{which} epoch"))
        assert line.endswith("  many {many:.2f}  medium {medium:.2f}  few {few:.2f}".format(**summary[which]))
    assert len(summary["last"]["trace_estimated"]) == len(summary["last"]["trace_learned"]) == 10


def test_weights_from_before_stage_2_are_said_to_be_plain_ones(run, trained, tiny_folder, tmp_path):
    out = run(f"{CE} {TINY} --epochs 1 --meta_start 1 --save_name a").stdout
    assert f"note: no stage 2 up to epoch 0 (--meta_start 1): {PLAIN}\n" in out
    assert PLAIN not in trained[1]
    for folder, name, plain in ((tiny_folder, "ckpt", True), (trained[0], "stage1", True), (trained[0], "ckpt", False)):
        assert (PLAIN in run(f"{TEST} {ARCH} --checkpoint_path {folder}/a_{name}.pth.tar").stdout) == plain
    table = run(f"report.py {tiny_folder} {trained[0]} --out compared").stdout
    assert re.findall(r"ours/0/a +\| (\S+ \(0, stage 1\))", table) == ["last (0, stage 1)", "best (0, stage 1)"]
    assert table.count("(0, stage 1)") == 2
    page = unescape((tmp_path / "compared" / "report.html").read_text(encoding="utf-8"))
    assert re.search(r"Not come to stage 2, and so plain cross-entropy: \S+ours/0/a\.", page)


def test_uneven_test_sets_have_the_mean_over_classes_everywhere(run, trained, tiny_folder, tmp_path):
    """Digits have 53 to 55 test images a class; as many of each, by a folder, and nothing is said of it."""
    folder, out = trained
    summary, last = summary_of(folder, "a"), folder / "a_last.pth.tar"
    for which in ("best", "last"):
        assert summary[which]["mean_per_class"] == pytest.approx(np.mean(summary[which]["per_class"]))
        words = "{epoch}: accuracy {acc1:.2f}  mean over classes {mean_per_class:.2f}  many".format(**summary[which])
        assert f"{which} epoch {words}" in out
    found = summary["last"]["mean_per_class"]
    assert found != pytest.approx(summary["last"]["acc1"], abs=1e-6)
    assert log_of(folder, "a")[-1]["test_mean_per_class"] == found
    assert f"  test acc {summary['last']['acc1']:.2f}  mean over classes {found:.2f}  " in out
    assert saved(last)["best_mean_per_class"] == summary["best"]["mean_per_class"]
    assert f"\tMean over classes: {found:.2f}\n" in run(f"{TEST} {ARCH} --checkpoint_path {last}").stdout
    write_folders(tmp_path / "even", {"train/0": 4, "train/1": 4, "test/0": 2, "test/1": 2})
    own = f"{CE} {ARCH} --dataset folder --data_root even --num_meta 1"
    even = run(f"{own} --epochs 2 --save_name even").stdout
    even += run(f"{TEST} {ARCH} --data_root even --checkpoint_path {tiny_folder}/even_last.pth.tar").stdout
    even += "".join((tiny_folder / f"even_{end}").read_text() for end in ("summary.json", "metrics.jsonl"))
    shutil.rmtree(tmp_path / "even" / "test" / "1")  # a class without test images counts for neither
    gap = run(f"{own} --epochs 1 --save_name gap").stdout
    assert "classes: 0 many, 0 medium, 2 few; 1 of them without test images, in none of these figures)" in gap
    assert not re.search("mean over classes|mean_per_class", even + gap, re.I)
    assert "without test images" not in even + out
    for place, shown in ((folder, True), (tiny_folder, False)):
        table = run(f"report.py {place} --out out --force").stdout
        assert ("| mean over classes |" in table, "in the mean over classes" in table) == (shown, shown)
        assert (f"| {found:.2f} " in table, repr(found) in (tmp_path / "out/runs.csv").read_text()) == (shown, shown)
    page = unescape((tmp_path / "out" / "report.html").read_text(encoding="utf-8"))
    assert "1 of 2 classes have no test images and are in none of the figures: 1." in page


@pytest.mark.usefixtures("tiny_folder")
def test_a_run_is_tested_and_reported_with_its_own_figures(run, trained, tmp_path):
    last = summary_of(trained[0], "a")["last"]
    first, shots, *others = run(f"{TEST} {ARCH} --checkpoint_path {trained[0]}/a_last.pth.tar").stdout.splitlines()
    assert first.startswith("Dataset: digits\tImb_factor: 10\t")
    assert shots == "Accuracy per shot: many {many:.2f}  medium {medium:.2f}  few {few:.2f}".format(**last)
    assert others[0] == "Macro-F1: {macro_f1:.2f}  calibration error (ECE): {ece:.2f}".format(**last)
    assert [float(line.split()[-1]) for line in others[1:]] == pytest.approx(last["per_class"], abs=0.01)
    assert run(f"report.py {trained[0]} --out compared").stdout.count("| a ") == 3
    page = (tmp_path / "compared" / "report.html").read_text()
    for part in ("shots", "classes", "reliability", "confusion", "curve_train_loss", "curve_grad_norm"):
        assert f'id="set0-{part}"' in page


def test_a_run_repeats_itself_and_sets_the_earlier_one_aside(run, tiny_folder):
    command = f"{CE} {TINY} --epochs 2 --meta_start 1 --save_name a"
    last, aside = tiny_folder / "a_last.pth.tar", tiny_folder / "earlier" / "1"
    run(command)
    first = {path.name for path in tiny_folder.iterdir()}
    assert f"note: the files of an earlier run a are now in {OURS}/0/earlier/1" in run(command).stdout
    assert {path.name for path in aside.iterdir()} == first
    assert distance(weights(last), weights(aside / last.name)) == 0
    run(f"{command} --seed 1")
    assert distance(weights(last), weights(aside / last.name)) > 0.01


def test_bf16_trains_like_float32_and_saves_float32(run, refused, tiny_folder):
    command = f"{CE} {TINY} --epochs 2 --meta_start 1 --threads 1"
    for amp in ("off", "bf16"):
        run(f"{command} --save_name {amp} --amp {amp}")
    ours, theirs = ([line["train_loss"] for line in log_of(tiny_folder, amp)] for amp in ("bf16", "off"))
    assert set(ours).isdisjoint(theirs)
    assert ours == pytest.approx(theirs, rel=0.05)
    assert {value.dtype for value in weights(tiny_folder / "bf16_last.pth.tar").values()} == {torch.int64, torch.float32}
    assert summary_of(tiny_folder, "bf16")["threads"] == 1
    line = refused(f"{command} --stage1 {tiny_folder}/bf16_stage1.pth.tar --save_name x")
    assert "amp bf16, this run has off" in line


@pytest.mark.usefixtures("tiny_folder")
@pytest.mark.parametrize(
    ("kind", "flags", "words"),
    [
        ("last", "--meta_start 2", "stands at epoch 3, which must be one of stage 1, from 1 to 1 here"),
        ("inside", "--meta_start 2", "stands at epoch 2, which must be one of stage 1, from 1 to 1 here"),
        ("stage1", "--meta_start 0", "from 1 to 0 here"),
        ("stage1", "--imb_factor 0.2", "cls_num_list"),
        ("stage1", "--seed 7", "seed 42"),
        ("stage1", "--arch resnet8", "missing bn1.bias"),
    ],
)
def test_a_stage_1_that_does_not_serve_is_refused(refused, trained, kind, flags, words):
    folder = trained[0]
    if kind == "inside":
        state = {**saved(folder / "a_last.pth.tar"), "epoch": 2}
        del state["checksum"]
        torch.save(state, folder / "a_inside.pth.tar")
    command = f"{LDAM} {TINY} --epochs 3 --meta_start 1 --stage1 {folder}/a_{kind}.pth.tar {flags}"
    assert words in refused(command)


def test_a_stage_1_of_the_images_now_held_out_is_refused(run, refused, tiny_folder):
    """As many images a class, but others: 15 to the meta set, or 10 to it and 5 held out."""
    command, path = f"{CE} {TINY} --imb_factor 1 --epochs 2 --meta_start 1", tiny_folder / "a_stage1.pth.tar"
    run(f"{command} --num_meta 15 --save_name a")
    held = refused(f"{command} --select_on heldout --num_heldout 5 --save_name b --stage1 {path}")
    assert "was trained with train_digest" in held
    counts = build_dataset("digits", 10, 1.0, num_heldout=5).cls_num_list
    assert saved(path)["cls_num_list"] == counts  # so these do not tell


def test_the_best_epoch_is_chosen_on_held_out_images(run, tiny_folder):
    out = run(f"{CE} {TINY} --epochs 4 --meta_start 1 --select_on heldout --num_heldout 20 --save_name held").stdout
    lines, summary = log_of(tiny_folder, "held"), summary_of(tiny_folder, "held")
    best, accuracies = summary["best"], [line["heldout_acc1"] for line in lines]
    highest = max(accuracies[1:])
    assert (best["epoch"], best["heldout_acc1"]) == (accuracies.index(highest, 1), highest)
    assert summary["last"]["heldout_acc1"] == accuracies[-1]
    assert best["acc1"] == lines[best["epoch"]]["test_acc1"]
    assert re.search(r"meta 100  test 540  held out \d+", out)  # the log says what the choice was made on
    for words in (f"held-out acc {accuracies[-1]:.2f}", "best epoch is chosen on held-out training images"):
        assert words in out
    assert saved(tiny_folder / "held_ckpt.pth.tar")["epoch"] == best["epoch"] + 1


@pytest.mark.parametrize(("make", "beside"), [("logits", False), ("Pair", True)])
def test_own_images_and_a_network_of_ones_own(run, tiny_folder, tmp_path, make, beside):
    """Trained, gone on with, tested, used and exported; its file lies in the current folder or beside the scripts."""
    scripts = ROOT
    if beside:
        scripts = copy_of_the_project(tmp_path / "checkout")
        (tmp_path / "tiny_networks.py").rename(scripts / "tiny_networks.py")
    write_folders(tmp_path / "my", {"train/cat": 30, "train/dog": 16, "test/cat": 1})
    arch = f"--arch tiny_networks:{make} --no-cuda"
    command = f"{scripts}/{LDAM} --dataset folder --data_root my {arch} --epochs 3 --meta_start 1 --batch-size 8"
    assert "(20 to 6 training images a class)" in run(command).stdout
    run(f"{command} --save_name cut", status=143, STOP_AT="7", STOP_BY="15")
    out = run(f"{command} --resume {tiny_folder}/cut_resume.pth.tar --save_name again").stdout
    assert re.search(r"going on in epoch [12] after step \d", out)
    path = tiny_folder / "again_last.pth.tar"
    assert distance(weights(path), weights(tiny_folder / "name_last.pth.tar")) == 0
    tested = run(f"{scripts}/{TEST} --data_root my --checkpoint_path {path} {arch}").stdout
    assert re.match(r"Dataset: folder\tAccuracy: [\d.]+\tError: [\d.]+\n", tested)
    assert re.search(r"^  cat +20 training images", tested, re.M)
    predicted = run(f"{scripts}/predict.py --checkpoint_path {path} {arch} my/test/cat/0.png --export onnx").stdout
    exported = path.with_name("again_last.onnx")
    assert re.match(rf"my/test/cat/0.png\t(cat|dog) [\d.]+\t(cat|dog) [\d.]+\nwrote {exported}: logits of", predicted)
    pixels = torch.zeros(4, 32, 32, 3, dtype=torch.uint8)  # any number, though it was made with one
    assert InferenceSession(exported).run(None, {"pixels": pixels.numpy()})[0].shape == (4, 2)


def test_images_that_cannot_be_read_are_listed_or_left_out(run, tiny_folder, tmp_path):
    write_folders(tmp_path / "my", {"train/cat": 22, "train/dog": 22, "test/cat": 3, "test/dog": 3})
    bad = [*sorted(tmp_path.glob("my/train/*/?.png")), *sorted(tmp_path.glob("my/test/dog/[12].png"))]
    for path in bad:
        path.write_text("no image")
    command, said = f"{CE} {ARCH} --dataset folder --data_root my --epochs 1", "22 of 50 images cannot be read"
    *lines, more, last = run(command, status=2).stderr.splitlines()
    assert [line.split(" (")[0] for line in lines] == [str(path.relative_to(tmp_path)) for path in bad[:20]]
    assert more == "and 2 more"
    assert last.startswith(f"{CE}: error: {said}, see above: remove or replace them")
    assert not list(tmp_path.rglob("*.pth.tar"))
    assert f"note: --skip_bad: {said} and are left out: my/train/cat/0.png" in run(f"{command} --skip_bad").stdout
    assert summary_of(tiny_folder, "name")["cls_num_list"] == [2, 2]
    Path(tmp_path, "my/test/cat/0.png").write_text("no image")
    tested = run(f"{TEST} {ARCH} --checkpoint_path {tiny_folder}/name_ckpt.pth.tar --data_root my", status=2)
    assert tested.stderr.endswith("3 of 6 images cannot be read, see above: remove or replace them\n")  # no --skip_bad
