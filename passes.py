"""The three passes of a MetaSAug step through the network, in full precision or bfloat16, as they are or compiled.

`Passes` runs the network as it is and takes the directional pass from the record of the shared one (`tangents.py`).
`CompiledPasses` gives each pass to torch.compile as one function; the directional one is then PyTorch's own forward mode,
whose repeated values the compiler fuses with the tangents.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.func import functional_call, jvp

from meta_layers import frozen_statistics, run_with
from tangents import Tape, load_forward_mode, recorded, tangent

Weights = Mapping[str, Tensor]


def lacks_bf16(device: torch.device) -> bool:
    """Return whether the device is known to have no bfloat16 arithmetic, so that it is emulated, slower than float32."""
    if device.type == "cuda":
        return not torch.cuda.is_bf16_supported(including_emulation=False)
    known = torch.cpu.get_capabilities() if device.type == "cpu" and hasattr(torch.cpu, "get_capabilities") else {}
    return known.get("architecture") == "x86_64" and not (known.get("avx512_bf16") or known.get("amx_bf16"))


class Passes:
    """The passes of `model`, which returns (features (N, A), logits (N, C)).

    Parameters
    ----------
    amp:
        `torch.bfloat16` runs the network in that precision by autocast; features and logits come back in the weights' own.
        None leaves everything in the weights' precision.
    """

    def __init__(self, model: nn.Module, amp: torch.dtype | None = None) -> None:
        self.model, self.amp = model, amp
        self.dtype = next(model.parameters()).dtype
        self.tape: Tape = {}

    def precision(self, inputs: Tensor) -> torch.autocast:
        """Return the context of a pass."""
        return torch.autocast(inputs.device.type, dtype=self.amp or torch.bfloat16, enabled=self.amp is not None)

    def plain(self, inputs: Tensor) -> tuple[Tensor, Tensor]:
        """Return features and logits at the model's own weights; batch norm's running statistics move."""
        with self.precision(inputs):
            features, logits = self.model(inputs)
        return features.to(self.dtype), logits.to(self.dtype)

    def shared(self, inputs: Tensor) -> tuple[Tensor, Tensor]:
        """Return the same as `plain`, and keep what `directional` needs."""
        with recorded(self.model) as self.tape:
            return self.plain(inputs)

    def moved(self, weights: Weights, inputs: Tensor) -> tuple[Tensor, Tensor]:
        """Return features and logits at other weights, the model's own where none is given; running statistics stay."""
        with self.precision(inputs):
            features, logits = run_with(self.model, weights, inputs)
        return features.to(self.dtype), logits.to(self.dtype)

    def directional(self, weights: Weights, direction: Weights, inputs: Tensor) -> Tensor:
        """Return the derivative of the last `shared` pass's logits along `direction`; what was kept for it is let go."""
        tape, self.tape = self.tape, {}
        with self.precision(inputs):
            return tangent(self.model, tape, weights, direction, inputs).to(self.dtype)


class CompiledPasses(Passes):
    """The passes compiled by torch.compile: slow at their first call, for every shape of a batch.

    Parameters
    ----------
    mode:
        Of torch.compile. "reduce-overhead" cannot be used: its graphs do not let two backward passes go through one.
    """

    def __init__(self, model: nn.Module, amp: torch.dtype | None = None, mode: str = "default") -> None:
        super().__init__(model, amp)
        self.mode = mode
        # The virtual and the real step go back through one graph, so its buffers must not be given away. The setting is read
        # when a backward pass is compiled, at its first call, and so has to last.
        torch._functorch.config.donated_buffer = False

        def moved(weights: dict[str, Tensor], inputs: Tensor) -> tuple[Tensor, Tensor]:
            with frozen_statistics(model):
                features, logits = functional_call(model, weights, (inputs,))
                return features, logits

        def directional(weights: dict[str, Tensor], direction: dict[str, Tensor], inputs: Tensor) -> Tensor:
            dots: Tensor = jvp(lambda w: moved(w, inputs)[1], (weights,), (direction,))[1]
            return dots

        self._plain, self._moved, self._directional = (
            torch.compile(function, dynamic=False, mode=self.mode) for function in (model, moved, directional)
        )

    def plain(self, inputs: Tensor) -> tuple[Tensor, Tensor]:
        """Return features and logits at the model's own weights; batch norm's running statistics move."""
        with self.precision(inputs):
            features, logits = self._plain(inputs)
        return features.to(self.dtype), logits.to(self.dtype)

    def shared(self, inputs: Tensor) -> tuple[Tensor, Tensor]:
        """Return the same as `plain`."""
        return self.plain(inputs)

    def moved(self, weights: Weights, inputs: Tensor) -> tuple[Tensor, Tensor]:
        """Return features and logits at other weights, the model's own where none is given; running statistics stay."""
        with self.precision(inputs):
            features, logits = self._moved(dict(weights), inputs)
        return features.to(self.dtype), logits.to(self.dtype)

    @torch.no_grad()
    def directional(self, weights: Weights, direction: Weights, inputs: Tensor) -> Tensor:
        """Return the derivative of the logits along `direction`, in the weights' precision: autocast fails under jvp."""
        load_forward_mode()
        values = {name: w.detach() for name, w in weights.items()}
        dots: Tensor = self._directional(values, dict(direction), inputs)
        return dots


def make_passes(model: nn.Module, amp: torch.dtype | None = None, mode: str | None = None) -> Passes:
    """Return the passes, compiled in torch.compile's `mode` if one is given.

    Without a working compiler there is a warning, and the passes are those of the network as it is.
    """
    if mode is None:
        return Passes(model, amp)
    device = next(model.parameters()).device
    try:
        torch.compile(lambda x: torch.relu(x) + 1)(torch.zeros(4, device=device))
    except Exception as error:  # whatever is missing: a compiler, headers, Triton
        reason = [*str(error).strip().splitlines(), repr(error)][0]
        warnings.warn(f"--compile: no working compiler, going on without ({reason})", stacklevel=2)
        return Passes(model, amp)
    return CompiledPasses(model, amp, mode)
