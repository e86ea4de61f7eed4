"""The files of one cached set: its rows when they are whole, and before that as far as a run has come.

`<name>.f16` holds the fp16 rows, and `<name>.json` says what they are and their checksum. Until all are there they stand in
`<name>.part`, and `<name>.part.crc32` holds the checksum of every row that was computed. A row counts if the two agree: so
nothing that a kill, a power cut or a full disk kept from being written is taken for a row.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import time
import zlib
from collections.abc import Mapping
from contextlib import nullcontext, suppress
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from harness.errors import UserError
from harness.files import replacing, sync, writing
from harness.signals_and_lock import only_run

CRC_CHUNK = 1 << 24
ABANDONED = 24 * 3600  # seconds after which what another run left unfinished is removed
SPARE = 1 << 20  # bytes, for what is small beside the rows


def checksum(path: Path) -> int:
    """Return the CRC-32 of a file."""
    value = 0
    with open(path, "rb") as file:
        while part := file.read(CRC_CHUNK):
            value = zlib.crc32(part, value)
    return value


def is_whole(path: Path, facts: Mapping[str, Any]) -> bool:
    """Return whether `path` holds the rows that its JSON and `facts` speak of."""
    try:
        stated = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
        size = stated["rows"] * stated["features"] * 2
        expected = {**facts, "crc32": stated["crc32"]}
        return stated == expected and path.stat().st_size == size and checksum(path) == stated["crc32"]
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return False


class UnfinishedRows:
    """The rows of a set that are being computed: `facts` say how many there are, of how many features, and of what."""

    def __init__(self, part: Path, facts: Mapping[str, Any]) -> None:
        self.part, self.crcs, self.facts = part, Path(f"{part}.crc32"), facts
        self.rows, self.width = facts["rows"], facts["features"] * 2  # bytes of a row
        self.head = hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).digest()  # of the file of checksums

    def prepare(self) -> list[int]:
        """Make the files, unless an earlier run has, and return the rows that are still to be computed."""
        if not self._is_ours():
            reserve(self.part, self.rows * self.width)
            with replacing(self.crcs) as file:
                file.write_bytes(self.head + bytes(4 * self.rows))
        return self.missing()

    def _is_ours(self) -> bool:
        try:
            sizes = self.part.stat().st_size, self.crcs.stat().st_size
            with open(self.crcs, "rb") as file:
                head = file.read(len(self.head))
        except OSError:
            return False
        return sizes == (self.rows * self.width, len(self.head) + 4 * self.rows) and head == self.head

    def missing(self) -> list[int]:
        """Return the rows that were not computed, or whose checksum differs."""
        with writing(self.part):
            recorded = np.frombuffer(self.crcs.read_bytes(), np.uint32, offset=len(self.head)).tolist()
            with open(self.part, "rb") as file:

                def row(i: int) -> bytes:
                    file.seek(i * self.width)
                    return file.read(self.width)

                return [i for i, crc in enumerate(recorded) if not crc or crc != zlib.crc32(row(i))]

    def write(self, first: int, features: Tensor) -> None:
        """Write rows (N, A) from row `first` on, and then their checksums."""
        half = features.half()
        if not bool(half.isfinite().all()):
            raise UserError("the backbone's features are not finite in fp16: are these the weights of this network?")
        rows = half.cpu().numpy()
        crcs = np.array([zlib.crc32(row.tobytes()) for row in rows], np.uint32)
        places = (self.part, first * self.width, rows), (self.crcs, len(self.head) + 4 * first, crcs)
        for path, place, content in places:  # opened each time: a folder that is gone is noticed now, not at the end
            with writing(path), open(path, "r+b") as file:
                file.seek(place)
                file.write(content.tobytes())

    def publish(self, path: Path) -> None:
        """Give the rows, which are all there, their name; a kill amid this leaves them unfinished, to be named again."""
        with writing(path):
            sync(self.part)
            stated = json.dumps({**self.facts, "crc32": checksum(self.part)})
        with replacing(path.with_suffix(".json")) as file:
            file.write_text(stated, encoding="utf-8")
        with writing(path):
            os.replace(self.part, path)
        self.remove()

    def tidy(self) -> None:
        """Remove the files if they hold no row that was computed."""
        try:
            holds_rows = any(self.crcs.read_bytes()[len(self.head) :])
        except OSError:
            holds_rows = False
        if not holds_rows:
            self.remove()

    def remove(self) -> None:
        """Remove the files."""
        for path in (self.part, self.crcs):
            with suppress(OSError):
                path.unlink(missing_ok=True)


def reserve(path: Path, size: int) -> None:
    """Make a file of `size` bytes that the disk has room for."""
    try:
        with open(path, "wb") as file:
            if hasattr(os, "posix_fallocate") and size:
                os.posix_fallocate(file.fileno(), 0, size)
            else:
                file.truncate(size)
    except OSError as error:
        with suppress(OSError):
            path.unlink(missing_ok=True)
        need = f"the feature cache needs {size / 1e9:.2f} GB in {path.parent}"
        raise UserError(f"{need} ({error.strerror}): see --cache_dir") from error


def make_cache_folder(folder: Path) -> None:
    """Make the folder of the cached sets."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{folder} cannot be made ({error.strerror}): see --cache_dir") from error


def remove_abandoned(path: Path, size: int) -> None:
    """Remove what runs left unfinished, but what belongs to `path`, and what a run is at work on.

    That is what is older than a day, and all of it where the disk has no room for `size` more bytes.
    """
    scarce = shutil.disk_usage(path.parent).free < size + SPARE
    for found in path.parent.glob("*.part*"):
        name = found.name.partition(".part")[0]
        if found.name in (f"{path.stem}.part", f"{path.stem}.part.crc32"):
            continue
        with suppress(OSError, UserError):  # also where a lock is held
            if scarce or time.time() - found.stat().st_mtime > ABANDONED:
                with nullcontext() if name == path.stem else only_run(found.with_name(f"{name}.lock")):  # we hold ours
                    found.unlink()
