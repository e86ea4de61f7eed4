"""What the benchmarks share: time, memory, fresh processes, rows."""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch


def measure(step: Callable[[], object], device: torch.device) -> float:
    """Return the seconds one call takes, the device's work included; on CUDA between two events."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        began, ended = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        began.record()
        step()
        ended.record()
        ended.synchronize()
        return began.elapsed_time(ended) / 1000
    start = time.perf_counter()
    step()
    if device.type == "mps":
        torch.mps.synchronize()
    return time.perf_counter() - start


def peak_mb() -> float:
    """Return the largest resident size of this process so far, in MB (10^6 bytes).

    Where Linux tells it, that of the program alone: ru_maxrss begins with the size of the process that started it.
    """
    status = Path("/proc/self/status")
    if status.is_file():
        (line,) = (line for line in status.read_text().splitlines() if line.startswith("VmHWM:"))
        return int(line.split()[1]) * 1024 / 1e6
    largest = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return largest / 1e6 if sys.platform == "darwin" else largest * 1024 / 1e6


def in_fresh_process(*flags: str) -> dict[str, Any]:
    """Call the running benchmark again with `flags` and return the JSON object that its last line is.

    Raises
    ------
    RuntimeError
        If it fails, for instance for want of memory.
    """
    command = [sys.executable, sys.argv[0], *flags]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    if result.returncode != 0:
        raise RuntimeError(f"{' '.join(command)} ended with status {result.returncode}: {result.stderr.strip()[-2000:]}")
    found: dict[str, Any] = json.loads(result.stdout.splitlines()[-1])
    return found


def write_rows(rows: Sequence[dict[str, Any]], path: Path | None) -> None:
    """Write the rows to the file that --json names."""
    if path is not None:
        path.write_text(json.dumps(list(rows), indent=1) + "\n", encoding="utf-8")
