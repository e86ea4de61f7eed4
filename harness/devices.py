"""Where a run computes."""

from __future__ import annotations

import torch

from harness.errors import UserError


def choose_device(gpu: int, no_cuda: bool) -> torch.device:
    """Return CUDA device `gpu`, else Apple's GPU, else the CPU."""
    if no_cuda:
        return torch.device("cpu")
    if torch.cuda.is_available():
        if not 0 <= gpu < torch.cuda.device_count():
            raise UserError(f"--gpu {gpu}: there are {torch.cuda.device_count()} CUDA devices, counted from 0")
        return torch.device("cuda", gpu)
    if torch.backends.mps.is_available():
        return torch.device("mps")
    return torch.device("cpu")
