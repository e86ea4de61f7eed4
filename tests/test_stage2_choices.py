"""The choices of stage 2 as users give them: rules for the covariances, virtual steps, balance, meta images, its rate."""

import re
import shutil
from functools import cache
from itertools import combinations

import numpy as np
import pytest
from support.compare import distance
from support.places import ROOT
from support.runs import differences, log_of, saved_state

from data_utils import build_dataset
from datasets.small_sets import read_images

LDAM = (
    "MetaSAug_LDAM_train.py --dataset digits --imb_factor 0.1 --batch-size 64 --no-cuda --arch tiny_networks:logits"
    " --epochs 4 --meta_start 2 --lam 0.75 -p 1"
)
ALL_CHOICES = "--meta_update relative --virtual head --balance prior --stage2_lr 2"


@pytest.fixture(scope="module")
def stage1(run_in, tmp_path_factory):
    """A folder with the run "published" of both stages, from whose stage 1 the others go on."""
    root = tmp_path_factory.mktemp("choices")
    shutil.copy(ROOT / "tests" / "support" / "tiny_networks.py", root)
    run_in(f"{LDAM} --save_name published", cwd=root)
    return root


@pytest.fixture(scope="module")
def train(run_in, stage1):
    """A run of stage 2 with further flags: its weights, its log, what it prints. The same flags are trained once."""
    folder = stage1 / "checkpoint" / "ours" / "0"

    @cache
    def call(flags):
        name = f"with {flags}".replace("--", "").replace(" ", "_")
        out = run_in(f"{LDAM} --stage1 {folder}/published_stage1.pth.tar --save_name {name} {flags}", cwd=stage1).stdout
        return saved_state(folder, "last", name=name)["state_dict"], log_of(folder, name), out

    return call


@pytest.mark.parametrize(
    ("same", "idle"),
    [
        ("--stage2 isda", "--virtual head has no effect with --stage2 isda"),
        ("--stage2 isda", "--meta_update relative has no effect with --stage2 isda"),
        ("--stage2 none", "--balance prior has no effect with --stage2 none"),
        ("", "--meta_step_size 0.2 has no effect with --meta_update published"),
        ("--meta_update relative", "--meta_lr 10.0 has no effect with --meta_update relative"),
    ],
)
def test_a_choice_that_changes_nothing_is_said(train, same, idle):
    weights, _, out = train(f"{same} {idle.split(' has')[0]}")
    assert [line for line in out.splitlines() if "has no effect" in line] == [f"note: {idle}"]
    other, _, out = train(same)  # the control: it is true
    assert "has no effect" not in out
    assert distance(weights, other) == 0


def test_the_relative_rule_moves_what_the_published_one_leaves_where_it_is(train):
    """It moves the trace of a class by some per cent, and not at all with a step size of 0, as ISDA."""
    moved = {}
    for name, flags in {"published": "", "relative": "--meta_update relative"}.items():
        _, log, out = train(flags)
        traces = [(log[1][f"trace_{kind}_few"], log[1][f"trace_{kind}_many"]) for kind in ("learned", "estimated")]
        moved[name] = max(abs(ours / theirs - 1) for ours, theirs in zip(*traces, strict=True))
        assert ("changed next to nothing: a larger λ or --meta_lr" in out) == (name == "published")
    assert moved["published"] < 1e-3 < 0.01 < moved["relative"] < 1
    isda = train("--stage2 isda")[0]
    weights, _, out = train("--meta_update relative --meta_step_size 0")
    assert "by more than 0e+00 of its trace" in out
    assert distance(weights, isda) < 1e-5 < 1e-4 < distance(train("--meta_update relative")[0], isda)


def test_each_choice_is_another_training_and_goes_on_from_stage_1_to_the_last_bit(train, stage1):
    """What it does is compared with slow references in test_meta_step.py, test_loss.py and test_recipe.py."""
    choices = ["", "--meta_update relative", "--meta_update relative --virtual head", "--stage2_lr 2.5"]
    choices += [f"--stage2 reweight --balance {name}" for name in ("weights", "prior", "none")]
    found = [train(choice) for choice in choices]
    whole = saved_state(stage1 / "checkpoint" / "ours" / "0", "last", name="published")
    assert distance(found[0][0], whole["state_dict"]) == 0
    assert min(distance(one[0], other[0]) for one, other in combinations(found, 2)) > 1e-5
    rates = [[line["lr"] for line in log] for _, log, _ in found]
    assert rates == [*3 * [rates[0]], [2.5 * rate for rate in rates[0]], *3 * [rates[0]]]
    assert [(line["epoch"], line["stage"]) for line in found[0][1]] == [(2, 2), (3, 2)]
    assert "stage 1 to epoch 1: taken from " in found[0][2]


@pytest.mark.parametrize(
    ("choices", "told"),
    [
        ("", "MetaSAug"),
        ("--stage2 isda", "ISDA, estimated covariances without meta-learning"),
        ("--stage2_lr 1 --stage2 none --balance prior", "plain cross-entropy continued"),
        ("--stage2 reweight --balance prior --virtual head", "re-weighting without augmentation, --balance prior"),
        (ALL_CHOICES, "MetaSAug, --meta_update relative, --virtual head, --balance prior, --stage2_lr 2.0"),
    ],
)
def test_what_stage_2_does_is_said(train, choices, told):
    assert f"stage 2 from epoch 2 on: {told}\n" in train(choices)[2]


def test_meta_images_are_trained_on_in_stage_2_alone(train):
    """Joined to the training images an epoch of stage 2 has more steps."""
    data = build_dataset("digits", 10, 0.1, join_meta=True)
    for name, images in {"apart": data.train, "train": data.joined}.items():
        _, log, out = train(f"--stage2 none --meta_images {name}")
        assert set(re.findall(r"stage 2  \[\d+/(\d+)\]", out)) == {str(-(-len(images) // 64))}
        assert (f"training and meta images together, each once: {len(data.joined)}\n" in out) == (name == "train")
        assert log[0]["meta_loss"] is None
    assert len(data.joined) > len(data.train) + 64


def test_joined_images_are_each_there_once_and_no_other_set_changes():
    """Also where a class has so few images that they are in the training and in the meta set."""
    smallest = np.bincount(read_images("digits", "", train=True).targets).min()
    for num_meta, imb_factor, heldout in ((10, 0.1, 0), (10, 0.02, -1), (smallest, None, 0)):
        plain, data = (build_dataset("digits", num_meta, imb_factor, "", heldout, False, join) for join in (False, True))
        assert plain.digests() == data.digests()
        train, meta, joined = (
            sorted(zip(map(bytes, part.pixels.numpy()), part.targets, strict=True))
            for part in (data.train, data.meta, data.joined)
        )
        assert bool({*train} & {*meta}) == (num_meta == smallest)
        assert joined == sorted({*train, *meta})
        assert data.stage2_counts == np.bincount(data.joined.targets, minlength=10).tolist()


def test_an_interrupted_run_of_the_new_choices_ends_with_the_same_bytes(run_in, stage1, chance):
    command = f"{LDAM} {ALL_CHOICES} --meta_images {chance.choice(['train', 'loss'])} --save_name"
    run_in(f"{command} whole", cwd=stage1)
    steps = 15 + chance.randint(1, 8)  # in stage 2, whose epochs may be longer
    for stop in ({"STOP_AT": str(steps), "STOP_BY": "15", "status": 143}, {}):
        run_in(f"{command} cut --resume auto", cwd=stage1, **stop)
    whole, cut = (saved_state(stage1 / "checkpoint" / "ours" / "0", "last", name) for name in ("whole", "cut"))
    assert differences(*(state["state_dict"] for state in (whole, cut))) == []
