#!/usr/bin/env python3
"""Put the image lists of ImageNet-LT and iNaturalist into this folder. The images themselves are not fetched.

usage, inside ImageNet_iNat:
  python3 data/prepare_lists.py ImageNet_LT                            downloads the published lists (as iNaturalist18 does)
  python3 data/prepare_lists.py ImageNet_LT --from FOLDER              copies them from FOLDER
  python3 data/prepare_lists.py iNaturalist18 --json_dir FOLDER        makes them from train2018.json and val2018.json
  python3 data/prepare_lists.py iNaturalist17 --json_dir FOLDER        the same of 2017, for which no lists are published
With --out FOLDER the lists go there. A published list counts only with the very content it has in the repository
facebookresearch/classifier-balancing, told by its git blob id. No file is ever overwritten.
"""

from __future__ import annotations

import argparse
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
from harness.files import read_bytes, replacing, writing
from harness.flag_parser import Parser
from harness.text import say

BASE = "https://raw.githubusercontent.com/facebookresearch/classifier-balancing/main/data"
TIMEOUT = 60  # seconds without an answer
BLOB_IDS = {
    "ImageNet_LT_train.txt": "a063f095fcd475db4cf8b0658c4b73955535bbf9",
    "ImageNet_LT_val.txt": "3ed3188b2f44829ce2dec1cc27040d8d40984088",
    "ImageNet_LT_test.txt": "76a2fb9749d6cd29e765cc4f8c270f2504131e2f",
    "iNaturalist18_train.txt": "4accdb7584d2f0a5106c40a33ed6afa392189bcc",
    "iNaturalist18_val.txt": "4c23900857fd0f5adcd4cc0dffef345039eeb05f",
}
LISTS_OF = {"ImageNet_LT": ("train", "val", "test"), "iNaturalist18": ("train", "val"), "iNaturalist17": ("train", "val")}
YEARS = {"iNaturalist18": "2018", "iNaturalist17": "2017"}
CLASSES = {"iNaturalist18": 8142, "iNaturalist17": 5089}


def blob_id(content: bytes) -> str:
    """Return the id that git gives a file of this content."""
    return hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()


def download(url: str, by_hand: str) -> bytes:
    """Return what lies at `url`; `by_hand` ends the `UserError` when it cannot be had."""
    try:
        with urlopen(url, timeout=TIMEOUT) as response:
            return response.read()
    except (OSError, HTTPException) as error:  # URLError and a timeout are OSErrors
        reason = " ".join(str(error).split())
        raise UserError(f"downloading {url} failed ({reason}): {by_hand}") from error


def published_list(dataset: str, name: str, source: Path | None) -> bytes:
    """Download a published list, or read it in `source`, and check its blob id."""
    url = f"{BASE}/{dataset}/{name}"
    by_hand = f"fetch it by hand and run python3 data/prepare_lists.py {dataset} --from FOLDER, the folder that holds {name}"
    content = download(url, by_hand) if source is None else read_bytes(source / name)
    found = blob_id(content)
    if found != BLOB_IDS[name]:
        where, advice = (url, by_hand) if source is None else (source / name, f"fetch it again from {url}")
        raise UserError(f"{where} is not the published list (git blob id {found}, not {BLOB_IDS[name]}): {advice}")
    return content


def list_from_json(dataset: str, part: str, folder: Path) -> bytes:
    """Return the list that an official json makes: a line 'file_name category_id' for each of images[], in their order."""
    from datasets.image_lists import read_inaturalist17  # here, as it imports PyTorch

    file = folder / f"{part}{YEARS[dataset]}.json"
    images = read_inaturalist17(file, Path(), CLASSES[dataset], f"--json_dir must hold {file.name}")
    lines = zip(images.paths, images.targets.tolist(), strict=True)
    return "".join(f"{path} {label}\n" for path, label in lines).encode()


def place(content: bytes, path: Path) -> None:
    """Write a file so that `path` is absent or whole, never a part."""
    with writing(path.parent):
        path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as part:
        part.write_bytes(content)


def keep(path: Path, wanted: str) -> bool:
    """Return whether `path` is there with the blob id `wanted`; with another it is refused."""
    if not os.path.lexists(path):
        return False
    found = blob_id(read_bytes(path))
    if found != wanted:
        raise UserError(f"{path} is there with other content (git blob id {found}, not {wanted}): move it away first")
    say(f"{path} is there already and has the right content (git blob id {wanted})")
    return True


def prepare_published(dataset: str, out: Path, source: Path | None) -> list[str]:
    """Put the published lists that are missing into `out`; return their names."""
    names = [f"{dataset}_{part}.txt" for part in LISTS_OF[dataset]]
    missing = [name for name in names if not keep(out / name, BLOB_IDS[name])]  # all of them before the first download
    for name in missing:
        say(f"{'downloading' if source is None else 'copying'} {name}")
        place(published_list(dataset, name, source), out / name)
    return missing


def prepare_from_json(dataset: str, out: Path, folder: Path) -> list[str]:
    """Make the lists from official jsons and put those that are missing into `out`; return their names."""
    written = []
    for part in LISTS_OF[dataset]:
        name = f"{dataset}_{part}.txt"
        wanted = BLOB_IDS.get(name)
        if wanted is not None and os.path.isfile(out / name) and blob_id(read_bytes(out / name)) == wanted:
            keep(out / name, wanted)
            continue
        content = list_from_json(dataset, part, folder)
        made = blob_id(content)
        if not keep(out / name, made):
            place(content, out / name)
            written.append(name)
        if made == wanted:
            say(f"{name} is the published list (git blob id {wanted})")
        elif wanted is not None:
            say(f"note: {name} differs from the published list, perhaps in order only (git blob id {made}, not {wanted})")
    return written


def main() -> None:
    """Read the flags and write the lists."""
    form = argparse.RawDescriptionHelpFormatter
    parser = Parser(description=__doc__, formatter_class=form)
    parser.add_argument("dataset", choices=LISTS_OF, help="which lists")
    parser.add_argument("--out", type=Path, default=Path(__file__).resolve().parent, help="default: %(default)s")
    either = parser.add_mutually_exclusive_group()
    either.add_argument("--from", dest="source", type=Path, help="a folder with the published lists, instead of downloading")
    either.add_argument("--json_dir", type=Path, help="a folder with iNaturalist's official train and val json")
    args = parser.parse_args()
    if args.dataset not in YEARS and args.json_dir is not None:
        raise UserError(f"--json_dir is for iNaturalist: {args.dataset} has no official json, leave it out")
    if args.dataset == "iNaturalist17" and args.json_dir is None:
        raise UserError("iNaturalist17 has no published lists: give --json_dir with train2017.json and val2017.json")
    if args.json_dir is not None:
        written = prepare_from_json(args.dataset, args.out, args.json_dir)
    else:
        written = prepare_published(args.dataset, args.out, args.source)
    say(f"wrote {', '.join(written)} to {args.out}" if written else f"nothing to write: all lists are in {args.out}")


if __name__ == "__main__":
    run_main(main)
