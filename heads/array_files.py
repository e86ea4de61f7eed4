"""Arrays in files: `.npz` of NumPy and `.safetensors`, read by name, large ones in blocks of rows."""

from __future__ import annotations

import os
import tokenize
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from lzma import LZMAError
from pathlib import Path
from typing import IO, Any, Protocol

import numpy as np
from safetensors import SafetensorError, safe_open

from harness.errors import UserError
from harness.text import printable

READ_BYTES = 1 << 24  # read at a time of what is large
ARRAY_ENDINGS = (".npz", ".safetensors")
DAMAGED = (
    ValueError, EOFError, RuntimeError, SafetensorError, zipfile.BadZipFile, zlib.error, LZMAError, tokenize.TokenError,
)  # fmt: skip
CODES = {"BOOL": "bool", "F": "float", "BF": "bfloat", "I": "int", "U": "uint", "C": "complex"}  # of safetensors


class ArrayFile(Protocol):
    """Arrays of one file. What its methods raise, `reading` makes one line of."""

    names: list[str]
    texts: dict[str, str]  # what the file says beside its arrays

    def header(self, name: str) -> tuple[tuple[int, ...], str]:
        """Return the shape of an array and its kind, such as int64, float32, bfloat16, str160, object."""

    def array(self, name: str) -> np.ndarray:
        """Return a small array, whole; never one of pickled objects."""

    def fill(self, name: str, out: np.ndarray) -> None:
        """Write an array of two dimensions into `out`, which is of its shape, a block after the other."""


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """Make what is wrong with a file into a `UserError`."""
    try:
        yield
    except OSError as error:
        raise UserError(f"{path} cannot be read ({printable(error.strerror or str(error))}): check the path") from error
    except DAMAGED as error:
        said = printable(" ".join(str(error).split()))[:200]
        raise UserError(f"{path} is damaged, or no {path.suffix.lower()} file ({said}): write it again") from error


@contextmanager
def open_arrays(path: Path) -> Iterator[ArrayFile]:
    """Open a file of arrays, by the ending of its name; errors within the block are taken for those of the file."""
    ending = path.suffix.lower()
    if ending not in ARRAY_ENDINGS:
        raise UserError(f"{path} ends in neither {' nor '.join(ARRAY_ENDINGS)}: write the arrays into such a file")
    if not os.path.isfile(path):
        raise UserError(f"{path} is {'no file' if os.path.exists(path) else 'not there'}: check the path")
    with reading(path):
        if ending == ".npz":
            with zipfile.ZipFile(path) as archive:
                yield NpzArrays(archive)
        else:
            yield SafetensorsArrays(path)


def blocks(rows: int, row_bytes: int) -> Iterator[slice]:
    """Yield slices of about READ_BYTES, at least one row each, which cover all rows."""
    step = max(READ_BYTES // max(row_bytes, 1), 1)
    yield from (slice(start, min(start + step, rows)) for start in range(0, rows, step))


class NpzArrays:
    """The arrays of an `.npz`: a zip archive of `.npy` files, see `numpy.lib.format`."""

    def __init__(self, archive: zipfile.ZipFile) -> None:
        self.archive = archive
        self.names = [name.removesuffix(".npy") for name in archive.namelist() if name.endswith(".npy")]
        self.texts: dict[str, str] = {}

    @contextmanager
    def _at_content(self, name: str) -> Iterator[tuple[IO[bytes], tuple[int, ...], bool, np.dtype[Any]]]:
        """Open an array behind its header; a ValueError if it has not the bytes that the header speaks of."""
        member = self.archive.getinfo(f"{name}.npy")
        with self.archive.open(member) as file:
            version = np.lib.format.read_magic(file)
            read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
            shape, fortran, dtype = read(file)
            size = file.tell() + int(np.prod(shape, dtype=object)) * dtype.itemsize
            if not dtype.hasobject and size != member.file_size:
                raise ValueError(f"array {name} has {member.file_size} bytes in place of {size}")
            yield file, shape, fortran, dtype

    def header(self, name: str) -> tuple[tuple[int, ...], str]:
        """See `ArrayFile`."""
        with self._at_content(name) as (_, shape, _, dtype):
            return shape, dtype.name

    def array(self, name: str) -> np.ndarray:
        """See `ArrayFile`."""
        with self.archive.open(f"{name}.npy") as file:
            found: np.ndarray = np.lib.format.read_array(file, allow_pickle=False)
            return found

    def fill(self, name: str, out: np.ndarray) -> None:
        """See `ArrayFile`."""
        with self._at_content(name) as (file, _, fortran, dtype), np.errstate(over="ignore"):
            rows = out.T if fortran else out  # as they follow one another in the file
            for block in blocks(len(rows), rows.shape[1] * dtype.itemsize):
                part = rows[block]
                part[...] = np.frombuffer(file.read(part.size * dtype.itemsize), dtype).reshape(part.shape)


class SafetensorsArrays:
    """The arrays of a `.safetensors` file, which has no strings but in its metadata."""

    def __init__(self, path: Path) -> None:
        self.path = path
        with self._opened("numpy") as file:
            self.names = list(file.keys())
            self.texts = dict(file.metadata() or {})

    def _opened(self, framework: str) -> Any:
        return safe_open(self.path, framework=framework)

    def header(self, name: str) -> tuple[tuple[int, ...], str]:
        """See `ArrayFile`."""
        with self._opened("numpy") as file:
            found = file.get_slice(name)
            code: str = found.get_dtype()
        letters = code.rstrip("0123456789")
        return tuple(found.get_shape()), CODES.get(letters, letters.lower()) + code.removeprefix(letters)

    def array(self, name: str) -> np.ndarray:
        """See `ArrayFile`."""
        with self._opened("numpy") as file:
            found: np.ndarray = file.get_tensor(name)
            return found

    def fill(self, name: str, out: np.ndarray) -> None:
        """See `ArrayFile`."""
        of_torch = self.header(name)[1] == "bfloat16"  # which NumPy does not have
        with self._opened("pt" if of_torch else "numpy") as file, np.errstate(over="ignore"):
            rows = file.get_slice(name)
            for block in blocks(len(out), out.shape[1] * 8):
                found = rows[block]
                out[block] = found.float().numpy() if of_torch else found
