"""The steps of a whole network by shares: as those of whole batches, in chunks, and on several processes."""

import copy
import weakref
from itertools import product

import pytest
import torch
from support.compare import relative
from support.places import ROOT
from support.ranks import together
from support.runs import ALONE
from support.step_problems import ALPHA, LAM_T, META_LR, NETS, Problem

from heads.finetune import Share, SharedPasses
from heads.head_training import three_steps
from loss import MetaSAugCE
from meta_layers import head_of
from passes import Passes

pytestmark = pytest.mark.usefixtures("float64")
KINDS = {"plain": 0.0, "reweight": 0.0, "isda": LAM_T, "metasaug": LAM_T}  # with their λ_t
SEED = 5


def step(problem, kind, with_meta, group=ALONE, shared=True, **settings):
    """Take a step by shares of the batches, or by whole ones as a single process does."""
    passes = SharedPasses(problem.model, group, **settings) if shared else Passes(problem.model)
    parts = problem.criterion, problem.estimator, problem.optimizer
    plain, augmented, meta_step = three_steps(head_of(problem.model), *parts, passes)
    batch, meta = problem.batch, problem.meta
    if shared:
        plain, augmented, meta_step = map(passes.whole, (plain, augmented, meta_step))
        batch, meta = ((Share(x[group.share(len(y))], len(y), SEED), y) for x, y in (batch, meta))
    torch.manual_seed(SEED)
    extra = meta if with_meta else None
    if kind == "plain":
        return plain(batch, extra)
    if kind == "metasaug":
        return meta_step(batch, meta, lam_t=LAM_T, virtual_lr=ALPHA, meta_lr=META_LR, train_on_meta=with_meta)
    return augmented(batch, extra, lam_t=KINDS[kind])


def state_of(problem):
    momenta = {f"momentum {k}": s["momentum_buffer"] for k, s in problem.optimizer.state_dict()["state"].items()}
    return {**problem.model.state_dict(), **problem.estimator.state_dict(), **momenta}


def assert_close(found, wanted):
    assert found.keys() == wanted.keys()
    for name, value in wanted.items():
        torch.testing.assert_close(found[name], value, rtol=1e-9, atol=1e-11, msg=name)


@pytest.mark.parametrize("net", ["small", "dropout", "torchvision", "no bias"])
@pytest.mark.parametrize(("kind", "with_meta"), list(product(KINDS, [False, True])))
def test_a_step_by_shares_is_that_of_whole_batches(net, kind, with_meta):
    """Weights, momenta, class statistics, and running statistics, which move once, by the training batch."""
    problem, twin = (Problem(net, diagonal=True, criterion=MetaSAugCE) for _ in range(2))
    seen, expected = step(problem, kind, with_meta), step(twin, kind, with_meta, shared=False)
    assert relative(seen.loss, expected.loss) < 1e-9
    assert_close(state_of(problem), state_of(twin))


class Alive:
    """How many images' outputs of a layer are held at most at once."""

    def __init__(self, layer):
        self.seen, self.most = [], 0
        layer.register_forward_hook(self.count)

    def count(self, _, __, output):
        self.seen.append((weakref.ref(output), len(output)))
        self.most = max(self.most, sum(images for activation, images in self.seen if activation() is not None))


class WithoutNorm(NETS["small"]):
    def __init__(self):
        super().__init__()
        self.bn = torch.nn.SiLU()  # keeps what comes in for its backward pass


NETS["plain"] = WithoutNorm


@pytest.mark.parametrize("kind", KINDS)
def test_chunks_take_the_same_step_in_less_memory(kind):
    problem, twin = (Problem("plain", diagonal=True, criterion=MetaSAugCE) for _ in range(2))
    alive = [Alive(one.model.conv) for one in (problem, twin)]
    step(problem, kind, True, micro_batch=4)
    step(twin, kind, True)
    assert_close(state_of(problem), state_of(twin))
    assert (alive[0].most, alive[1].most) == (4, 22)  # of 12 images and 10 meta images


def moved_by(model, parts):
    """The running statistics when each part alone has moved them, their mean."""
    copies = []
    for images in parts:
        copies.append(copy.deepcopy(model))
        copies[-1](images)
    return {n: torch.stack([dict(c.named_buffers())[n] for c in copies]).double().mean(0) for n, _ in model.named_buffers()}


def test_chunks_move_running_statistics_once_by_their_mean():
    problem = Problem("torchvision", diagonal=True)
    expected = moved_by(problem.model, problem.batch[0].split(4))
    step(problem, "metasaug", True, micro_batch=5)
    for name, buffer in problem.model.named_buffers():
        torch.testing.assert_close(buffer.double(), expected[name], msg=name)


def test_bfloat16_leaves_losses_and_updates_in_the_weights_precision():
    torch.set_default_dtype(torch.float32)  # autocast leaves float64 alone
    problem, twin = (Problem("resnet8", diagonal=True) for _ in range(2))
    seen, full = step(problem, "metasaug", False, bf16=True), step(twin, "metasaug", False)
    assert {value.dtype for value in vars(seen).values() if value is not None} == {torch.float32, torch.bool}
    assert 1e-5 < relative(seen.logits, full.logits) < 0.1


WORKER = f"""
import sys
sys.path[:0] = [{str(ROOT)!r}, {str(ROOT / "tests")!r}, {str(ROOT / "tests/heads")!r}]
import torch
torch.set_default_dtype(torch.float64)
from harness.errors import run_main
from harness.process_group import process_group
from test_finetune_step import KINDS, MetaSAugCE, Problem, product, state_of, step

def main():
    torch.set_num_threads(1)
    with process_group(None, True, None, 60) as group:
        out = {{}}
        for name, counts, kinds, sizes in (("plain", (12, 11, 3), KINDS, [None, 4]), ("small", [12], ["metasaug"], [None])):
            problem = Problem(name, diagonal=True, criterion=MetaSAugCE)
            problem.model.unused = torch.nn.Parameter(torch.ones(3))
            problem.optimizer.add_param_group({{"params": [problem.model.unused]}})
            whole = problem.batch
            for count, kind, micro_batch in product(counts, kinds, sizes):
                problem.batch = tuple(part[:count] for part in whole)
                seen = step(problem, kind, count != 11, group, micro_batch=micro_batch)
                out[f"{{name}} {{count}} {{kind}} {{micro_batch}}"] = torch.cat([seen.loss.view(1), seen.logits.flatten()])
            out |= {{f"{{name}} {{key}}": value for key, value in state_of(problem).items()}}
        torch.save(out, f"outcome_{{group.world_size}}_{{group.rank}}.pt")

run_main(main)
"""


def test_the_outcome_does_not_depend_on_the_number_of_processes(start, tmp_path):
    """But for batch norm, which takes each process's own images on the CPU; its running statistics move by the mean."""
    (tmp_path / "worker.py").write_text(WORKER)
    outcomes = {}
    for world in (1, 2, 3):
        for status, _, err in together(start, world, tmp_path / "worker.py"):
            assert (status, err) == (0, "")
        outcomes[world] = [torch.load(tmp_path / f"outcome_{world}_{rank}.pt", weights_only=True) for rank in range(world)]
    alone = outcomes[1][0]
    assert torch.equal(alone["plain unused"], torch.ones(3))  # no gradient, so no weight decay
    for world in (2, 3):
        problem = Problem("small", diagonal=True)
        running = moved_by(problem.model, problem.batch[0].split(12 // world))
        expected = {name: value for name, value in alone.items() if not name.startswith("small")}
        expected |= {f"small {name}": value for name, value in running.items()}
        for outcome in outcomes[world]:
            assert all(torch.equal(outcome[name], outcomes[world][0][name]) for name in alone)  # on all the same bits
            for name, value in expected.items():
                assert relative(outcome[name], value) < 1e-10, (world, name)
