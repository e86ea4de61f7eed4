"""A trained network in a file that needs none of this code: ONNX or TorchScript, checked against PyTorch's eager mode."""

from __future__ import annotations

import io
import json
import warnings
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from harness.errors import UserError
from harness.files import replacing
from reporting.trained import FromPixels

ENDINGS = {"onnx": ".onnx", "torchscript": ".pt"}
NAMES = "class_names"  # of the metadata, a JSON list
PACKAGES = ("onnx", "onnxscript", "onnxruntime")
TOLERANCE = 1e-4  # of the largest logit: kernels sum in other orders


def export(model: FromPixels, form: str, path: Path, class_names: Sequence[str], pixels: Tensor) -> float:
    """Write the network, read the file back and compare; return the largest difference of a logit.

    Parameters
    ----------
    model:
        On the CPU in eval mode. The file takes pixels (N, 32, 32, 3) uint8 RGB, any N, and gives logits (N, C).
    form:
        "onnx" or "torchscript".
    class_names:
        Kept as a JSON list: `class_names` of ONNX's metadata, the extra file class_names of TorchScript.
    pixels:
        Images to compare on. A file that is at `path` already is kept as `path`.previous.

    Raises
    ------
    UserError
        If packages are missing or the file cannot be written.
    RuntimeError
        If the file's logits differ from those of PyTorch; then nothing is written.
    """
    names = json.dumps(list(class_names))
    if len(pixels) == 1:
        pixels = pixels.repeat(2, 1, 1, 1)  # the number of images must not become a constant of the file
    with replacing(path, keep_previous=True) as part, torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # both ways warn of deprecations inside PyTorch
        made = (onnx_logits if form == "onnx" else torchscript_logits)(model, part, names, pixels)
        own = model(pixels)
        difference = float((made - own).abs().max())
        if not difference <= TOLERANCE * float(own.abs().max().clamp(min=1)):
            raise RuntimeError(f"the {form} file gives other logits than PyTorch: they differ by {difference:.3g}")
    return difference


def onnx_logits(model: FromPixels, path: Path, names: str, pixels: Tensor) -> Tensor:
    """Write ONNX; return the logits that ONNX Runtime gives for `pixels`, one image alone and the others together."""
    try:
        import onnxruntime  # these are slow to import, and not needed for anything else
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise UserError(f"--export onnx needs the package {error.name}: pip install {' '.join(PACKAGES)}") from error
    program = torch.onnx.export(
        model, (pixels[:2],), dynamo=True, input_names=["pixels"], output_names=["logits"],
        dynamic_shapes={"pixels": {0: torch.export.Dim("images")}}, verbose=False,
    )  # fmt: skip
    assert program is not None
    program.model.metadata_props[NAMES] = names
    program.save(path, external_data=False)
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    parts = [session.run(None, {"pixels": part.numpy()})[0] for part in (pixels[:1], pixels[1:])]
    return torch.cat([torch.from_numpy(part) for part in parts])


def torchscript_logits(model: FromPixels, path: Path, names: str, pixels: Tensor) -> Tensor:
    """Write TorchScript; return the logits that the file gives for `pixels`, one image alone and the others together."""
    traced = torch.jit.trace(model, (pixels[:2],))
    buffer = io.BytesIO()  # PyTorch's own writing of a file fails with other errors than a system's
    torch.jit.save(traced, buffer, _extra_files={NAMES: names})
    path.write_bytes(buffer.getbuffer())
    again = torch.jit.load(str(path))
    return torch.cat([again(pixels[:1]), again(pixels[1:])])
