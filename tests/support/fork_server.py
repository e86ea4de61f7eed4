"""A process that has loaded the large libraries, and forks for every command that it is told: no script waits for them.

It listens at the socket that its argument names, until its standard input ends. A call (fork_client.py) is a JSON object
with argv (a script of the project first, or -m and a module), cwd and env, and comes with stdin, stdout and stderr; the
answers are the number of the process and, when it has ended, its exit status. The script runs as by `python3 script ...`,
with a process group, folder and environment of its own, and, unless RESNET50 is "whole" there, the ResNet-50 of
slim_resnet.py, unless PICTURES is "drawn" no pictures in the pages of reports (undrawn.py). Several calls may run at once.
"""

import contextlib
import gc
import json
import os
import runpy
import select
import signal
import socket
import sys
import threading
import traceback
import warnings
from pathlib import Path

import jinja2  # noqa: F401
import msgspec  # noqa: F401
import numpy as np  # noqa: F401
import PIL.Image
import sklearn.datasets
import sklearn.model_selection  # noqa: F401
import tensorboard.compat.proto.event_pb2
import tensorboard.summary.writer.record_writer  # noqa: F401
import torch.utils.serialization.config
import torchvision.datasets
import torchvision.models
import torchvision.transforms.v2
import tqdm  # noqa: F401
import undrawn
from slim_resnet import slim_resnet50


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
        words = call["argv"][call["argv"][0] == "-u" :]  # unbuffered, as a launcher starts its processes
        first, *rest = words
        if call["env"].get("PYTHONWARNINGS") == "ignore":  # any other value is that of this process's start
            warnings.simplefilter("ignore")
        module = first == "-m"
        sys.argv = rest if module else words
        sys.executable = call["env"].get("PYTHON", sys.executable)  # what it starts with it is forked too
        sys.path[0] = "" if module else str(Path(first).parent)
        if call["env"].get("RESNET50") != "whole":
            torchvision.models.resnet50 = slim_resnet50
        if call["env"].get("PICTURES") != "drawn":
            sys.modules["vl_convert"] = undrawn
        exec(Path(call["env"]["PYTHONPATH"], "sitecustomize.py").read_text(), {})  # what a new interpreter would do
        if module:
            runpy.run_module(rest[0], run_name="__main__", alter_sys=True)
        else:
            runpy.run_path(first, run_name="__main__")
    except SystemExit as end:
        status = end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:
        traceback.print_exc()
        status = 1
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def call_of(connection):
    """Read what a client sends."""
    words, streams, _, _ = socket.recv_fds(connection, 65536, 3)
    while not words.endswith(b"\0"):
        words += connection.recv(65536)
    return json.loads(words[:-1]), streams


def look_after(connection):
    """Have the command of one client run: never returns."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    call, streams = call_of(connection)
    child = os.fork()
    if child == 0:
        os.setpgid(0, 0)
        connection.close()
        become(call, streams)
    with contextlib.suppress(OSError):  # done already, by the child
        os.setpgid(child, child)
    for stream in streams:
        os.close(stream)
    threading.Thread(target=kill_when_unwanted, args=(child, connection), daemon=True).start()
    with contextlib.suppress(BrokenPipeError):  # who asked is gone
        connection.sendall(b"%d\n" % child)
        connection.sendall(b"%d\n" % os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
    os._exit(0)


def kill_when_unwanted(child, connection):
    """Kill a command and all it started when its client is gone, or who holds this process's standard input."""
    select.select([0, connection], [], [])
    with contextlib.suppress(ProcessLookupError):
        os.killpg(child, signal.SIGKILL)


with warnings.catch_warnings():  # as load_forward_mode() does, whose own doing the tests in one process see
    warnings.simplefilter("ignore")
    import torch._decomp.decompositions_for_jvp  # noqa: F401
PIL.Image.init()  # loads the readers of all formats
gc.freeze()  # what is loaded stays: no command looks through it, and so copies it
signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # no one waits for the processes that look after the commands
os.setpgid(0, 0)
with socket.socket(socket.AF_UNIX) as server:
    server.bind(sys.argv[1])
    server.listen()
    print("ready", flush=True)
    while server in select.select([0, server], [], [])[0]:
        connection, _ = server.accept()
        if os.fork() == 0:
            server.close()
            look_after(connection)
        connection.close()
os._exit(0)  # at once
