"""Small pictures of the test images that a network got wrong, of the classes that it takes for one another most often."""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import Callable, Sequence
from itertools import islice

import numpy as np
from PIL import Image

from harness.schemas import MOST_SHOWN, Confused

PAIRS, SIDE = 6, 64  # of classes; the longer side of a picture, in pixels
Picture = Callable[[int], Image.Image | None]  # of a test image, by its place; None without one


def most_confused(target: np.ndarray, predicted: np.ndarray, picture: Picture) -> list[Confused]:
    """Return the pairs of classes that are confused most often, those of the lower classes first where as often.

    Each has its first images in the order of the test set `target`, `predicted` (M,); a pair without any is left out.
    """
    counts = Counter((true, guess) for true, guess in zip(target.tolist(), predicted.tolist(), strict=True) if true != guess)
    found = []
    for (true, guess), times in sorted(counts.items(), key=lambda pair: (-pair[1], pair[0]))[:PAIRS]:
        places = np.flatnonzero((target == true) & (predicted == guess)).tolist()
        if images := list(islice(filter(None, map(picture, places)), MOST_SHOWN)):
            found.append(Confused(true, guess, times, len(images), strip(images)))
    return found


def strip(images: Sequence[Image.Image]) -> bytes:
    """Return a JPEG file of images side by side, each in a square; larger ones are shrunk."""
    for image in images:
        image.thumbnail((SIDE, SIDE))
    side = max(max(image.size) for image in images)
    whole = Image.new("RGB", (side * len(images), side), "white")
    for place, image in enumerate(images):
        whole.paste(image, (place * side, 0))
    file = io.BytesIO()
    whole.save(file, "JPEG", quality=85)
    return file.getvalue()
