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
