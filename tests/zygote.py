"""A process that has loaded the large libraries, and forks for every command that it is told: no script waits for them.

It listens at the socket that its argument names. A call (fork.py) is a JSON object with argv (a script of the project
first), cwd and env, and comes with stdin, stdout and stderr; the answer is the exit status. The script runs as by
`python3 script ...`, with a process, folder and environment of its own.
"""

import contextlib
import json
import os
import runpy
import socket
import sys
import traceback
from pathlib import Path

import matplotlib.figure  # noqa: F401
import numpy as np  # noqa: F401
import PIL.Image  # noqa: F401
import sklearn.datasets
import sklearn.model_selection  # noqa: F401
import torchvision.datasets
import torchvision.models
import torchvision.transforms.v2  # noqa: F401
import tqdm  # noqa: F401


def become(call, streams):
    """Be the command: never returns."""
    os.environ.clear()
    os.environ.update(call["env"])
    os.chdir(call["cwd"])
    for number, stream in enumerate(streams):
        os.dup2(stream, number)
        os.close(stream)
    status = 0
    try:
        sys.argv = call["argv"]
        sys.path[0] = str(Path(call["argv"][0]).parent)
        exec(Path(call["env"]["PYTHONPATH"], "sitecustomize.py").read_text(), {})  # what a new interpreter would do
        runpy.run_path(call["argv"][0], run_name="__main__")
    except SystemExit as end:
        status = end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:
        traceback.print_exc()
        status = 1
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


with socket.socket(socket.AF_UNIX) as server:
    server.bind(sys.argv[1])
    server.listen()
    print("ready", flush=True)
    while True:
        connection, _ = server.accept()
        with connection:
            words, streams, _, _ = socket.recv_fds(connection, 65536, 3)
            while part := connection.recv(65536):
                words += part
            child = os.fork()
            if child == 0:
                become(json.loads(words), streams)
            for stream in streams:
                os.close(stream)
            status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
            with contextlib.suppress(BrokenPipeError):  # who asked is gone
                connection.sendall(b"%d" % status)
