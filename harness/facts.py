"""Plain values by name: what is said of a run, a machine, a set of data, or held by a file beside tensors."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

Facts = Mapping[str, Any]
State = dict[str, Any]  # one that is made here
