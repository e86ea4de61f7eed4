"""Variables of a launcher that make no sense: one line that names the variable and its value."""

import pytest
from support.places import ROOT
from support.refusals import wrong

from harness.place import Place, read_place

SOUND = {"WORLD_SIZE": "2", "RANK": "1", "LOCAL_RANK": "1", "MASTER_ADDR": "here", "MASTER_PORT": "1234"}
NUMBERS = {"WORLD_SIZE": "from 1 to 4096", "RANK": "from 0 to 1", "LOCAL_RANK": "from 0", "MASTER_PORT": "from 1 to 65535"}


def test_the_place_of_a_process_is_read():
    assert read_place(SOUND, None) == Place(1, 2, 1, ("here", 1234))
    assert read_place({k: v for k, v in SOUND.items() if k != "LOCAL_RANK"}, 3).local_rank == 3
    assert read_place({**SOUND, "LOCAL_RANK": "0"}, 3).local_rank == 0


@pytest.mark.parametrize(
    "variables",
    [
        {},
        {"WORLD_SIZE": "1"},
        {"WORLD_SIZE": "1", "RANK": "0"},
        {"MASTER_ADDR": "here", "MASTER_PORT": "1234"},
        {**SOUND, "WORLD_SIZE": "1", "RANK": "0", "LOCAL_RANK": "0"},
    ],
)
def test_a_single_process(variables):
    assert read_place(variables, None) == Place(0, 1, 0, ("", 0))


@pytest.mark.parametrize("name", NUMBERS)
@pytest.mark.parametrize("value", ["", " ", "two", "-1", "1.0", "1e3", "99999999999999999999", "\u0662"])
def test_a_number_that_is_none_is_named(name, value):
    line = wrong(read_place, {**SOUND, name: value}, None)
    assert line == f"{name} is {value!r}: it must be a whole number {NUMBERS[name]}"


@pytest.mark.parametrize(
    ("variables", "line"),
    [
        ({**SOUND, "WORLD_SIZE": "0"}, "WORLD_SIZE is '0': it must be a whole number from 1 to 4096"),
        ({**SOUND, "RANK": "2"}, "RANK is '2': it must be a whole number from 0 to 1"),
        ({"WORLD_SIZE": "1", "RANK": "1"}, "RANK is '1': it must be a whole number from 0 to 0"),
        ({**SOUND, "MASTER_PORT": "65536"}, "MASTER_PORT is '65536': it must be a whole number from 1 to 65535"),
        ({**SOUND, "MASTER_PORT": "0"}, "MASTER_PORT is '0': it must be a whole number from 1 to 65535"),
        ({**SOUND, "MASTER_ADDR": ""}, "MASTER_ADDR is empty: it must be where rank 0 runs"),
        ({"RANK": "0"}, "RANK is '0', but WORLD_SIZE is not set: a launcher as torchrun sets WORLD_SIZE, RANK,"),
        ({"LOCAL_RANK": "0"}, "LOCAL_RANK is '0', but WORLD_SIZE is not set: a launcher as torchrun sets"),
        ({"WORLD_SIZE": ""}, "WORLD_SIZE is '': it must be a whole number from 1 to 4096"),
        ({"RANK": ""}, "RANK is '', but WORLD_SIZE is not set"),
        *(
            ({k: v for k, v in SOUND.items() if k != missing}, f"{missing} is not set")
            for missing in ("RANK", "MASTER_ADDR", "MASTER_PORT")
        ),
    ],
)
def test_what_does_not_fit_together_is_named(variables, line):
    assert wrong(read_place, variables, None).startswith(line)


def test_a_local_rank_below_0_is_named():
    assert wrong(read_place, {}, -1) == "--local_rank -1 makes no sense: it must be a whole number from 0"


@pytest.mark.parametrize("script", ["train.py", "test.py"])
def test_scripts_say_it(refused, script):
    line = refused(ROOT / "ImageNet_iNat" / script, WORLD_SIZE="2", RANK="")
    assert line == f"{script}: error: RANK is '': it must be a whole number from 0 to 1"
