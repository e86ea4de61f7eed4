"""The choices of stage 2 as users give them: rules for the covariances, virtual steps, balance, meta images, its rate."""

import json
import re
import shutil
from itertools import combinations

import numpy as np
import pytest
import torch
from support.compare import distance
from support.places import ROOT
from support.runs import differences, saved_state

from data_utils import build_dataset
from datasets.small_sets import read_images

LDAM = "MetaSAug_LDAM_train.py"
FLAGS = ["--dataset", "digits", "--imb_factor", "0.1", "--batch-size", "64", "--no-cuda", "--arch", "tiny_networks:logits"]
FLAGS += ["--epochs", "4", "--meta_start", "2", "--lam", "0.75", "-p", "1"]
ALL_CHOICES = ["--meta_update", "relative", "--virtual", "head", "--balance", "prior", "--stage2_lr", "2"]


@pytest.fixture(scope="module")
def stage1(run_in, tmp_path_factory):
    """A folder with the run "published" of both stages, from whose stage 1 the others go on."""
    root = tmp_path_factory.mktemp("choices")
    shutil.copy(ROOT / "tests" / "support" / "tiny_networks.py", root)
    run_in(LDAM, *FLAGS, "--save_name", "published", cwd=root)
    return root


@pytest.fixture(scope="module")
def train(run_in, stage1):
    """A run of stage 2 with further flags: its weights, its log, what it prints. The same flags are trained once."""
    folder, kept = stage1 / "checkpoint" / "ours" / "0", {}

    def call(*flags):
        if flags not in kept:
            name = "_".join(["with", *flags]).replace("--", "")
            begin = ["--stage1", folder / "published_stage1.pth.tar"]
            out = run_in(LDAM, *FLAGS, *flags, "--save_name", name, *begin, cwd=stage1).stdout
            log = [json.loads(line) for line in (folder / f"{name}_metrics.jsonl").read_text().splitlines()]
            kept[flags] = saved_state(folder, "last", name=name)["state_dict"], log, out
        return kept[flags]

    return call


@pytest.mark.parametrize(
    ("idle", "told"),
    [
        (["--stage2", "isda", "--virtual", "head"], "--virtual head has no effect with --stage2 isda"),
        (["--stage2", "isda", "--meta_update", "relative"], "--meta_update relative has no effect with --stage2 isda"),
        (["--stage2", "none", "--balance", "prior"], "--balance prior has no effect with --stage2 none"),
        (["--meta_step_size", "0.2"], "--meta_step_size 0.2 has no effect with --meta_update published"),
        (["--meta_update", "relative", "--meta_lr", "10"], "--meta_lr 10.0 has no effect with --meta_update relative"),
    ],
)
def test_a_choice_that_changes_nothing_is_said(train, idle, told):
    weights, _, out = train(*idle)
    assert [line for line in out.splitlines() if "has no effect" in line] == [f"note: {told}"]
    other, _, out = train(*idle[:-2])  # the control: it is true
    assert "has no effect" not in out
    assert distance(weights, other) == 0


def test_the_relative_rule_moves_what_the_published_one_leaves_where_it_is(train):
    """It moves the trace of a class by some per cent, and not at all with a step size of 0, as ISDA."""
    moved = {}
    for name, flags in {"published": [], "relative": ["--meta_update", "relative"]}.items():
        _, log, out = train(*flags)
        traces = [(log[1][f"trace_{kind}_few"], log[1][f"trace_{kind}_many"]) for kind in ("learned", "estimated")]
        moved[name] = max(abs(ours / theirs - 1) for ours, theirs in zip(*traces, strict=True))
        assert ("changed next to nothing: a larger λ or --meta_lr" in out) == (name == "published")
    assert moved["published"] < 1e-3 < 0.01 < moved["relative"] < 1
    isda = train("--stage2", "isda")[0]
    weights, _, out = train("--meta_update", "relative", "--meta_step_size", "0")
    assert "by more than 0e+00 of its trace" in out
    assert distance(weights, isda) < 1e-5 < 1e-4 < distance(train("--meta_update", "relative")[0], isda)


def test_each_choice_is_another_training(train):
    """What it does is compared with slow references in test_meta_step.py, test_loss.py and test_recipe.py."""
    moved, again = ["--meta_update", "relative"], ["--stage2", "reweight"]
    choices = [moved, [*moved, "--virtual", "head"], [*moved, "--stage2_lr", "2.5"]]
    choices += [[*again, "--balance", name] for name in ("weights", "prior", "none")]
    found = [train(*choice) for choice in choices]
    assert min(distance(one[0], other[0]) for one, other in combinations(found, 2)) > 1e-5
    rates = [[line["lr"] for line in log] for _, log, _ in found]
    assert rates == [rates[0], rates[0], [2.5 * rate for rate in rates[0]], *3 * [rates[0]]]


@pytest.mark.parametrize(
    ("choices", "told"),
    [
        ([], "MetaSAug\n"),
        (["--stage2_lr", "1", "--stage2", "none", "--balance", "prior"], "plain cross-entropy continued\n"),
        (["--stage2", "reweight", "--balance", "prior", "--virtual", "head"],
         "re-weighting without augmentation, --balance prior\n"),
        (ALL_CHOICES, "MetaSAug, --meta_update relative, --virtual head, --balance prior, --stage2_lr 2.0\n"),
    ],
)  # fmt: skip
def test_what_stage_2_does_is_said(train, choices, told):
    assert f"stage 2 from epoch 2 on: {told}" in train(*choices)[2]


def test_meta_images_are_trained_on_in_stage_2_alone(train):
    """Joined to the training images an epoch of stage 2 has more steps; their loss makes each step another one."""
    data = build_dataset("digits", 10, 0.1, join_meta=True)
    steps = {"apart": -(-len(data.train) // 64), "train": -(-len(data.joined) // 64)}
    assert steps["apart"] < steps["train"]
    said = f"training and meta images together, each once: {len(data.joined)}\n"
    for stage2 in ("none", "metasaug"):
        found = {name: train("--stage2", stage2, "--meta_images", name) for name in ("apart", "train", "loss")}
        for name, (_, log, out) in found.items():
            assert (said in out) == (name == "train")
            assert set(re.findall(r"stage 2  \[\d+/(\d+)\]", out)) == {str(steps.get(name, steps["apart"]))}, name
            assert (log[0]["meta_loss"] is None) == (stage2 != "metasaug")
        assert min(distance(found["apart"][0], found[name][0]) for name in ("train", "loss")) > 1e-4


def test_joined_images_are_each_there_once_and_no_other_set_changes():
    """Also where a class has so few images that they are in the training and in the meta set."""
    smallest = np.bincount(read_images("digits", "", train=True).targets).min()
    for num_meta, imb_factor, heldout in ((10, 0.1, 0), (10, 0.02, -1), (smallest, None, 0)):
        plain, data = (build_dataset("digits", num_meta, imb_factor, "", heldout, False, join) for join in (False, True))
        assert plain.joined is None
        assert plain.digests() == data.digests()
        assert plain.stage2_counts == plain.cls_num_list == data.cls_num_list
        keys = {}
        for name in ("train", "meta", "joined"):
            part = getattr(data, name)
            keys[name] = sorted(zip(map(bytes, part.pixels.numpy()), part.targets, strict=True))
        assert bool({*keys["train"]} & {*keys["meta"]}) == (num_meta == smallest)
        assert keys["joined"] == sorted({*keys["train"], *keys["meta"]})
        assert data.stage2_counts == np.bincount(data.joined.targets, minlength=10).tolist()
        assert (data.trained is data.joined, plain.trained is plain.train) == (True, True)


def test_an_interrupted_run_of_the_new_choices_ends_with_the_same_bytes(run_in, stage1, chance):
    folder = stage1 / "checkpoint" / "ours" / "0"
    words = [LDAM, *FLAGS, *ALL_CHOICES, "--meta_images", chance.choice(["train", "loss"])]
    run_in(*words, "--save_name", "whole", cwd=stage1)
    cut = [*words, "--save_name", "cut", "--resume", "auto"]
    steps = 15 + chance.randint(1, 8)  # in stage 2, whose epochs may be longer
    run_in(*cut, cwd=stage1, STOP_AT=str(steps), STOP_BY="15", status=143)
    run_in(*cut, cwd=stage1)
    states = [saved_state(folder, "last", name=kind) for kind in ("whole", "cut")]
    for state in states:
        state["flags"].pop("save_name")
        state["flags"].pop("resume")
    assert differences(*states) == []
    states[0]["state_dict"]["5.bias"].view(torch.uint8)[0] ^= 1  # the control
    assert differences(*states) == ["/state_dict/5.bias"]
