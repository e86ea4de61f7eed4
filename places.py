"""Where a run computes and where it writes."""

from __future__ import annotations

from pathlib import Path

import torch

from errors import UserError


def output_folder(workdir: str, idx: str, save_name: str) -> Path:
    """Make WORKDIR/checkpoint/ours/IDX and check that files named after `save_name` can be written there.

    Raises
    ------
    UserError
        If they cannot.
    """
    folder = Path(workdir) / "checkpoint" / "ours" / idx
    probe = folder / f"{save_name}_probe.tmp"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise UserError(f"{probe} cannot be written ({error.strerror}): choose another --workdir or name") from error
    return folder


def choose_device(gpu: int, no_cuda: bool) -> torch.device:
    """Return CUDA device `gpu`, else Apple's GPU, else the CPU.

    Raises
    ------
    UserError
        If there are CUDA devices, but not that one.
    """
    if no_cuda:
        return torch.device("cpu")
    if torch.cuda.is_available():
        if not 0 <= gpu < torch.cuda.device_count():
            raise UserError(f"--gpu {gpu}: there are {torch.cuda.device_count()} CUDA devices, counted from 0")
        return torch.device("cuda", gpu)
    if torch.backends.mps.is_available():
        return torch.device("mps")
    return torch.device("cpu")
