"""Several processes that belong together, as a launcher starts them."""

import socket


def places(world_size):
    """The variables that tell each of `world_size` processes its place, and where they meet."""
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    common = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": str(world_size)}
    return [{**common, "RANK": str(rank), "LOCAL_RANK": str(rank)} for rank in range(world_size)]


def begin(start, world_size, *command, each=None, **variables):
    """Start a command on `world_size` processes at once, and return them.

    `each` are variables that one process has and others do not, a dict for each process; `start` is the fixture.
    """
    own = each or [{}] * world_size
    return [start(*command, **place, **more, **variables) for place, more in zip(places(world_size), own, strict=True)]


def together(start, world_size, *command, **settings):
    """Do what `begin` does, and wait; return (status, stdout, stderr) of each process."""
    ranks = begin(start, world_size, *command, **settings)
    outs = [rank.communicate() for rank in ranks]
    return [(rank.returncode, *out) for rank, out in zip(ranks, outs, strict=True)]
