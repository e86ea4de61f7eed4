"""A process that has loaded the large libraries, and forks for every command that it is told: no script waits for them.

Each line of its input is a JSON object with argv (a script of the project first), cwd, env, and the files out and err; it
answers with the exit status. The script runs as by `python3 script ...`, with a process, folder and environment of its own.
"""

import json
import os
import runpy
import sys
import traceback
from pathlib import Path

import numpy as np  # noqa: F401
import PIL.Image  # noqa: F401
import sklearn.datasets
import sklearn.model_selection  # noqa: F401
import torchvision.datasets
import torchvision.models
import torchvision.transforms.v2  # noqa: F401
import tqdm  # noqa: F401


def become(call):
    """Be the command: never returns."""
    os.environ.clear()
    os.environ.update(call["env"])
    os.chdir(call["cwd"])
    for number, name in ((1, "out"), (2, "err")):
        os.dup2(os.open(call[name], os.O_WRONLY | os.O_CREAT | os.O_TRUNC), number)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
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


for line in sys.stdin:
    child = os.fork()
    if child == 0:
        become(json.loads(line))
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
