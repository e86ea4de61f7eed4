"""Files that are replaced whole: at `path` is the old file or the whole new one, never a part."""

from __future__ import annotations

import os
import re
import secrets
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from itertools import count
from pathlib import Path

from harness.errors import UserError

TEMPORARY = ".tmp"  # the end of the name of a file that is being written
MOST_HEADING = 2**22  # characters of a table's first line


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Make a failure to write into a `UserError` that names `path`."""
    try:
        yield
    except OSError as error:
        kept = "; it is unchanged" if os.path.isfile(path) else ""
        reason = f"{path} cannot be written ({error.strerror or error}){kept}"
        raise UserError(f"{reason}: free disk space or choose another folder") from error


def read_bytes(path: Path) -> bytes:
    """Read a whole file that the user named."""
    try:
        return path.read_bytes()
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}): check the path") from error


def refuse_special(path: Path) -> None:
    """Refuse the place of a folder, a pipe or a device: to replace /dev/null by a file would be no service."""
    if os.path.exists(path) and not os.path.isfile(path):
        raise UserError(f"{path} cannot be written (it is a folder, a pipe or a device): choose another file")


def check_output(path: Path, inputs: Sequence[Path | str | None] = ()) -> None:
    """Refuse now what `replacing` could not write at the end of long work, and the place of a file that is read."""
    refuse_special(path)
    temporary = path.with_name(path.name + TEMPORARY)
    for place in filter(os.path.exists, (path, temporary)):
        if any(os.path.samefile(place, file) for file in inputs if file is not None and os.path.exists(file)):
            raise UserError(f"--out {path} would replace {place}, which this command reads: name another")
    with writing(path):
        if not os.path.exists(temporary):
            temporary.touch()
            temporary.unlink()


def check_is_table(out: Path, heading: str) -> None:
    """Refuse the place of a file whose first line is not, from end to end, the regular expression `heading`."""
    if not os.path.isfile(out):
        return
    try:
        with open(out, encoding="utf-8", errors="replace") as file:
            found = file.readline(MOST_HEADING)
    except OSError as error:
        raise UserError(f"--out {out} is there and cannot be read ({error.strerror}): name another") from error
    if found and not re.fullmatch(heading, found.removesuffix("\n")):
        raise UserError(f"--out {out} is another file than a table of this command: name another")


@contextmanager
def replacing(path: Path, shared: bool = False) -> Iterator[Path]:
    """Give the path of a file to write, which then takes the place of `path` and has reached the disk when this ends.

    With `shared` other processes may be writing the same file: the one that ends last stays.
    """
    own = f".{secrets.token_hex(4)}" if shared else ""
    temporary = path.with_name(f"{path.name}{own}{TEMPORARY}")
    refuse_special(path)
    try:
        with writing(path):
            yield temporary
            sync(temporary)
            os.replace(temporary, path)
            with suppress(OSError):  # not every system can
                sync(path.parent)
    except BaseException:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise


def write_whole(path: Path, content: bytes) -> None:
    """Write a file that other processes may be writing too."""
    with replacing(path, shared=True) as part:
        part.write_bytes(content)


def make_folder(folder: Path) -> None:
    """Make a folder and those above it, if they are not there."""
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)


def sync(path: Path) -> None:
    """Let a file's content, or the names in a folder, reach the disk."""
    handle = os.open(path, os.O_RDONLY if os.path.isdir(path) else os.O_RDWR)  # Windows wants to write what it syncs
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def previous(path: Path) -> Path:
    """Return where the state that the resume file `path` held before is kept."""
    return path.with_name(path.name + ".previous")


def beside(path: Path, ending: str) -> Path:
    """Return the name of a file beside a checkpoint: of x.pth.tar, x and the ending."""
    return path.with_name(path.name.removesuffix(".tar").removesuffix(".pth") + ending)


def set_earlier_aside(files: Sequence[Path]) -> Path | None:
    """Move files of an earlier run, all of one folder, to `earlier/<n>` in it; return that folder, None without any."""
    present = [file for file in files if os.path.exists(file)]
    if not present:
        return None
    earlier = present[0].parent / "earlier"
    with writing(earlier):
        for number in count(1):
            aside = earlier / str(number)
            with suppress(FileExistsError):  # another run of this folder may take the same number at the same time
                aside.mkdir(parents=True)
                break
        for file in present:
            os.replace(file, aside / file.name)
    return aside


def output_folder(folder: Path, longest: str) -> Path:
    """Make `folder` and check that files of names up to `longest` can be written there; no file has that name itself."""
    probe = folder / longest
    try:
        str(folder).encode()  # as TensorBoard must
        folder.mkdir(parents=True, exist_ok=True)
        probe.touch()
        probe.unlink(missing_ok=True)  # another run may look at the same time
    except (OSError, UnicodeEncodeError) as error:
        reason = getattr(error, "strerror", "its name is no text")
        raise UserError(f"{probe} cannot be written ({reason}): choose another --workdir or name") from error
    return folder
