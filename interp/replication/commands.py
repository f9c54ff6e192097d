"""Commands run again, as processes of their own, each in a fresh store.

That is what a person would type; torch and the models are gone when it ends, and a crash of it is a
claim that failed and not the end of those who ask. A command runs once, however many claims it
made, and once for all processes that share a folder.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from interp.errors import ClaimError, InterpError, reporting_os_errors
from interp.kinds import KINDS
from interp.provenance import digest
from interp.provenance.request import CommandRequest, recorded_request
from interp.store.transaction import file_lock

REPLAYABLE = {
    "report",
    "demo",
    *(kind.command or name for name, kind in KINDS.items() if kind.replayable),
}
"""Commands that make claims, and no file but in their store or under ``--out``: a report can be
from a stranger, so nothing else is run.
"""

OWN = {"--store", "--json", "--quiet", "--debug", "--help"}
"""Options that no run records."""

# The package that is imported here is the one that measures, wherever the process starts.
_START = (
    "import sys; sys.path.insert(0, sys.argv.pop(1)); import interp; sys.path.pop(0); "
    "from interp.cli import replay; sys.exit(replay(*sys.argv[1:]))"
)


class ReplayedCommands:
    """Commands that were run again: their stores lie in ``folder``; relative paths lead from
    ``directory``.
    """

    def __init__(self, folder: Path, directory: Path) -> None:
        self.folder, self.directory = folder, directory

    @contextmanager
    def alone(self, place: Path) -> Iterator[None]:
        """Hold a place in the folder against other processes."""
        self.folder.mkdir(parents=True, exist_ok=True)
        lock = file_lock(f"{place}.lock")
        with reporting_os_errors("lock", place):
            lock.acquire()
        try:
            yield
        finally:
            lock.release()

    def made(self, request: CommandRequest, report: Any, kept: Sequence[str] = ()) -> Path:
        """The store in which this command has run; ClaimError with what it said where it failed."""
        name = request.command
        if name not in REPLAYABLE:
            raise ClaimError(
                f"`interp {name}` is not on the list of commands that a report may run again; run it"
                " yourself"
            )
        if own := sorted(OWN & {*request.options}):
            raise ClaimError(
                f"the request of `interp {name}` has {own[0]}, which is never recorded"
            )
        if "--remote" in request.options:
            raise ClaimError(
                f"`interp {name} --remote` sends prompts away; it is not run again, run it yourself"
            )
        keys = sorted({*kept, *stored_runs_named_by(request, report)})
        # what builds on nothing stored is the same whatever the store
        place = (
            self.folder
            / digest(
                {"request": request.to_json(), "runs": keys and [str(report.store.root), *keys]}
            )[:20]
        )
        with self.alone(place):
            if not (place / "done.json").is_file():
                shutil.rmtree(place, ignore_errors=True)  # of an interrupted one
                (place / "out").mkdir(parents=True)
                for key in keys:
                    shutil.copytree(report.store.path(key), place / "store" / key)
                line = self._line(request, place)
                done = subprocess.run(
                    line,
                    cwd=self.directory,
                    stdin=subprocess.DEVNULL,
                    capture_output=True,
                    text=True,
                    check=False,
                )
                told = (done.stderr.strip().splitlines() or [""])[-1].removeprefix("interp: ")
                (place / "done.json").write_text(
                    json.dumps({"code": done.returncode, "told": told}), "utf-8"
                )
            done = json.loads((place / "done.json").read_text("utf-8"))
        if done["code"]:
            line = " ".join(["interp", *request.words()])
            raise ClaimError(
                f"`{line}` does not run here any more (exit code {done['code']}): {done['told']}"
            )
        return place / "store"

    def _line(self, request: CommandRequest, place: Path) -> list[str]:
        package = str(Path(__file__).resolve().parents[2])
        if "--out" in request.options:
            # files that a command writes outside its store must not overwrite existing ones
            name = Path(str(request.options["--out"])).name
            request = request.with_options({"--out": str(place / "out" / name)})
        line = [sys.executable, "-P", "-c", _START, package]
        return [*line, request.model_dump_json(), str(place / "store")]


def stored_runs_named_by(request: CommandRequest, report: Any) -> set[str]:
    """Keys of stored runs that a command builds on, with their parents: values of it that begin a
    key.

    Never those that the command made itself: they have to be made again.
    """
    own_keys = {
        run["key"] for run in report.value["runs"] if recorded_request(run["context"]) == request
    }
    keys: set[str] = set()
    for word in request.words():
        with suppress(InterpError):
            key = report.store.find(word) if re.fullmatch(r"[0-9a-f]{4,64}", word) else None
            while key and key not in keys | own_keys:
                keys.add(key)
                key = report.store.manifest(key).provenance.parent
    return keys
