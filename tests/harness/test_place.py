"""Variables of a launcher that make no sense: one line that names the variable and its value."""

import pytest
from support.refusals import wrong

from harness.process_group import read_place

SOUND = {"WORLD_SIZE": "2", "RANK": "1", "LOCAL_RANK": "1"}


@pytest.mark.parametrize(
    ("variables", "local_rank", "place"),
    [
        ({"WORLD_SIZE": "2", "RANK": "1"}, 3, (1, 2, 3)),
        (SOUND, 3, (1, 2, 1)),
        ({}, None, (0, 1, 0)),
        ({"WORLD_SIZE": "1", "SLURM_STEP_NUM_TASKS": "2"}, None, (0, 1, 0)),
        ({"SLURM_NTASKS": "4", "SLURM_STEP_NUM_TASKS": "1"}, None, (0, 1, 0)),
    ],
)
def test_the_place_of_a_process_is_read(variables, local_rank, place):
    assert read_place(variables, local_rank) == place


RANGE, UNSET = "it must be a whole number from 0", "but WORLD_SIZE is not set: start the processes by torchrun"


@pytest.mark.parametrize(
    ("name", "value", "others", "words"),
    [
        *((name, value, SOUND, RANGE) for name in SOUND for value in ("", "-1", "1.0", "9" * 20, "\u0662")),
        ("RANK", "2", SOUND, f"{RANGE} to 1"),
        *((name, "2", {}, UNSET) for name in ("RANK", "SLURM_STEP_NUM_TASKS", "OMPI_COMM_WORLD_SIZE")),
    ],
)
def test_what_does_not_fit_together_is_named(name, value, others, words):
    line = wrong(read_place, {**others, name: value}, None)
    assert line.startswith(f"{name} is {value!r}")
    assert words in line


def test_scripts_say_it(refused):
    line = refused("ImageNet_iNat/train.py", WORLD_SIZE="2", RANK="")
    assert line == "train.py: error: RANK is '': it must be a whole number from 0 to 1"
