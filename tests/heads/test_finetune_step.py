"""The steps on micro-batches against `meta_step.py` and a network that parts its batch itself, and on several processes."""

import copy
import weakref

import pytest
import torch
from support.compare import relative
from support.places import ROOT
from support.ranks import together
from support.runs import ALONE
from support.step_problems import ALPHA, LAM_T, META_LR, NETS, Problem
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from covariance_rules import relative_rule
from data_utils import mixed_seed
from heads.finetune_step import augmented_network_step, meta_network_step, plain_network_step
from heads.micro_batches import CopyingPasses, MicroBatches, Network, micro_sizes
from loss import MetaSAugCE, MetaSAugLDAM
from meta_step import augmented_step, meta_step, plain_step

pytestmark = pytest.mark.usefixtures("float64")
SEEDS = {12: 5, 10: 9}  # of the training and of the meta batch, by their sizes
KINDS = ("plain", "plain with meta", "augmented", "augmented with meta", "all", "head", "all with meta", "head with meta")


def parted(batch, micro_batch):
    sizes = micro_sizes(len(batch[1]), micro_batch)
    own = list(zip(*(part.split(sizes) for part in batch), strict=True))
    return MicroBatches(own, batch[1], sizes, SEEDS[len(batch[1])])


class Parting(nn.Module):
    """A network that runs each micro-batch by itself, with the random numbers of its place: the slow reference."""

    def __init__(self, inner, micro_batch):
        super().__init__()
        self.inner, self.micro_batch, self.head = inner, micro_batch, f"inner.{inner.head}"

    def forward(self, x):
        outs = []
        for place, part in enumerate(x.split(micro_sizes(len(x), self.micro_batch))):
            torch.manual_seed(mixed_seed(SEEDS[len(x)], place))
            outs.append(self.inner(part))
        return tuple(torch.cat(column) for column in zip(*outs, strict=True))


def ours(problem, kind, micro_batch, **changes):
    network = Network(problem.model, CopyingPasses(problem.model), ALONE, kind.startswith("all"))
    batch, meta = (parted(one, micro_batch) for one in (problem.batch, problem.meta))
    with_meta = kind.endswith("with meta")
    if kind.startswith("plain"):
        return plain_network_step(network, problem.optimizer, batch, meta if with_meta else None)
    parts = network, problem.criterion, problem.estimator, problem.optimizer, batch
    if kind.startswith("augmented"):
        return augmented_network_step(*parts, meta if with_meta else None, lam_t=LAM_T)
    settings = {"lam_t": LAM_T, "virtual_lr": ALPHA, "meta_lr": META_LR, "virtual": kind.split()[0], **changes}
    return meta_network_step(*parts, meta, train_on_meta=with_meta, **settings)


def expected(problem, kind, micro_batch, **changes):
    model = Parting(problem.model, micro_batch)
    batch, meta, with_meta = problem.batch, problem.meta, kind.endswith("with meta")
    if kind.startswith("plain"):
        return plain_step(CopyingPasses(model), problem.optimizer, batch, meta if with_meta else None)
    parts = model, problem.criterion, problem.estimator, problem.optimizer, batch
    if kind.startswith("augmented"):
        return augmented_step(*parts, meta if with_meta else None, lam_t=LAM_T)
    settings = {"lam_t": LAM_T, "virtual_lr": ALPHA, "meta_lr": META_LR, "virtual": kind.split()[0], **changes}
    return meta_step(*parts, meta, train_on_meta=with_meta, **settings)


def state_of(problem, result):
    """All that a step leaves and says, but for the network's buffers."""
    found = dict(problem.model.named_parameters())
    names = {n: p for n, p in problem.model.named_parameters() if p in problem.optimizer.state}
    found |= {f"momentum of {n}": problem.optimizer.state[p]["momentum_buffer"] for n, p in names.items()}
    found |= {f"estimator.{n}": b for n, b in problem.estimator.named_buffers()}
    return found | {f"result.{n}": v for n, v in vars(result).items() if v is not None}


def assert_same(problem, result, twin, theirs, tolerance=1e-9):
    found, wanted = state_of(problem, result), state_of(twin, theirs)
    assert found.keys() == wanted.keys()
    for name, value in wanted.items():
        torch.testing.assert_close(found[name].detach(), value.detach(), rtol=tolerance, atol=tolerance, msg=name)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("net", NETS)
@pytest.mark.parametrize("micro_batch", [12, 4])
def test_a_step_is_that_of_a_network_which_parts_its_batch(net, kind, micro_batch):
    """With one micro-batch that is the step of `meta_step.py` itself."""
    problem, twin = (Problem(net, diagonal=True) for _ in range(2))
    assert_same(problem, ours(problem, kind, micro_batch), twin, expected(twin, kind, micro_batch))


class Attention(nn.Module):
    """Attention over the quarters of an image, with dropout in it."""

    head = "last"

    def __init__(self):
        super().__init__()
        self.first, self.attention, self.last = nn.Conv2d(3, 8, 16, 16), nn.MultiheadAttention(8, 2, 0.3), nn.Linear(8, 5)

    def forward(self, x):
        tokens = self.first(x).flatten(2).permute(2, 0, 1)
        features = self.attention(tokens, tokens, tokens, need_weights=False)[0].mean(dim=0)
        return features, self.last(features)


def test_attention_has_a_directional_pass_with_the_random_numbers_of_the_others(monkeypatch):
    monkeypatch.setitem(NETS, "attention", Attention)
    problem, twin = (Problem("attention", diagonal=True) for _ in range(2))
    result = ours(problem, "all", 6)
    with sdpa_kernel(SDPBackend.MATH):
        assert_same(problem, result, twin, expected(twin, "all", 6))


@pytest.mark.parametrize("virtual", ["all", "head"])
@pytest.mark.parametrize("criterion", [MetaSAugLDAM, MetaSAugCE])
def test_a_step_by_the_relative_rule_with_full_covariances(virtual, criterion):
    problem, twin = (Problem(criterion=criterion) for _ in range(2))
    changes = {"rule": relative_rule}
    assert_same(problem, ours(problem, virtual, 5, **changes), twin, expected(twin, virtual, 5, **changes))


@pytest.mark.parametrize(("net", "change"), [("small", 12), ("dropout", 12), ("small", 5)])
def test_the_comparison_sees_other_micro_batches(net, change):
    problem, twin = (Problem(net, diagonal=True) for _ in range(2))
    ours(problem, "head", 3)
    expected(twin, "head", change)
    pairs = zip(problem.model.parameters(), twin.model.parameters(), strict=True)
    assert max(relative(a, b) for a, b in pairs) > 1e-3


@pytest.mark.parametrize("kind", ["plain", "augmented with meta", "all", "head"])
@pytest.mark.parametrize("net", ["small", "torchvision"])
def test_running_statistics_move_by_the_mean_over_the_micro_batches(net, kind):
    problem = Problem(net, diagonal=True)
    copies = []
    for inputs in problem.batch[0].split(4):
        copies.append(copy.deepcopy(problem.model))
        copies[-1](inputs)
    before = {name: buffer.clone() for name, buffer in problem.model.named_buffers()}
    ours(problem, kind, 4)
    for name, buffer in problem.model.named_buffers():
        alone = [dict(one.named_buffers())[name] for one in copies]
        torch.testing.assert_close(buffer.double(), torch.stack(alone).double().mean(dim=0), msg=name)
        assert name.endswith("num_batches_tracked") or relative(buffer, before[name]) > 1e-3


class Saved:
    """What autograd keeps of a pass, and how much that comes to at most."""

    def __init__(self):
        self.alive, self.most = weakref.WeakSet(), 0

    def pack(self, tensor):
        held = Held(tensor)
        self.alive.add(held)
        self.most = max(self.most, sum(one.tensor.numel() for one in self.alive))
        return held


class Held:
    def __init__(self, tensor):
        self.tensor = tensor


@pytest.mark.parametrize("kind", KINDS)
def test_the_graph_of_one_micro_batch_is_kept_at_a_time(kind):
    most = {}
    for micro_batch in (12, 3):
        saved, problem = Saved(), Problem("resnet8", diagonal=True)
        with torch.autograd.graph.saved_tensors_hooks(saved.pack, lambda held: held.tensor):
            ours(problem, kind, micro_batch)
        most[micro_batch] = saved.most
    assert most[3] < 0.4 * most[12]


@pytest.mark.parametrize(
    ("count", "micro_batch", "sizes"), [(12, 5, [4, 4, 4]), (9, 4, [3, 3, 3]), (2, 8, [2]), (7, 3, [2, 2, 3])]
)
def test_micro_batches_are_alike(count, micro_batch, sizes):
    assert micro_sizes(count, micro_batch) == sizes


def test_bfloat16_leaves_losses_and_updates_in_the_weights_precision():
    torch.set_default_dtype(torch.float32)  # autocast leaves float64 alone
    problem, twin = (Problem("resnet8", diagonal=True) for _ in range(2))
    network = Network(problem.model, CopyingPasses(problem.model, torch.bfloat16), ALONE)
    parts = problem.criterion, problem.estimator, problem.optimizer
    settings = {"lam_t": LAM_T, "virtual_lr": ALPHA, "meta_lr": META_LR}
    batches = (parted(one, 6) for one in (problem.batch, problem.meta))
    result, full = meta_network_step(network, *parts, *batches, **settings), ours(twin, "all", 6)
    assert {value.dtype for value in vars(result).values()} == {torch.float32, torch.bool}
    assert 1e-5 < relative(result.logits, full.logits) < 0.1
    assert relative(result.loss, full.loss) < 0.1


WORKER = f"""
import os, sys
sys.path[:0] = [{str(ROOT)!r}, {str(ROOT / "tests")!r}]
import torch
torch.set_default_dtype(torch.float64)
from heads.finetune_step import augmented_network_step, meta_network_step, plain_network_step
from heads.micro_batches import CopyingPasses, MicroBatches, Network, micro_sizes, own_places
from harness.errors import run_main
from harness.process_group import process_group
from support.step_problems import Problem

def part(batch, count, micro_batch, group, seed):
    inputs, target = (one[:count] for one in batch)
    sizes = micro_sizes(count, micro_batch)
    pieces = list(zip(inputs.split(sizes), target.split(sizes)))
    return MicroBatches([pieces[k] for k in own_places(sizes, group)], target, sizes, seed)

def main():
    torch.set_num_threads(1)
    with process_group(None, True, None, 60) as group:
        problem = Problem("dropout", diagonal=True)
        problem.model.unused = torch.nn.Parameter(torch.ones(3))
        problem.optimizer.add_param_group({{"params": [problem.model.unused]}})
        network = Network(problem.model, CopyingPasses(problem.model), group)
        parts = network, problem.criterion, problem.estimator, problem.optimizer
        losses = []
        micro_batch = int(sys.argv[1])
        for step, count in enumerate([12, 12, 12, 3, 3]):  # 3 are one micro-batch: others have none
            torch.manual_seed(100 * group.rank + step)  # what else draws random numbers changes nothing
            batch = part(problem.batch, count, micro_batch, group, step)
            meta = part(problem.meta, 10, 6, group, 100 + step)
            settings = dict(lam_t=0.6, virtual_lr=0.05, meta_lr=0.3, virtual=["all", "head"][step % 2])
            seen = meta_network_step(*parts, batch, meta, train_on_meta=step == 1, **settings)
            losses += [seen.loss_virtual, seen.loss_meta, seen.loss, *seen.logits.flatten()]
            seen = augmented_network_step(*parts, batch, meta, lam_t=0.6)
            losses += [seen.loss, *seen.logits.flatten(), plain_network_step(network, problem.optimizer, batch).loss]
        out = {{**problem.model.state_dict(), **problem.estimator.state_dict(), "losses": torch.stack(losses)}}
        torch.save(out, f"outcome_{{micro_batch}}_{{group.world_size}}_{{group.rank}}.pt")

run_main(main)
"""


def test_the_outcome_does_not_depend_on_the_number_of_processes(start, tmp_path):
    (tmp_path / "worker.py").write_text(WORKER)
    outcomes = {}
    for micro_batch, world in ((3, 1), (3, 2), (3, 3), (12, 1)):
        for status, _, err in together(start, world, tmp_path / "worker.py", micro_batch):
            assert status == 0, err
        files = [tmp_path / f"outcome_{micro_batch}_{world}_{rank}.pt" for rank in range(world)]
        outcomes[micro_batch, world] = [torch.load(file, weights_only=True) for file in files]
    whole = outcomes[3, 1][0]
    assert torch.equal(whole["unused"], torch.ones(3))  # no gradient, so no weight decay
    for world in (2, 3):
        for outcome in outcomes[3, world]:
            for name, value in whole.items():
                assert relative(outcome[name], value) < 1e-10, (world, name)
                assert torch.equal(outcome[name], outcomes[3, world][0][name])  # on all processes the same bits
    control = outcomes[12, 1][0]
    assert relative(control["conv.weight"], whole["conv.weight"]) > 1e-3
