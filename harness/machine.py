"""Where a run is made: versions, machine and commit, and the memory by which processes hand over what they load."""

from __future__ import annotations

import os
import platform
import re
import shutil
import subprocess
import sys
from pathlib import Path

import torch

from harness.facts import State
from harness.text import say


def processor() -> str:
    """Return the processor's name."""
    info = Path("/proc/cpuinfo")
    found = re.search(r"model name\s*: (.*)", info.read_text(encoding="utf-8")) if os.path.isfile(info) else None
    return found[1].strip() if found else platform.processor()


def commit() -> str | None:
    """Return the commit of this code, with "+" if files differ from it; None outside a checkout."""
    words = ["git", "describe", "--always", "--dirty=+", "--abbrev=40", "--exclude=*"]
    try:
        found = subprocess.run(words, cwd=Path(__file__).parent, capture_output=True, text=True, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return found.stdout.strip()


def machine_facts() -> State:
    """Return versions, machine and commit, for the summary."""
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    return {
        "versions": {"python": platform.python_version(), "torch": torch.__version__},
        "machine": {"system": platform.platform(), "processor": processor(), "cores": os.cpu_count(), "gpu": gpu},
        "threads": torch.get_num_threads(),
        "commit": commit(),
    }


def workers_that_fit(workers: int, most: int, shared: Path = Path("/dev/shm")) -> int:
    """Return of `workers` loading processes how many can hand over batches of `most` bytes by the memory in `shared`.

    Each has two batches there at a time, and there is the one in use. A container has 64 MB of it if nothing else is said.
    """
    free = shutil.disk_usage(shared).free if os.path.isdir(shared) else None
    if free is None or not workers or most * (2 * workers + 1) <= free:
        return workers
    fitting = max(0, (free // most - 1) // 2)
    told = f"note: {shared} has {free // 2**20} MB free, too little for {workers} loading processes: there are {fitting}"
    say(f"{told}; docker run --shm-size gives more", file=sys.stderr)
    return fitting
