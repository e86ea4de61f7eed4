"""Archives from the network: fetched once, known by their SHA-256, unpacked without trusting them."""

from __future__ import annotations

import hashlib
import os
import tarfile
from contextlib import suppress
from pathlib import Path

from harness.errors import UserError

CHUNK = 1 << 20


def sha256_of(path: Path) -> str:
    """Return the SHA-256 of a file, in hexadecimal digits."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while part := file.read(CHUNK):
            digest.update(part)
    return digest.hexdigest()


def unpack(archive: Path, sha256: str, folder: Path) -> None:
    """Unpack a tar archive whose content is known into `folder`; nothing of it can leave the folder or gain rights."""
    if sha256_of(archive) != sha256:
        raise UserError(f"{archive} is damaged or incomplete (sha256 differs): delete it to have it downloaded again")
    if not hasattr(tarfile, "data_filter"):
        raise UserError(f"this Python cannot unpack {archive} safely: use 3.10.12, 3.11.4, 3.12 or newer")
    try:
        with tarfile.open(archive) as tar:
            tar.extractall(folder, filter="data")
    except tarfile.TarError as error:
        raise UserError(f"{archive} was not unpacked ({error}): delete it") from error


def fetch(url: str, archive: Path) -> None:
    """Download `url` to `archive` unless that is there; errors are those of urllib."""
    from torchvision.datasets.utils import download_url

    if os.path.isfile(archive):
        return
    there = os.path.isdir(archive.parent)
    archive.parent.mkdir(parents=True, exist_ok=True)
    try:
        download_url(url, archive.parent, archive.name)
    except Exception:
        if not there:  # perhaps a slip in the path
            with suppress(OSError):
                archive.parent.rmdir()
        raise
