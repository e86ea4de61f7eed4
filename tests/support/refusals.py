"""The one line that a mistake must end in."""

import pytest

from harness.errors import UserError


def wrong(call, *args, **kwargs):
    """What a call says that must end in a mistake."""
    with pytest.raises(UserError) as error:
        call(*args, **kwargs)
    assert len(str(error.value).splitlines()) == 1
    return str(error.value)
