"""Networks of one's own that train in no time: a test copies this file to where --arch tiny_networks:... finds it."""

from torch import nn


def body():
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, stride=4, bias=False), nn.BatchNorm2d(8), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten()
    )


def logits(num_classes):
    return nn.Sequential(*body(), nn.Linear(32, num_classes))


class Pair(nn.Module):
    head = "last"

    def __init__(self, num_classes):
        super().__init__()
        self.body, self.last = body(), nn.Linear(32, num_classes)

    def forward(self, x):
        features = self.body(x)
        return features, self.last(features)


def headless(num_classes):
    return body()


def no_network(num_classes):
    return [num_classes]
