"""ImageNet_iNat as its users call it: published commands, several processes, one's own images, mistakes."""

import csv
import json
import os
import re
import shutil

import numpy as np
import pytest
import torch
from conftest import ROOT
from PIL import Image
from test_head_step import slow_loss
from torch.nn import functional as F
from torchvision.models import resnet50

from features import meta_indices, train_indices
from large_sets import read_sets
from loss import EstimatorCV, MetaSAugCE

# The published commands, word for word (python3.6 read as python3), inside ImageNet_iNat.
LAUNCH = ["-m", "torch.distributed.launch", "--nproc_per_node=2", "--master_port", "53212", "train.py"]
PUBLISHED = [
    *("--lr", "0.0003", "--meta_lr", "0.1", "--workers", "0", "--batch_size", "256", "--epochs", "1"),
    *("--dataset", "ImageNet_LT", "--num_classes", "1000", "--data_root", "../ImageNet"),
]
QUIET = {"PYTHONWARNINGS": "ignore"}  # torch.distributed.launch warns of its own age


def colour(k):
    return tuple(int(v) for v in np.random.default_rng(k).integers(0, 256, 3))


def write_image(path, k):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (40, 32), colour(k)).save(path)


def crt_checkpoint(path, classes, form="cRT", tested=()):
    """A file of cRT's form: a ResNet-50 whose features differ by colour, and a head of small random weights.

    For the classes `tested` the head is that of the nearest centroid, but a quarter of them (rounded up) is never found, and
    the next quarter only as the third guess: so top-1 and top-5 accuracy differ, and from 0 and 100 %.
    """
    torch.manual_seed(0)
    net = resnet50(weights=None, zero_init_residual=True)
    feature = {f"module.{k}": v for k, v in net.state_dict().items() if not k.startswith("fc.")}
    weight, bias = torch.randn(classes, 2048) * 0.01, torch.zeros(classes)
    if tested:
        centroids = features_of_colours(net, tested)  # (T, A)
        squares = torch.cdist(centroids, centroids).square()  # (T, T)
        nearest = squares.sort(dim=1).values  # the first is 0, that to itself
        own, quarter = centroids.square().sum(1), -(-len(tested) // 4)
        own[quarter : 2 * quarter] += nearest[quarter : 2 * quarter, 2:4].mean(1)
        own[:quarter] += squares.max()
        scale = 10 / squares.median()
        weight[list(tested)], bias[list(tested)] = 2 * scale * centroids, -scale * own
        others = torch.ones(classes, dtype=torch.bool).index_fill_(0, torch.tensor(tested), False)
        bias[others] = scale * (centroids.square().sum(1).min() - 2 * squares.max())
    classifier = {"module.fc.weight": weight, "module.fc.bias": bias}
    path.parent.mkdir(parents=True, exist_ok=True)
    if form == "torchvision":
        torch.save(net.state_dict(), path)
    else:
        state = {"feat_model": feature, "classifier": classifier}
        torch.save({"epoch": 10, "state_dict_best": state, "best_acc": 0.4, "centroids": None}, path)


@torch.no_grad()
def features_of_colours(net, classes):
    """The features (T, A) of images of one colour as the test transform of ImageNet_LT gives them."""
    colours = torch.tensor([colour(k) for k in classes]) / 255
    normal = (colours - torch.tensor([0.485, 0.456, 0.406])) / torch.tensor([0.229, 0.224, 0.225])
    body = torch.nn.Sequential(*list(net.eval().children())[:-1])
    return body(normal.view(-1, 3, 1, 1).expand(-1, 3, 224, 224)).flatten(1)


def copy_project(folder):
    """The project's code where a test may write lists and models into it."""
    for path in [*ROOT.glob("*.py"), *ROOT.glob("ImageNet_iNat/**/*.py"), *ROOT.glob("ImageNet_iNat/**/*.sh")]:
        target = folder / path.relative_to(ROOT)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, target)
    return folder / "ImageNet_iNat"


@pytest.fixture(scope="module")
def own_images(tmp_path_factory):
    """Folders of four classes with 9, 6, 4 and 3 training images, and checkpoints for them."""
    root = tmp_path_factory.mktemp("own")
    for k, count in enumerate((9, 6, 4, 3)):
        for split, number in (("train", count), ("meta", 2), ("val", 2)):
            for i in range(number):
                write_image(root / "my" / split / f"class{k}" / f"image {i}.png", k)
    crt_checkpoint(root / "crt.pth", 4, tested=range(4))
    crt_checkpoint(root / "torchvision.pth", 4, "torchvision")
    return root


def own(root, *flags):
    return ["--dataset", "custom", "--data_root", root / "my", "--pretrained", root / "crt.pth", "--no-cuda",
            "--workers", "0", *flags]  # fmt: skip


def losses(out):
    return [float(v) for v in re.findall(r"train loss ([\d.]+)|test loss ([\d.]+)", out) for v in v if v]


def last_accuracy(out):
    return re.findall(r"test acc ([\d.]+)  top-5 ([\d.]+)", out)[-1]


def python(run, *words, **kwargs):
    return run("sh", "-c", 'exec python3 "$@"', "python3", *words, **kwargs)


def test_two_processes_train_as_one_and_test_prints_what_training_printed(run, own_images, tmp_path):
    train = ROOT / "ImageNet_iNat" / "train.py"
    flags = ["--epochs", "2", "--lr", "0.01", "-p", "1"]
    two = python(run, *LAUNCH[:-1], train, *own(own_images, *flags, "--batch_size", "4", "--workdir", "two"), **QUIET).stdout
    assert "2 processes" in two
    assert two.count("done in") == 1  # only one process prints
    one = run(train, *own(own_images, *flags, "--batch_size", "8", "--workdir", "one")).stdout
    assert losses(two) == pytest.approx(losses(one), rel=1e-4)
    states = [
        torch.load(tmp_path / d / "checkpoint/ours/custom/MetaSAug_custom_last.pth.tar", weights_only=True)
        for d in ("one", "two")
    ]
    for key in ("fc.weight", "fc.bias"):
        ours, theirs = (state["state_dict"]["classifier"][key] for state in states)
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-6)
    for key in ("count", "mean", "covariance"):
        torch.testing.assert_close(states[0]["estimator"][key], states[1]["estimator"][key], rtol=1e-3, atol=1e-5)
    assert not any("num_batches_tracked" in key for key in states[0]["state_dict"]["feature"])

    accuracy, top5 = last_accuracy(one)
    assert 0 < float(accuracy) < 100
    path = tmp_path / "one/checkpoint/ours/custom/MetaSAug_custom_last.pth.tar"
    flags = ["--data_root", own_images / "my", "--loading_path", path, "--no-cuda", "--workers", "1"]
    tested = run(ROOT / "ImageNet_iNat" / "test.py", *flags).stdout
    expected = f"Dataset: custom\tAccuracy: {accuracy}\tError: {100 - float(accuracy):.2f}\tTop-5: {top5}"
    assert tested.splitlines()[0] == expected
    table = list(csv.DictReader(path.with_name("MetaSAug_custom_last_classes.csv").read_text().splitlines()))
    assert [row["training images"] for row in table] == ["9", "6", "4", "3"]
    assert np.mean([float(row["accuracy"]) for row in table]) == pytest.approx(float(accuracy), abs=0.01)
    summary = json.loads((tmp_path / "two/checkpoint/ours/custom/MetaSAug_custom_summary.json").read_text())
    assert summary["processes"] == 2


@pytest.mark.filterwarnings("default")
def test_training_takes_metasaug_steps_with_the_rates_that_the_flags_say(main, own_images, tmp_path):
    """Against double backward over the cached features, in float64; and what it would be without one of the parts."""
    epochs, lr, lam, meta_lr, decay, batch = 3, 0.02, 0.9, 40.0, 0.01, 8
    flags = ["--epochs", epochs, "--lr", lr, "--lam", lam, "--meta_lr", meta_lr, "--wd", decay, "--momentum", 0.8,
             "--batch_size", batch, "--cache_features", 1, "--cache_dir", "c", "--seed", 5]  # fmt: skip
    out = main("train.py", *own(own_images, *flags))
    sets = read_sets("custom", own_images / "my", 10)
    parts = {}
    for name, part in (("train", sets.train), ("meta", sets.meta)):
        (path,) = (tmp_path / "c").glob(f"{name}_0_*.f16")
        rows = np.fromfile(path, np.float16).reshape(len(part), 2048)
        parts[name] = torch.from_numpy(rows.astype(np.float64)), torch.from_numpy(part.targets)
    start = torch.load(own_images / "crt.pth", weights_only=True)["state_dict_best"]["classifier"]
    begin = start["module.fc.weight"].double()

    def loop(lam=lam, meta_lr=meta_lr, decay=decay, lr=lr, counts=sets.cls_num_list, nesterov=True):
        torch.set_default_dtype(torch.float64)
        head = torch.nn.Linear(2048, 4)
        with torch.no_grad():
            head.weight.copy_(begin)
            head.bias.copy_(start["module.fc.bias"])
        criterion, estimator = MetaSAugCE(counts), EstimatorCV(2048, 4, diagonal=True)
        optimizer = torch.optim.SGD(head.parameters(), lr, momentum=0.8, nesterov=nesterov, weight_decay=decay)
        batches, metas = train_indices(len(sets.train), batch, 5), meta_indices(len(sets.meta), batch, 5)
        losses = []
        for (epoch, index), (_, meta_index) in zip(batches, metas, strict=False):
            if epoch == epochs:
                break
            training, meta = ((z[i], y[i]) for (z, y), i in ((parts["train"], index), (parts["meta"], meta_index)))
            ratio, weights = lam * epoch / epochs, (head.weight, head.bias)
            sigma = estimator.covariance.clone().requires_grad_()
            grads = torch.autograd.grad(slow_loss(*weights, training, sigma, criterion, ratio), weights, create_graph=True)
            stepped = [w - lr * g for w, g in zip(weights, grads, strict=True)]
            loss_meta = F.cross_entropy(F.linear(meta[0], *stepped), meta[1])
            moved = sigma - meta_lr * torch.autograd.grad(loss_meta, sigma)[0]
            loss = slow_loss(*weights, training, moved.detach(), criterion, ratio)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            estimator.update(*training)
            losses.append(float(loss.detach()) * len(index))
        torch.set_default_dtype(torch.float32)
        return head.weight.detach() - begin, estimator, sum(losses[-3:]) / len(sets.train)

    state = torch.load(tmp_path / "checkpoint/ours/custom/MetaSAug_custom_last.pth.tar", weights_only=True)
    ours = state["state_dict"]["classifier"]["fc.weight"].double() - begin
    expected, estimator, loss = loop()
    assert float((ours - expected).norm() / expected.norm()) < 1e-4
    for name in ("count", "mean", "covariance"):
        torch.testing.assert_close(state["estimator"][name].double(), getattr(estimator, name), rtol=1e-4, atol=1e-6)
    assert float(re.findall(r"train loss ([\d.]+)", out)[-1]) == pytest.approx(loss, abs=2e-4)
    for change in ({"lam": 0.0}, {"meta_lr": 0.0}, {"decay": 0.0}, {"lr": 0.021}, {"counts": [1] * 4}, {"nesterov": False}):
        other = loop(**change)[0]
        assert float((other - ours).norm() / ours.norm()) > 1e-3, change


def test_cached_features_train_without_the_images(run, own_images, tmp_path):
    images = shutil.copytree(own_images / "my", tmp_path / "images")
    cache = ["--cache_features", "2", "--cache_dir", "c"]
    flags = own(own_images, "--epochs", "3", "--lr", "0.01", "--batch_size", "8", *cache)
    flags[3] = images
    train = ROOT / "ImageNet_iNat" / "train.py"
    run(train, *flags)
    assert len(list((tmp_path / "c").glob("*.f16"))) == 5  # two views of training and meta, one of test
    first = torch.load(tmp_path / "checkpoint/ours/custom/MetaSAug_custom_last.pth.tar", weights_only=True)
    for path in images.rglob("*.png"):  # the same size and time, no longer an image
        stat = path.stat()
        path.write_bytes(b"x" * stat.st_size)
        os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    out = run(train, *flags).stdout
    assert out.count("read from") == 5
    second = torch.load(tmp_path / "checkpoint/ours/custom/MetaSAug_custom_last.pth.tar", weights_only=True)
    assert torch.equal(first["state_dict"]["classifier"]["fc.weight"], second["state_dict"]["classifier"]["fc.weight"])


@pytest.mark.slow
def test_published_command_with_two_processes_and_with_one(run, tmp_path):
    """A thousand classes, one training image each; the meta and test lists name the same files again."""
    folder = copy_project(tmp_path / "project")
    names = [f"train/n{k:04}/picture of {k}.jpg" for k in range(1000)]
    for k, name in enumerate(names):
        write_image(tmp_path / "project" / "ImageNet" / name, k)
    lines = [f"{name} {k}" for k, name in enumerate(names)]
    for part, rows in (("train", lines), ("val", lines * 10), ("test", lines[::20])):
        (folder / "data" / f"ImageNet_LT_{part}.txt").write_text("\n".join(rows) + "\n")
    crt_checkpoint(folder / "models" / "ImageNet_LT_cRT.pth", 1000, tested=range(0, 1000, 20))
    command = " ".join(["python3", *LAUNCH, *PUBLISHED])
    two = run("sh", "-c", command, cwd=folder, timeout=2400, **QUIET).stdout
    print(two)
    checkpoint = "checkpoint/ours/ImageNet_LT/MetaSAug_ImageNet_LT_ckpt.pth.tar"
    tested = run("sh", "-c", f"python3 test.py --dataset ImageNet_LT --data_root ../ImageNet --loading_path {checkpoint}",
                 cwd=folder).stdout  # fmt: skip
    print(tested)
    accuracy, top5 = last_accuracy(two)
    assert 0 < float(accuracy) < float(top5) < 100
    first = f"Dataset: ImageNet_LT\tAccuracy: {accuracy}\tError: {100 - float(accuracy):.2f}\tTop-5: {top5}"
    assert tested.splitlines()[0] == first
    again = run("sh", tmp_path / "project" / "ImageNet_iNat" / "test.sh", status=1)  # from any folder
    assert first in again.stdout.splitlines()
    assert "missing: ImageNet_iNat/checkpoint/ours/iNaturalist18" in again.stderr
    one = run("sh", "-c", " ".join(["python3", "train.py", *PUBLISHED]), cwd=folder, timeout=2400).stdout
    print(one)
    tested = run("sh", "-c", f"python3 test.py --loading_path {checkpoint} --data_root ../ImageNet", cwd=folder).stdout
    accuracy, _ = last_accuracy(one)
    assert tested.startswith(f"Dataset: ImageNet_LT\tAccuracy: {accuracy}\t")


def test_scripts_call_the_published_commands(run, tmp_path):
    for words in (["PYTHON=echo", "NPROC=2"], ["PYTHON=echo"]):
        command = f"{' '.join(words)} sh {ROOT}/ImageNet_iNat/scripts/train.sh --seed 3"
        first, second = run("sh", "-c", command).stdout.splitlines()
        nproc = words[1][-1] if len(words) > 1 else "4"
        launch = f"-m torch.distributed.launch --nproc_per_node={nproc} --master_port 53212 train.py"
        assert first.startswith(f"{launch} --lr 0.0003 --meta_lr 0.1 --workers 0 --batch_size 256 --epochs 20 ")
        assert "--dataset ImageNet_LT --num_classes 1000 --data_root ../ImageNet --seed 3" in first
        assert "--dataset iNaturalist18 --num_classes 8142" in second
    missing = run("sh", ROOT / "ImageNet_iNat" / "test.sh", status=1)
    assert len(missing.stderr.splitlines()) == 2
    run("sh", "-n", ROOT / "ImageNet_iNat" / "scripts" / "slurm_train.sh")
