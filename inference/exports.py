"""A trained network in a file that needs none of this code: ONNX or TorchScript, checked against PyTorch's eager mode."""

from __future__ import annotations

import io
import json
import logging
import warnings
from collections.abc import Mapping, Sequence
from contextlib import redirect_stderr
from pathlib import Path

import torch
from torch import Tensor, nn

from harness.errors import UserError
from harness.files import replacing
from inference.photographs import FromPhotographs
from inference.trained import FromPixels

ENDINGS = {"onnx": ".onnx", "torchscript": ".pt"}
NAMES, PREPARATION = "class_names", "preparation"  # of the metadata: a JSON list, and of photographs' networks a JSON object
KEPT = ("image_size", "resize_size", "mean", "std", "interpolation")  # of it: all that test images depend on
PACKAGES = ("onnx", "onnxscript", "onnxruntime")
TOLERANCE = 1e-4  # of the largest logit: kernels sum in other orders
TRACED = (2, 67, 45, 3)  # the photographs that a network is traced on, of no size that others are likely to have


def export(
    model: FromPixels | FromPhotographs, form: str, path: Path, class_names: Sequence[str], pixels: Tensor | Sequence[Tensor]
) -> float:
    """Write the network, read the file back and compare; return the largest difference of a logit.

    Parameters
    ----------
    model:
        On the CPU in eval mode. The file takes pixels (N, 32, 32, 3) or (N, H, W, 3) uint8 RGB, any N, H and W, and gives
        logits (N, C).
    form:
        "onnx" or "torchscript".
    class_names:
        Kept as a JSON list: `class_names` of ONNX's metadata, the extra file class_names of TorchScript. What was done to
        photographs is kept so too, as `preparation`.
    pixels:
        Images to compare on; of photographs batches, each of a size of its own. A file that is at `path` already is kept as
        `path`.previous.

    Raises
    ------
    UserError
        If packages are missing or the file cannot be written.
    RuntimeError
        If the file's logits differ from those of PyTorch; then nothing is written.
    """
    facts = {NAMES: json.dumps(list(class_names))}
    if isinstance(pixels, Tensor):
        if len(pixels) == 1:
            pixels = pixels.repeat(2, 1, 1, 1)  # the number of images must not become a constant of the file
        example, batches = pixels[:2], [pixels[:1], pixels[1:]]
    else:
        example, batches = torch.zeros(TRACED, dtype=torch.uint8), list(pixels)
    if isinstance(model, FromPhotographs):
        facts[PREPARATION] = json.dumps({key: getattr(model.prepared, key) for key in KEPT})
    with replacing(path, keep_previous=True) as part, torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # both ways warn of deprecations inside PyTorch
        made = torch.cat((onnx_logits if form == "onnx" else torchscript_logits)(model, part, facts, example, batches))
        own = model(pixels) if isinstance(pixels, Tensor) else torch.cat([model(batch) for batch in batches])
        difference = float((made - own).abs().where(made != own, torch.zeros(())).max())  # infinities may be equal
        largest = float(own.abs().where(own.isfinite(), torch.zeros(())).max())
        if not difference <= TOLERANCE * max(largest, 1):
            raise RuntimeError(f"the {form} file gives other logits than PyTorch: they differ by {difference:.3g}")
    return difference


def onnx_logits(
    model: nn.Module, path: Path, facts: Mapping[str, str], example: Tensor, batches: Sequence[Tensor]
) -> list[Tensor]:
    """Write ONNX; return the logits that ONNX Runtime gives for each batch."""
    try:
        import onnxruntime  # these are slow to import, and not needed for anything else
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise UserError(f"--export onnx needs the package {error.name}: pip install {' '.join(PACKAGES)}") from error
    names = ("images", "height", "width") if isinstance(model, FromPhotographs) else ("images",)
    logging.disable()  # of a network that cannot be exported PyTorch logs and prints hundreds of lines
    try:
        with redirect_stderr(io.StringIO()):
            program = torch.onnx.export(
                model, (example,), dynamo=True, input_names=["pixels"], output_names=["logits"],
                dynamic_shapes={"pixels": {k: torch.export.Dim(name) for k, name in enumerate(names)}}, verbose=False,
            )  # fmt: skip
    except torch.onnx.OnnxExporterError as error:
        reason = next(iter(str(error.__cause__).splitlines()), "")
        raise UserError(f"PyTorch cannot turn this network into ONNX ({reason}): see --export torchscript") from error
    finally:
        logging.disable(logging.NOTSET)
    assert program is not None
    program.model.metadata_props.update(facts)
    program.save(path, external_data=False)
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return [torch.from_numpy(session.run(None, {"pixels": batch.numpy()})[0]) for batch in batches]


def torchscript_logits(
    model: nn.Module, path: Path, facts: Mapping[str, str], example: Tensor, batches: Sequence[Tensor]
) -> list[Tensor]:
    """Write TorchScript; return the logits that the file gives for each batch."""
    traced = torch.jit.trace(model, (example,))
    buffer = io.BytesIO()  # PyTorch's own writing of a file fails with other errors than a system's
    torch.jit.save(traced, buffer, _extra_files=dict(facts))
    path.write_bytes(buffer.getbuffer())
    again = torch.jit.load(str(path))
    return [again(batch) for batch in batches]
