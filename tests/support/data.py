"""Inputs that several tests make: CIFAR's files, images, checkpoints of cRT's form."""

import hashlib
import json
import pickle

import numpy as np
import torch
from PIL import Image
from support.slim_resnet import slim_resnet50
from torchvision.models import resnet50

# Run before a script. With CIFAR_MD5 torchvision expects the md5 sums of the files a test made, and downloads nothing.
CIFAR_PATCH = """
import json, os
if "CIFAR_MD5" in os.environ:
    from torchvision import datasets
    sums = json.loads(os.environ["CIFAR_MD5"])
    for reader in (datasets.CIFAR10, datasets.CIFAR100):
        reader.train_list = [[name, sums.get(name, md5)] for name, md5 in reader.train_list]
        reader.test_list = [[name, sums.get(name, md5)] for name, md5 in reader.test_list]
        reader.meta = {**reader.meta, "md5": sums.get(reader.meta["filename"], reader.meta["md5"])}
        reader.url = "http://127.0.0.1:9/" + reader.filename  # nothing listens there
"""

# Run before a script too. With STOP_AT a process sends itself the signal STOP_BY amid that step of its optimizer, from 1 on.
STOP_PATCH = """
if "STOP_AT" in os.environ:
    from itertools import count
    from torch.optim.optimizer import register_optimizer_step_pre_hook
    steps = count(1)
    def stop(*_):
        if next(steps) == int(os.environ["STOP_AT"]):
            os.kill(os.getpid(), int(os.environ["STOP_BY"]))
    register_optimizer_step_pre_hook(stop)
"""

# And with CLOCK the clock by which progress is shown goes so many times as fast.
CLOCK_PATCH = """
if "CLOCK" in os.environ:
    import time
    counted = time.perf_counter
    time.perf_counter = lambda: counted() * float(os.environ["CLOCK"])
"""


# And this. FAULT is "event pattern number effect": what happens when Python reports that event of such a name, a file's or a
# module's, so often (man: sys.addaudithook). The effect is a signal, an error of the system, or the rest is a shell command.
FAULT_PATCH = """
if "FAULT" in os.environ:
    import errno, fnmatch, signal, sys
    event, pattern, number, effect = os.environ.pop("FAULT").split(" ", 3)
    left = [int(number)]
    def fault(seen, args):
        if seen != event or not left[0] or not fnmatch.fnmatch(os.path.basename(str(args[0])), pattern):
            return
        left[0] -= 1
        if left[0]:
            return
        if hasattr(signal, effect):
            os.kill(os.getpid(), getattr(signal, effect))
        elif hasattr(errno, effect):
            raise OSError(getattr(errno, effect), os.strerror(getattr(errno, effect)))
        else:
            os.system(effect)
    sys.addaudithook(fault)
"""


def make_cifar(root, name, per_class, test_per_class):
    """Write files of CIFAR's form, with pixels that tell the classes apart; return CIFAR_MD5, their sums as JSON."""
    classes = 10 if name == "cifar10" else 100
    generator = np.random.default_rng(0)
    prototypes = generator.integers(0, 256, (classes, 3, 8, 8))

    def part(count, key):
        labels = generator.permutation(np.repeat(np.arange(classes), count))
        coarse = prototypes[labels].repeat(4, axis=2).repeat(4, axis=3)
        pixels = np.clip(coarse + generator.normal(0, 30, coarse.shape), 0, 255).astype(np.uint8)
        return {"data": pixels.reshape(len(labels), 3072), key: labels.tolist()}

    if name == "cifar10":
        folder, key, meta, names_key = root / "cifar-10-batches-py", "labels", "batches.meta", "label_names"
        whole = part(per_class, key)
        size = len(whole[key]) // 5
        files = {f"data_batch_{i + 1}": {k: v[i * size : (i + 1) * size] for k, v in whole.items()} for i in range(5)} | {
            "test_batch": part(test_per_class, key)
        }
    else:
        folder, key, meta, names_key = root / "cifar-100-python", "fine_labels", "meta", "fine_label_names"
        files = {"train": part(per_class, key), "test": part(test_per_class, key)}
    files[meta] = {names_key: [f"class{k:03}" for k in range(classes)]}
    folder.mkdir(parents=True)
    sums = {}
    for file, content in files.items():
        raw = pickle.dumps(content, protocol=2)
        (folder / file).write_bytes(raw)
        sums[file] = hashlib.md5(raw).hexdigest()
    return json.dumps(sums)


def colour(k):
    return tuple(int(v) for v in np.random.default_rng(k).integers(0, 256, 3))


def write_image(path, k):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (40, 32), colour(k)).save(path)


def crt_checkpoint(path, classes, form="cRT", tested=(), whole=False):
    """A file of cRT's form: a ResNet-50 whose features differ by colour, and a head of small random weights.

    The ResNet-50 is that of slim_resnet.py, or the `whole` one, for scripts that run with RESNET50="whole" or afresh.

    For the classes `tested` the head is that of the nearest centroid, but a quarter of them (rounded up) is never found, and
    the next quarter only as the third guess: so top-1 and top-5 accuracy differ, and from 0 and 100 %.
    """
    torch.manual_seed(0)
    net = (resnet50 if whole else slim_resnet50)(zero_init_residual=True)
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
