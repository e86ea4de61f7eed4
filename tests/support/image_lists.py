"""Small sets of images for the large-scale code: lists of noise, and class folders of single colours."""

from itertools import islice
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from support.data import write_image

from datasets.drawn_sets import Sets
from datasets.image_lists import image_list
from datasets.large_sets import read_lists
from harness.process_group import Group

CPU = torch.device("cpu")
ALONE = Group(0, 1, CPU)


def write(path, content=""):
    """Write a text into a file, of which also its folder need not be there."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content, encoding="utf-8", errors="surrogateescape")
    return path


def read_sets(dataset, root, num_meta, *more, **named):
    """The sets of a data set, drawn from its lists."""
    return read_lists(dataset, Path(root), *more, **named).sets(num_meta)


def listed(root, names):
    """A list whose labels are the numbers of the images."""
    return image_list(root, names, range(len(names)), [str(k) for k in range(len(names))], "a list")


def save_noise(root, names, seed=0):
    """Save images of noise, each of another size; return their list."""
    generator = np.random.default_rng(seed)
    root.mkdir(parents=True, exist_ok=True)
    for i, name in enumerate(names):
        Image.fromarray(generator.integers(0, 256, (20 + i, 30 - i, 3), dtype=np.uint8)).save(root / name)
    return listed(root, names)


def noise_sets(root, train=7, meta=5, test=5):
    made = [
        save_noise(root, [f"{name}{i}.png" for i in range(count)], seed)
        for seed, (name, count) in enumerate({"train": train, "meta": meta, "test": test}.items())
    ]
    return Sets(*made, [1] * train, [])


def first(stream, count):
    """The first batches of an endless stream, which is then closed, and its workers with it."""
    batches = list(islice(stream, count))
    stream.close()
    return batches


def class_folders(root, counts, meta=1, val=1):
    """Write folders root/{train,meta,val}/class<k> of images in one colour a class, `counts` of them for training."""
    for k, count in enumerate(counts):
        for split, number in (("train", count), ("meta", meta), ("val", val)):
            for i in range(number):
                write_image(root / split / f"class{k}" / f"{i}.png", k)
