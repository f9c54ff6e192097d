"""Whether a run's tables are those that docs/store.md describes."""

import re
from functools import cache
from typing import NamedTuple

from tests.pages import ROOT

PAGE = ROOT / "docs" / "store.md"


class Described(NamedTuple):
    """A row of the page: columns that are named, and the kind of every part."""

    columns: set[str]
    parts: dict[str, str]


@cache
def kinds() -> dict[str, Described]:
    """Every kind of run that the page describes."""
    rows = re.findall(
        r"^\| `([\w-]+)` \| ([^|]*) \| ([^|]*) \| ([^|]*) \|$",
        PAGE.read_text(encoding="utf-8"),
        re.MULTILINE,
    )
    return {
        kind: Described(set(re.findall(r"`(\w+)`", row)), _parts(kind, parts))
        for kind, _, row, parts in rows
    }


def _parts(kind: str, text: str) -> dict[str, str]:
    named = re.findall(r"`([a-z_]+)`(?: \(`([\w-]+)`\))?", text)
    return {
        part: own or ("claims" if part == "claims" else f"{kind}-{part}") for part, own in named
    }


def require_described(table) -> None:
    """The run's kind, its parts with their kinds, and the columns that the page names are as the
    page says.
    """
    assert table.kind in kinds(), f"docs/store.md has no row for {table.kind}"
    said = kinds()[table.kind]
    made = {name: part.kind for name, part in table.tables.items()}
    assert made.items() <= said.parts.items(), (
        f"docs/store.md says {said.parts} of {table.kind}, it has {made}"
    )
    assert said.columns <= set(table.data), f"{table.kind} has no {said.columns - set(table.data)}"
