"""The steps of a whole network against loops over samples and double backward, and on several processes."""

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
from torch.nn import functional as F

from heads.finetune import Share, SharedPasses
from heads.head_training import three_steps
from loss import MetaSAugCE
from meta_layers import frozen_statistics, head_of

pytestmark = pytest.mark.usefixtures("float64")
KINDS = {"plain": 0.0, "reweight": 0.0, "isda": LAM_T, "metasaug": LAM_T}  # with their λ_t
SEED = 5


def step(problem, kind, with_meta, group=ALONE, **settings):
    passes = SharedPasses(problem.model, group, **settings)
    parts = problem.criterion, problem.estimator, problem.optimizer
    plain, augmented, meta_step = map(passes.whole, three_steps(problem.model, head_of(problem.model), *parts, passes))
    batch, meta = ((Share(x[group.share(len(y))], len(y), SEED), y) for x, y in (problem.batch, problem.meta))
    if kind == "plain":
        return plain(batch, meta if with_meta else None)
    if kind == "metasaug":
        rates = {"lam_t": LAM_T, "virtual_lr": ALPHA, "meta_lr": META_LR}
        return meta_step(batch, meta, train_on_meta=with_meta, **rates)
    return augmented(batch, meta if with_meta else None, lam_t=KINDS[kind])


def reference(problem, kind, with_meta):
    """Take the step sample by sample, Σ̂ by double backward; return its loss."""
    (images, target), lam_t, criterion = problem.batch, KINDS[kind], problem.criterion
    torch.manual_seed(SEED)
    sigma = problem.sigma - META_LR * problem.double_backward("head") if kind == "metasaug" else problem.sigma
    features, logits = problem.model(images)
    if kind == "metasaug":
        torch.rand(len(problem.meta[1]), features.shape[1])  # what dropout drew for the meta batch
    weight, terms, weights = head_of(problem.model).weight, [], []
    for own, label in zip(logits, target.tolist(), strict=True):
        spread = torch.stack([(sigma[label] * (w - weight[label]) ** 2).sum() for w in weight])
        terms.append(-(own + lam_t / 2 * spread).log_softmax(dim=0)[label])
        weights.append(1.0 if kind == "plain" else float(criterion.class_weights[label]))
    loss = sum(w * term for w, term in zip(weights, terms, strict=True)) / sum(weights)
    problem.optimizer.zero_grad()
    with frozen_statistics(problem.model):
        extra = F.cross_entropy(problem.model(problem.meta[0])[1], problem.meta[1]) if with_meta else 0
        (loss + extra).backward()
    problem.optimizer.step()
    if kind != "plain":
        problem.estimator.update(features.detach(), target)
    return loss


def state_of(problem):
    momenta = {f"momentum {k}": s["momentum_buffer"] for k, s in problem.optimizer.state_dict()["state"].items()}
    return {**problem.model.state_dict(), **problem.estimator.state_dict(), **momenta}


def assert_close(found, wanted):
    assert found.keys() == wanted.keys()
    for name, value in wanted.items():
        torch.testing.assert_close(found[name], value, rtol=1e-9, atol=1e-11, msg=name)


@pytest.mark.parametrize("net", ["small", "dropout", "torchvision", "no bias"])
@pytest.mark.parametrize(("kind", "with_meta"), list(product(KINDS, [False, True])))
def test_a_step_is_that_of_loops_over_samples(net, kind, with_meta):
    """Weights, momenta, class statistics, and running statistics, which move once, by the training batch."""
    problem, twin = (Problem(net, diagonal=True, criterion=MetaSAugCE) for _ in range(2))
    seen, loss = step(problem, kind, with_meta), reference(twin, kind, with_meta)
    assert relative(seen.loss, loss) < 1e-9
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
    assert {value.dtype for value in vars(seen).values()} == {torch.float32, torch.bool}
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
