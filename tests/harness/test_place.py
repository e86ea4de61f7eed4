"""Variables of a launcher that make no sense: one line that names the variable and its value."""

import pytest
from support.refusals import wrong

from harness.process_group import read_place

SOUND = {"WORLD_SIZE": "2", "RANK": "1", "LOCAL_RANK": "1"}


@pytest.mark.parametrize(
    ("variables", "local_rank", "place"),
    [
        ({"WORLD_SIZE": "2", "RANK": "1"}, 3, (1, 2, 3)),
        ({**SOUND, "LOCAL_RANK": "0"}, 3, (1, 2, 0)),
        ({}, None, (0, 1, 0)),
        ({"WORLD_SIZE": "1", "SLURM_STEP_NUM_TASKS": "2"}, None, (0, 1, 0)),
        ({"SLURM_NTASKS": "4", "SLURM_STEP_NUM_TASKS": "1"}, None, (0, 1, 0)),
    ],
)
def test_the_place_of_a_process_is_read(variables, local_rank, place):
    assert read_place(variables, local_rank) == place


@pytest.mark.parametrize(
    ("variables", "words"),
    [
        *(({**SOUND, name: value}, ": it must be a whole number from 0")
          for name in SOUND for value in ("", "-1", "1.0", "9" * 20, "\u0662")),
        ({**SOUND, "RANK": "2"}, ": it must be a whole number from 0 to 1"),
        *(({name: "2"}, ", but WORLD_SIZE is not set: start the processes by torchrun")
          for name in ("RANK", "SLURM_STEP_NUM_TASKS", "OMPI_COMM_WORLD_SIZE")),
    ],
)  # fmt: skip
def test_what_does_not_fit_together_is_named(variables, words):
    name = next(name for name in variables if variables[name] != SOUND.get(name))
    assert wrong(read_place, variables, None).startswith(f"{name} is {variables[name]!r}{words}")


def test_scripts_say_it(refused):
    line = refused("ImageNet_iNat/train.py", WORLD_SIZE="2", RANK="")
    assert line == "train.py: error: RANK is '': it must be a whole number from 0 to 1"
