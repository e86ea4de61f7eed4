"""A trained network in a file that needs none of this code: ONNX, checked against PyTorch's eager mode."""

from __future__ import annotations

import io
import json
import logging
import warnings
from collections.abc import Mapping, Sequence
from contextlib import redirect_stderr
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from datasets.small_sets import SIZE
from harness.errors import UserError
from harness.files import replacing
from inference.photographs import FromPhotographs

if TYPE_CHECKING:
    from inference.classifiers import Classifier  # torchvision, which exports of small networks need not load

PREPARATION = ("image_size", "resize_size", "mean", "std", "interpolation")  # all that test images depend on
PACKAGES = ("onnx", "onnxscript", "onnxruntime")
LARGE = (1, 300, 400, 3), (3, 61, 47, 3)  # shapes of made-up photographs
SMALL = (1, SIZE, SIZE, 3), (3, SIZE, SIZE, 3)  # and of images of the CIFAR scripts
SIDES = ("batch", "height", "width")  # that may have any length, as ONNX names them
TOLERANCE = 1e-4  # of the largest logit: kernels sum in other orders


class Shifted(nn.Module):
    """A network to whose logits (N, C) a vector `shift` (C,) is added."""

    shift: Tensor

    def __init__(self, network: nn.Module, shift: Tensor) -> None:
        super().__init__()
        self.network = network
        self.register_buffer("shift", shift)

    def forward(self, inputs: Tensor) -> Tensor:
        """Return the logits (N, C)."""
        return torch.add(self.network(inputs), self.shift)


def export_classifier(network: Classifier, path: Path, shift: Tensor, prior: str | None) -> str:
    """Write a network, which is moved to the CPU, as `export` does; return a line that says so.

    `shift` (C,) is added to the logits in the file too; it comes from `prior`.
    """
    model = network.model.cpu()
    shapes: Sequence[Sequence[int]] = SMALL
    facts: dict[str, object] = {"class_names": network.names}
    if network.prepared:
        model, shapes = nn.Sequential(FromPhotographs(network.prepared), model), LARGE
        facts["preparation"] = {key: getattr(network.prepared, key) for key in PREPARATION}
    elif isinstance(model, nn.Linear):
        shapes = (1, model.in_features), (3, model.in_features)
    line = export(model if prior is None else Shifted(model, shift), path, facts, shapes)
    return line if prior is None else f"{line}; what --prior {prior} adds is in them"


def export(
    model: nn.Module, path: Path, facts: Mapping[str, object], shapes: Sequence[Sequence[int]] = SMALL
) -> str:
    """Write the network, read the file back and compare; return a line that says how far the logits are apart.

    Parameters
    ----------
    model:
        On the CPU in eval mode: pixels (N, H, W, 3) uint8 RGB, or features (N, A), to logits (N, C).
    facts:
        Kept as JSON under their names in the file's metadata.
    shapes:
        Of two batches that are made up to compare on. The second, without a side of 1, is what the network is traced on; the
        sides in which they differ may have any length in the file.

    Raises
    ------
    UserError
        If packages are missing or the file cannot be written.
    RuntimeError
        If the file's logits differ from those of PyTorch; then nothing is written.
    """
    generator = torch.Generator().manual_seed(0)
    batches = [torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator) for shape in shapes]
    if len(shapes[0]) == 2:
        batches = [batch / 100 - 1 for batch in batches]  # features
    texts = {name: json.dumps(fact) for name, fact in facts.items()}
    with replacing(path) as part, torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of deprecations inside PyTorch
        own = torch.cat([model(batch) for batch in batches])  # first: constants that a network keeps are made then
        made = torch.cat(onnx_logits(model, part, texts, batches))
        difference = float((made - own).abs().where(made != own, 0.0).max())  # infinities may be equal
        largest = float(own.abs().where(own.isfinite(), 0.0).max())
        if not difference <= TOLERANCE * max(largest, 1):
            raise RuntimeError(f"the ONNX file gives other logits than PyTorch: they differ by {difference:.3g}")
    return f"wrote {path}: logits of made-up inputs within {difference:.1e} of PyTorch's"


def onnx_logits(model: nn.Module, path: Path, texts: Mapping[str, str], batches: Sequence[Tensor]) -> list[Tensor]:
    """Write ONNX; return the logits that ONNX Runtime gives for each batch."""
    try:
        import onnxruntime  # these are slow to import, and not needed for anything else
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise UserError(f"--export onnx needs the package {error.name}: pip install {' '.join(PACKAGES)}") from error
    first, example = batches
    name = "features" if example.dim() == 2 else "pixels"
    lengths = zip(SIDES, first.shape, example.shape)  # noqa: B905  (colours and features are what they are)
    sides = {k: torch.export.Dim(side) for k, (side, one, other) in enumerate(lengths) if one != other}
    logging.disable()  # of a network that cannot be exported PyTorch logs and prints hundreds of lines
    try:
        with redirect_stderr(io.StringIO()):
            program = torch.onnx.export(model, (example,), dynamo=True, input_names=[name], output_names=["logits"],
                                        dynamic_shapes=(sides,), verbose=False)  # fmt: skip
    except torch.onnx.OnnxExporterError as error:
        reason = next(iter(str(error.__cause__).splitlines()), "")
        raise UserError(f"PyTorch cannot turn this network into ONNX ({reason}): leave --export out") from error
    finally:
        logging.disable(logging.NOTSET)
    assert program is not None
    program.model.metadata_props.update(texts)
    program.save(path, external_data=False)
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return [torch.from_numpy(session.run(None, {name: batch.numpy()})[0]) for batch in batches]
