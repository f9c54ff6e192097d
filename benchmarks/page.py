"""What benchmarks share: their command line, and sections of docs/benchmarks.md, written between
markers.
"""

import argparse
import platform
import sys
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

PAGE = Path(__file__).resolve().parent.parent / "docs" / "benchmarks.md"


class CommandLine(argparse.ArgumentParser):
    """A parser with ``--write`` and ``--small``, which exclude each other.

    ``of``: the globals of the benchmark. Under ``--small`` its constants (in capitals) and the
    defaults of its options are those of ``small``: every line runs, in seconds, and the figures
    mean nothing.
    """

    def __init__(
        self, of: dict[str, Any], small: Mapping[str, Any], write: str = "the tables"
    ) -> None:
        super().__init__(description=of["__doc__"])
        self._rows_at, self._small = of, small
        one = self.add_mutually_exclusive_group()
        one.add_argument(
            "--write", action="store_true", help=f"write {write} into docs/benchmarks.md"
        )
        one.add_argument(
            "--small",
            action="store_true",
            help="every line in seconds, with figures that mean nothing",
        )

    def read(self) -> argparse.Namespace:
        """The options given; KeyError where ``small`` names a constant or an option that is not
        there.
        """
        if "--small" in sys.argv[1:]:
            there = {*self._rows_at, *(action.dest for action in self._actions)}
            if unknown := [name for name in self._small if name not in there]:
                raise KeyError(f"{self._rows_at['__name__']} has no {', '.join(unknown)}")
            self._rows_at.update(
                {name: value for name, value in self._small.items() if name.isupper()}
            )
            self.set_defaults(
                **{name: value for name, value in self._small.items() if not name.isupper()}
            )
        return self.parse_args()


def write_section(name: str, text: str, path: Path = PAGE) -> None:
    """Replace what stands between ``<!-- name -->`` and ``<!-- /name -->``."""
    start, end = f"<!-- {name} -->", f"<!-- /{name} -->"
    page = path.read_text(encoding="utf-8")
    if start not in page or end not in page:
        raise SystemExit(
            f"{path.name} has no section {start} ... {end}; add the two lines where it should stand"
        )
    head, rest = page.split(start, 1)
    path.write_text(
        head + start + "\n" + text.strip() + "\n" + end + rest.split(end, 1)[1], encoding="utf-8"
    )


def rows_of_section(name: str, path: Path = PAGE) -> list[dict[str, str]]:
    """The rows of the first table of a section; none where it has no table."""
    text = path.read_text(encoding="utf-8").split(f"<!-- {name} -->", 1)[1]
    lines = text.split(f"<!-- /{name} -->", 1)[0].splitlines()
    table = [
        [cell.strip() for cell in line.strip().strip("|").split("|")]
        for line in lines
        if line.startswith("|")
    ]
    return [dict(zip(table[0], row, strict=True)) for row in table[2:]]


def machine() -> str:
    """What the figures were measured on, in one line."""
    libraries = ", ".join(f"{name} {version(name)}" for name in ("torch", "transformers", "numpy"))
    where = (
        torch.cuda.get_device_name()
        if torch.cuda.is_available()
        else f"CPU, {torch.get_num_threads()} threads"
    )
    return f"Python {platform.python_version()}, {libraries}; {where}."


def markdown(rows: list[dict], columns: list[str]) -> str:
    """Rows as a Markdown table."""
    lines = ["| " + " | ".join(columns) + " |", "|" + "|".join("---" for _ in columns) + "|"]
    lines += ["| " + " | ".join(str(row.get(name, "")) for name in columns) + " |" for row in rows]
    return "\n".join(lines)
