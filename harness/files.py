"""Files that are replaced whole: at `path` is the old file or the whole new one, never a part."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from itertools import count
from pathlib import Path

from harness.errors import UserError


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Make a failure to write into a `UserError` that names `path`."""
    try:
        yield
    except OSError as error:
        kept = "; it is as it was before" if path.is_file() else ""
        reason = f"{path} cannot be written ({error.strerror or error}){kept}"
        raise UserError(f"{reason}: make room or choose another folder") from error


def read_bytes(path: Path) -> bytes:
    """Read a whole file that the user named."""
    try:
        return path.read_bytes()
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}): check the path") from error


@contextmanager
def replacing(path: Path, keep_previous: bool = False) -> Iterator[Path]:
    """Give the path of a file to write, which then takes the place of `path`.

    With `keep_previous` the earlier file stays as `previous(path)`, and the new one has reached the disk when this ends.
    """
    temporary = path.with_name(path.name + ".tmp")
    try:
        with writing(path):
            yield temporary
            if keep_previous:
                sync(temporary)
                link_previous(path)
            os.replace(temporary, path)
            if keep_previous:
                with suppress(OSError):  # not every system can
                    sync(path.parent)
    except BaseException:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise


def sync(path: Path) -> None:
    """Let a file's content, or the names in a folder, reach the disk."""
    handle = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR)  # Windows wants to write what it syncs
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def previous(path: Path) -> Path:
    """Return where the file that `path` held before is kept."""
    return path.with_name(path.name + ".previous")


def link_previous(path: Path) -> None:
    """Give the file at `path` its second name, `previous`; `path` stays there all the while."""
    if not path.exists():
        return
    second = path.with_name(path.name + ".tmp2")
    with suppress(FileNotFoundError):
        second.unlink()
    try:
        os.link(path, second)
    except OSError:  # a file system without hard links
        shutil.copyfile(path, second)
    os.replace(second, previous(path))
    with suppress(FileNotFoundError):  # two names of one file, as a kill can leave them, are not replaced but stay
        second.unlink()


def beside(path: Path, ending: str) -> Path:
    """Return the name of a file beside a checkpoint: of x.pth.tar, x and the ending."""
    return path.with_name(path.name.removesuffix(".tar").removesuffix(".pth") + ending)


def check_output(out: Path, inputs: Iterable[Path | str | None], flag: str) -> None:
    """Refuse to write to a file that is read."""
    if out.exists() and any(path is not None and os.path.exists(path) and os.path.samefile(out, path) for path in inputs):
        raise UserError(f"{flag} {out} is a file that this command reads: name another")


def set_earlier_aside(folder: Path, names: list[str]) -> Path | None:
    """Move the files of an earlier run out of the way, to `folder/earlier/<n>`; return that folder, None without any."""
    present = [name for name in names if (folder / name).exists()]
    if not present:
        return None
    earlier = folder / "earlier"
    with writing(earlier):
        earlier.mkdir(exist_ok=True)
        for number in count(1):
            with suppress(FileExistsError):  # another run of this folder may take the same number at the same time
                (earlier / str(number)).mkdir()
                break
        aside = earlier / str(number)
        for name in present:
            os.replace(folder / name, aside / name)
    return aside


def output_folder(folder: Path, save_name: str) -> Path:
    """Make `folder` and check that files named after `save_name` can be written there."""
    probe = folder / f"{save_name}_probe.tmp"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise UserError(f"{probe} cannot be written ({error.strerror}): choose another --workdir or name") from error
    return folder
