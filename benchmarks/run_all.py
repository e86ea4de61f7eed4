#!/usr/bin/env python3
"""Run all benchmarks, in less than ten minutes, and write benchmarks/RESULTS.md: machine, versions, date, and their tables.

  python3 benchmarks/run_all.py [--out benchmarks/RESULTS.md]

Let nothing else run on the machine meanwhile; two threads that share their cores with others tell nothing.
"""

from __future__ import annotations

import argparse
import datetime
import os
import platform
import subprocess
import sys
import time
from pathlib import Path

import torch
import torchvision

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from harness.machine import processor
from passes import lacks_bf16

ROOT = Path(__file__).resolve().parent.parent
BF16 = "precision.py"
RUNS = (
    ("A MetaSAug step on CIFAR's size", ["meta_step.py"]),
    ("How its cost grows", ["meta_step.py", "--grow"]),
    ("bfloat16 against float32", [BF16]),
    ("The input pipeline", ["pipeline.py", "--repeats", "1"]),
    ("A step of the linear head", ["head_step.py", "--rounds", "1"]),
    ("An epoch of the head from cached features, a third of ImageNet-LT", ["head_epoch.py", "--images", "40000"]),
    ("The page of a report", ["report_pages.py"]),
)


def main() -> None:
    """Run one after the other, show what they print, write the file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "RESULTS.md")
    args = parser.parse_args()
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else "no GPU"
    text = [
        "# Benchmarks",
        "",
        f"{datetime.date.today()}, {processor()}, {os.cpu_count()} cores, {gpu}, Python {platform.python_version()}, "
        f"torch {torch.__version__}, torchvision {torchvision.__version__}. Medians in one run; the machine may be shared: "
        "compare ratios, not seconds. Written by `make bench`; what each figure means is said at the head of each script.",
    ]
    start = time.monotonic()
    took = []
    for title, words in RUNS:
        if words[0] == BF16 and lacks_bf16(torch.device("cpu")) and not torch.cuda.is_available():
            text += ["", f"## {title}", "", "Left out: this processor has no bfloat16 arithmetic."]
            continue
        command = f"python3 benchmarks/{' '.join(words)}"
        print(f"== {title}: {command}", flush=True)
        began = time.monotonic()
        result = subprocess.run(
            [sys.executable, "-W", "ignore", str(ROOT / "benchmarks" / words[0]), *words[1:]],
            stdout=subprocess.PIPE, text=True, check=False,
        )  # fmt: skip
        print(result.stdout, end="", flush=True)
        if result.returncode != 0:
            sys.exit(f"{command} ended with status {result.returncode}; {args.out} stays as it was")
        took.append(f"{' '.join(words)} {time.monotonic() - began:.0f} s")
        text += ["", f"## {title}", "", f"`{command}`", "", "```", result.stdout.rstrip(), "```"]
    text += ["", f"All in {(time.monotonic() - start) / 60:.1f} minutes: {', '.join(took)}."]
    args.out.write_text("\n".join(text) + "\n", encoding="utf-8")
    print(f"{text[-1]} Wrote {args.out}")


if __name__ == "__main__":
    main()
