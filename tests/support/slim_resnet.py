"""A ResNet-50 for tests in which any would do: an eighth of the weights and of the work for an image.

fork_server.py gives it to the scripts that it runs in place of torchvision's, unless the variable RESNET50 is "whole".
"""

from torchvision.models.resnet import Bottleneck, ResNet


def slim_resnet50(weights=None, **named):
    """A network like torchvision's resnet50(), with as many features: one block a stage, of a sixteenth of the width."""
    assert weights is None
    return ResNet(Bottleneck, [1, 1, 1, 1], width_per_group=4, **named)
