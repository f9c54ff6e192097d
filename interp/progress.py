"""Progress of a run: a bar on a terminal, else a line on stderr every 30 seconds."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TypeVar

from tqdm import tqdm

Item = TypeVar("Item")
SECONDS_BETWEEN_LINES = 30.0
"""Seconds between two lines if stderr is not a terminal."""


@dataclass
class _Stage:
    name: str
    total: int = 0
    done: int = 0
    started: float = field(default_factory=time.monotonic)

    def text(self, now: float) -> str:
        """The name, the number of items done, and the estimated time left."""
        if not self.total:
            return self.name
        time_left = ""
        if 0 < self.done < self.total:
            time_left = (
                f", about {duration((now - self.started) / self.done * (self.total - self.done))}"
                " left"
            )
        return f"{self.name}: {self.done} of {self.total}{time_left}"


@dataclass
class Progress:
    """The open stages, the outermost first; studies that are derived from each other share one."""

    every: float = SECONDS_BETWEEN_LINES
    _stages: list[_Stage] = field(default_factory=list)

    @property
    def is_idle(self) -> bool:
        """Whether no stage is open."""
        return not self._stages

    @contextmanager
    def during(self, name: str, quiet: bool) -> Iterator[None]:
        """A stage named ``name``: the progress lines of inner stages begin with it."""
        with self._open(_Stage(name), quiet):
            yield

    def over(self, items: Sequence[Item], name: str, quiet: bool) -> Iterator[Item]:
        """The items, with their progress unless ``quiet``."""
        if quiet or sys.stderr.isatty():
            yield from tqdm(items, desc=name, disable=quiet, leave=False, file=sys.stderr)
            return
        stage = _Stage(name, len(items))
        with self._open(stage, quiet):
            for item in items:
                yield item
                stage.done += 1

    @contextmanager
    def _open(self, stage: _Stage, quiet: bool) -> Iterator[None]:
        ended, is_outermost = threading.Event(), self.is_idle
        self._stages.append(stage)
        if is_outermost and not quiet and not sys.stderr.isatty():
            # a thread, since one item can take minutes
            threading.Thread(
                target=self._print_progress, args=(ended, stage.started), daemon=True
            ).start()
        try:
            yield
        finally:
            self._stages.remove(stage)
            ended.set()

    def _print_progress(self, ended: threading.Event, started: float) -> None:
        while not ended.wait(self.every):
            now = time.monotonic()
            line = "; ".join(stage.text(now) for stage in list(self._stages))
            print(f"[{duration(now - started)}] {line}", file=sys.stderr, flush=True)


def duration(seconds: float) -> str:
    """A duration in words: 45 s, 12 min, 1 h 20 min."""
    if seconds < 99.5:
        return f"{max(seconds, 1):.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 100 else f"{minutes // 60} h {minutes % 60} min"
