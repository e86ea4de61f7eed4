"""The global random generators of torch, numpy and Python, for networks and criteria that draw from them."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch

from harness.facts import Facts, State


def seed_everything(seed: int) -> None:
    """Seed the global generators of torch (every device), numpy and Python."""
    torch.manual_seed(seed)
    np.random.seed(seed % 2**32)  # noqa: NPY002  (the global one is what code of others draws from)
    random.seed(seed)


@contextmanager
def kept_apart(seed: int) -> Iterator[None]:
    """Let code of others draw from global generators of this seed; they and the default dtype are left as they were.

    Generators of GPUs are not looked at, which would open every GPU.
    """
    states, dtype = random_states(gpus=False), torch.get_default_dtype()
    torch.default_generator.manual_seed(seed)
    np.random.seed(seed)  # noqa: NPY002
    random.seed(seed)
    try:
        yield
    finally:
        set_random_states(states)
        torch.set_default_dtype(dtype)


def random_states(gpus: bool = True) -> State:
    """Return the states of the global generators in plain types."""
    name, keys, *rest = np.random.get_state()  # noqa: NPY002
    return {
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if gpus and torch.cuda.is_available() else [],
        "numpy": (name, np.asarray(keys).tolist(), *rest),
        "python": random.getstate(),
    }


def set_random_states(states: Facts) -> None:
    """Put the global generators into the states that `random_states` returned; GPUs only if there are as many.

    An error of another kind than OSError says that one is no state.
    """
    torch.set_rng_state(states["torch"])
    if torch.cuda.is_available() and len(states["cuda"]) == torch.cuda.device_count():
        torch.cuda.set_rng_state_all(states["cuda"])
    np.random.set_state(states["numpy"])  # noqa: NPY002
    random.setstate(states["python"])
