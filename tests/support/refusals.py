"""The one line that a mistake must end in."""

import pytest

from harness.errors import UserError


def wrong(call, *args, **kwargs):
    """What a call says that must end in a mistake."""
    with pytest.raises(UserError) as error:
        call(*args, **kwargs)
    assert len(str(error.value).splitlines()) == 1
    return str(error.value)


def attempt(call, *args):
    """What a call returns; None if it ends in a mistake of one line. Any other error fails the test."""
    try:
        return call(*args)
    except UserError as error:
        said = str(error)
    assert len(said.splitlines()) == 1
    return None
