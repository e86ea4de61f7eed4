"""ResNet-32 and its relatives: published names, option A shortcuts, sizes."""

import pytest
import torch
from torch.nn import functional as F

from resnet import build_model, make_model


def published_keys(blocks=5):
    def norm(name):
        return [f"{name}.{k}" for k in ("weight", "bias", "running_mean", "running_var")]

    keys = ["conv1.weight", *norm("bn1")]
    for stage in (1, 2, 3):
        for block in range(blocks):
            for i in (1, 2):
                keys += [f"layer{stage}.{block}.conv{i}.weight", *norm(f"layer{stage}.{block}.bn{i}")]
    return {*keys, "linear.weight", "linear.bias"}


@pytest.mark.parametrize(("arch", "blocks"), [("resnet20", 3), ("resnet32", 5), ("resnet56", 9)])
def test_state_dict_has_exactly_the_published_keys(arch, blocks):
    assert build_model(arch, 10).state_dict().keys() == published_keys(blocks)


def test_size_of_resnet32():
    # He et al. give 0.46 M for ten classes.
    assert sum(p.numel() for p in build_model("resnet32", 10).parameters()) == 464154


def slow_forward(state, x, blocks):
    """The network written out once more with plain functions, in eval mode."""

    def norm(x, name):
        s = {k: state[f"{name}.{k}"] for k in ("weight", "bias", "running_mean", "running_var")}
        shape = (1, -1, 1, 1)
        x = (x - s["running_mean"].view(shape)) / (s["running_var"].view(shape) + 1e-5).sqrt()
        return x * s["weight"].view(shape) + s["bias"].view(shape)

    out = norm(F.conv2d(x, state["conv1.weight"], padding=1), "bn1").clamp(min=0)
    for stage, planes in ((1, 16), (2, 32), (3, 64)):
        for block in range(blocks):
            p, stride = f"layer{stage}.{block}", 2 if stage > 1 and block == 0 else 1
            inner = norm(F.conv2d(out, state[f"{p}.conv1.weight"], stride=stride, padding=1), f"{p}.bn1").clamp(min=0)
            inner = norm(F.conv2d(inner, state[f"{p}.conv2.weight"], padding=1), f"{p}.bn2")
            if stride == 2:
                side = torch.zeros(out.shape[0], planes // 4, *inner.shape[2:], dtype=x.dtype)
                out = torch.cat([side, out[:, :, ::2, ::2], side], dim=1)
            out = (inner + out).clamp(min=0)
    features = out.flatten(2).mean(2)
    return features, features @ state["linear.weight"].T + state["linear.bias"]


@pytest.mark.usefixtures("float64")
def test_forward_equals_the_network_written_out():
    model = build_model("resnet20", 7).eval()
    for m in model.modules():
        if hasattr(m, "running_var"):
            torch.nn.init.uniform_(m.running_var, 0.5, 2)
            torch.nn.init.normal_(m.running_mean)
    x = torch.randn(3, 3, 32, 32)
    features, logits = model(x)
    expected = slow_forward(model.state_dict(), x, 3)
    assert features.shape == (3, 64)
    assert logits.shape == (3, 7)
    torch.testing.assert_close(features, expected[0])
    torch.testing.assert_close(logits, expected[1])
    changed = {**model.state_dict(), "layer2.0.conv1.weight": torch.zeros(32, 16, 3, 3)}
    assert not torch.allclose(slow_forward(changed, x, 3)[1], logits)


def test_weights_follow_the_seed_and_nothing_else():
    state = torch.get_rng_state()
    heads = [make_model("resnet8", 4, seed).linear.weight for seed in (1, 1, 2)]
    assert torch.equal(heads[0], heads[1])
    assert not torch.equal(heads[0], heads[2])
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("arch", ["resnet", "resnet2", "resnet18", "resnet31", "vgg", "resnet32x", ""])
def test_other_names_are_refused(arch):
    with pytest.raises(ValueError, match="6n"):
        build_model(arch, 10)
