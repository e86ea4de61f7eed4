"""Events for TensorBoard, written by who calls: the thread of SummaryWriter prints a traceback of its own on a full disk."""

from __future__ import annotations

import io
import os
import socket
import time
from collections.abc import Mapping
from pathlib import Path

from harness.files import writing


class EventFile:
    """A file of figures by step, in TensorBoard's folder of a run; what earlier files hold of `first_step` on is void."""

    def __init__(self, folder: Path, first_step: int) -> None:
        from tensorboard.compat.proto.event_pb2 import Event, SessionLog  # slow to import, and only training needs it

        now = time.time_ns()
        name = f"events.out.tfevents.{now // 10**9:010}.{socket.gethostname()}.{os.getpid()}.{now % 10**9:09}"
        self.path = folder / name
        with writing(folder):
            folder.mkdir(parents=True, exist_ok=True)
        begin = SessionLog(status=SessionLog.START)
        self._append(Event(file_version="brain.Event:2"), Event(step=first_step, session_log=begin))

    def write(self, step: int, figures: Mapping[str, float]) -> None:
        """Write the figures of a step."""
        from tensorboard.compat.proto.event_pb2 import Event
        from tensorboard.compat.proto.summary_pb2 import Summary

        values = [Summary.Value(tag=name, simple_value=figure) for name, figure in figures.items()]
        self._append(Event(step=step, summary=Summary(value=values)))

    def _append(self, *events: object) -> None:
        from tensorboard.summary.writer.record_writer import RecordWriter

        records = io.BytesIO()
        writer = RecordWriter(records)
        for event in events:
            event.wall_time = time.time()  # type: ignore[attr-defined]
            writer.write(event.SerializeToString())  # type: ignore[attr-defined]
        with writing(self.path), open(self.path, "ab") as file:
            file.write(records.getbuffer())
