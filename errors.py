"""Mistakes of the user: one line, exit status 2, no traceback. Anything else keeps its traceback."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path


class UserError(Exception):
    """Something the user can mend. The message is one line: what is wrong, and what to do."""


def run_main(main: Callable[[], None]) -> None:
    """Run a script's main; a `UserError` becomes one line on stderr and exit status 2, Ctrl-C status 130."""
    name = Path(sys.argv[0]).name
    try:
        main()
    except UserError as error:
        print(f"{name}: error: {error}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print(f"{name}: stopped", file=sys.stderr)
        sys.exit(130)
