"""The one line that a mistake must end in."""

from contextlib import contextmanager

import pytest

from harness.errors import UserError


@contextmanager
def refusal(words=""):
    """What must end in a mistake whose line has these words; the error, as `pytest.raises` gives it."""
    with pytest.raises(UserError) as error:
        yield error
    assert words in str(error.value)
    assert len(str(error.value).splitlines()) == 1


def wrong(call, *args, **kwargs):
    """What a call says that must end in a mistake."""
    with refusal() as error:
        call(*args, **kwargs)
    return str(error.value)


def attempt(call, *args):
    """What a call returns; None if it ends in a mistake of one line. Any other error fails the test."""
    try:
        return call(*args)
    except UserError as error:
        said = str(error)
    assert len(said.splitlines()) == 1
    return None
