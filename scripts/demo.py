#!/usr/bin/env python3
"""Plain cross-entropy, re-weighting, ISDA and MetaSAug on long-tailed digits over three seeds: a table and what it says.

  python3 scripts/demo.py

trains twelve small networks, two at a time, on scikit-learn's 1,797 scans; stage 1 is trained once a seed. A demo that was
interrupted goes on where it was. The settings were chosen on held-out training images, not on the test scans.
"""

import argparse
import contextlib
import importlib
import io
import multiprocessing
import signal
import statistics
import sys
from collections.abc import Iterator
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

if __name__ == "__main__":
    from harness.before_loading import prepare_process
    prepare_process()

from tqdm import tqdm

from harness.errors import Stopped, UserError, run_main
from harness.flags import Parser
from harness.signals_and_lock import heeded
from harness.text import say
from harness.training_flags import parse_training
from MetaSAug_LDAM_train import RULES, STAGE2, train
from reporting.finished_runs import FinishedRun, markdown, read_runs, spread
from reporting.group_names import write_group_names

METHODS = {"none": "plain cross-entropy", "reweight": "re-weighting", "isda": "ISDA", "metasaug": "MetaSAug"}
ORDER = ("none", "metasaug", "isda", "reweight")  # the others go on from the first's stage 1; the longest first
SEEDS = (1, 2, 3)
FLAGS = ("--dataset digits --imb_factor 0.01 --arch resnet8 --batch-size 32 --epochs 22 --meta_start 12 --lr 0.05 "
         "--lam 0.75 --meta_lr 10 --threads 1 --no-cuda --test-batch-size 540")  # fmt: skip
AT_ONCE = 2  # trainings, a thread each
LOADED = ("torch._dynamo", "tensorboard.compat.proto.event_pb2", "sklearn.datasets")  # each training imports these, slowly
Job = tuple[str, int, Path]  # the choice of --stage2, the seed, where the runs go


def files(workdir: Path) -> Path:
    """Return the folder of the runs."""
    return workdir / "checkpoint" / "ours" / "digits"


def train_one(stage2: str, seed: int, workdir: Path) -> None:
    """Train one network, go on with it, or see that it is trained; this process ends with it."""
    for number in heeded():
        signal.signal(number, signal.SIG_DFL)
    words = [*FLAGS.split(), "--stage2", stage2, "--seed", str(seed), "--resume", "auto", "--workdir", str(workdir)]
    words += ["--idx", "digits", "--save_name", f"{stage2}_seed{seed}"]
    if stage2 != "none":
        words += ["--stage1", str(files(workdir) / f"none_seed{seed}_stage1.pth.tar")]
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            train(parse_training("", STAGE2, RULES, words))
    except Stopped as stopped:
        sys.exit(stopped.status)
    except UserError as error:
        sys.exit(f"{METHODS[stage2]}, seed {seed}: {error}")


def trained(jobs: list[Job], stops: Connection) -> Iterator[Job]:
    """Train AT_ONCE of the jobs at a time, each in a process of its own, and yield those that are done.

    A job starts when stage 1 of its seed is there. When a signal comes through `stops`, the trainings save what going on
    needs.
    """
    waiting, running = list(jobs), dict[Any, tuple[multiprocessing.Process, Job]]()
    seeds: set[int] = set()  # with a stage 1
    try:
        while waiting or running:
            ready = [job for job in waiting if job[0] == "none" or job[1] in seeds]
            for job in ready[: AT_ONCE - len(running)]:
                waiting.remove(job)
                process = multiprocessing.Process(target=train_one, args=job)
                process.start()
                running[process.sentinel] = process, job
            for sentinel in wait([stops, *running]):
                if sentinel is stops:
                    raise Stopped("stopped; to go on, give the same command", 128 + stops.recv())
                process, job = running.pop(sentinel)
                process.join()
                if process.exitcode:
                    raise UserError(f"{METHODS[job[0]]}, seed {job[1]}, was not trained; to go on, give the same command")
                seeds.add(job[1])
                yield job
    finally:
        for process, _ in running.values():
            process.terminate()
        for process, _ in running.values():
            process.join()


def table(runs: dict[str, list[FinishedRun]]) -> list[list[str]]:
    """Return mean ± standard deviation over the seeds of the last epoch's test accuracy, overall and by shot group."""
    rows = [["test accuracy in %", "overall", "many", "medium", "few"]]
    for stage2, own in runs.items():
        columns = [spread([run.summary["last"][key] for run in own]) for key in ("acc1", "many", "medium", "few")]
        rows.append([METHODS[stage2], *columns])
    return rows


def seen(runs: dict[str, list[FinishedRun]]) -> str:
    """Return in a sentence which methods beat plain cross-entropy, and whether their order holds with every seed."""
    figures = {stage2: [run.summary["last"]["acc1"] for run in own] for stage2, own in runs.items()}
    few = {stage2: statistics.mean(run.summary["last"]["few"] for run in own) for stage2, own in runs.items()}
    others = sorted(figures.keys() - {"none"}, key=lambda stage2: -statistics.mean(figures[stage2]))
    better = [METHODS[k] for k in others if min(a - b for a, b in zip(figures[k], figures["none"], strict=True)) > 0]
    best, second = others[:2]
    lowest = min(few[k] for k in others)
    gaps = [a - b for a, b in zip(figures[best], figures[second], strict=True)]
    order = (
        "with every seed" if min(gaps) > 0 else f"but not with every seed: its lead over {METHODS[second]} is {spread(gaps)}"
    )
    return (
        f"With every seed, plain cross-entropy is beaten by {', '.join(better) or 'none of the others'}; few-shot accuracy "
        f"is {few['none']:.1f} with it and {lowest:.1f} or more with the others. "
        f"{METHODS[best][0].upper()}{METHODS[best][1:]} is best in the mean, {order}."
    )


def main() -> None:
    """Train, print the table and the sentence."""
    parser = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workdir", type=Path, default=Path("demo_runs"), help="where the runs go (default: %(default)s)")
    workdir = parser.parse_args().workdir

    stops, sender = multiprocessing.Pipe(duplex=False)  # an exception, raised while a process is forked, would be lost
    for number in heeded():
        signal.signal(number, lambda caught, _: sender.send(int(caught)))
    if sys.platform == "linux":
        multiprocessing.set_start_method("fork")
        for name in LOADED:
            importlib.import_module(name)
    jobs = [(stage2, seed, workdir) for stage2 in ORDER for seed in SEEDS]
    with tqdm(total=len(jobs), desc="trainings", disable=not sys.stdout.isatty(), file=sys.stdout, miniters=1) as bar:
        for stage2, seed, _ in trained(jobs, stops):
            bar.update()
            if bar.disable:  # no terminal
                say(f"{METHODS[stage2]}, seed {seed}: trained")
    folder = files(workdir)
    write_group_names(folder, {f"{stage2}_seed*": words for stage2, words in METHODS.items()})
    found = {stage2: read_runs([folder / f"{stage2}_seed{seed}_summary.json" for seed in SEEDS]) for stage2 in METHODS}
    wrote = f"wrote the runs to {folder}; compare them in a page: python3 report.py {folder}"
    say(*markdown(table(found)), seen(found), wrote)


if __name__ == "__main__":
    run_main(main)
