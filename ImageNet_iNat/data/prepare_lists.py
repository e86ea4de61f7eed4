#!/usr/bin/env python3
"""Put the published image lists of ImageNet-LT or iNaturalist 2018 into this folder. The images themselves are not fetched.

usage, inside ImageNet_iNat:
  python3 data/prepare_lists.py ImageNet_LT
With --out FOLDER the lists go there. A list counts only with the very content it has in the repository
facebookresearch/classifier-balancing, told by its git blob id, also one that is there already. No file is ever overwritten.
Of iNaturalist 2017 no lists are published: train.py reads its train2017.json and val2017.json.
"""

from __future__ import annotations

import hashlib
import os
import sys
from http.client import HTTPException
from pathlib import Path
from urllib.request import urlopen

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # ImageNet_iNat
sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # the repository

if __name__ == "__main__":
    from harness.before_loading import prepare_process
    prepare_process()

from harness.errors import UserError, run_main
from harness.files import make_folder, read_bytes, replacing
from harness.flag_parser import Parser
from harness.text import say

BASE = "https://raw.githubusercontent.com/facebookresearch/classifier-balancing/main/data"
TIMEOUT = 60  # seconds without an answer
BLOB_IDS = {
    "ImageNet_LT": {
        "ImageNet_LT_train.txt": "a063f095fcd475db4cf8b0658c4b73955535bbf9",
        "ImageNet_LT_val.txt": "3ed3188b2f44829ce2dec1cc27040d8d40984088",
        "ImageNet_LT_test.txt": "76a2fb9749d6cd29e765cc4f8c270f2504131e2f",
    },
    "iNaturalist18": {
        "iNaturalist18_train.txt": "4accdb7584d2f0a5106c40a33ed6afa392189bcc",
        "iNaturalist18_val.txt": "4c23900857fd0f5adcd4cc0dffef345039eeb05f",
    },
}


def download(url: str) -> bytes:
    """Return what lies at `url`."""
    try:
        with urlopen(url, timeout=TIMEOUT) as response:
            return response.read()
    except (OSError, HTTPException) as error:  # URLError and a timeout are OSErrors
        reason = " ".join(str(error).split())
        raise UserError(f"downloading {url} failed ({reason}): fetch it by hand, and put it where it belongs") from error


def put_list(name: str, wanted: str, url: str, out: Path) -> str:
    """Put a list of the git blob id `wanted` into `out`, so that it is absent or whole; return a line that says so."""
    path = out / name
    there = os.path.lexists(path)
    content = read_bytes(path) if there else download(url)
    found = hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()
    if found != wanted:
        where = f"{path} is there, but" if there else url
        raise UserError(f"{where} is not the published list (git blob id {found}, not {wanted}): fetch it from {url}")
    if there:
        return f"{path} exists already and has the right content"
    make_folder(out)
    with replacing(path) as part:
        part.write_bytes(content)
    return f"wrote {path}"


def main() -> None:
    """Read the flags and write the lists."""
    parser = Parser(description=__doc__)
    parser.add_argument("dataset", choices=BLOB_IDS, help="which lists")
    parser.add_argument("--out", type=Path, default=Path(__file__).resolve().parent, help="default: %(default)s")
    args = parser.parse_args()
    ids = BLOB_IDS[args.dataset]
    for name in sorted(ids, key=lambda name: not os.path.lexists(args.out / name)):  # what is there is checked first
        say(put_list(name, ids[name], f"{BASE}/{args.dataset}/{name}", args.out))


if __name__ == "__main__":
    run_main(main)
