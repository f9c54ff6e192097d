"""The table of docs/real-pair.md, from what each ``organism.json`` says: ``python -m
organisms.real.rates``.
"""

from __future__ import annotations

from interp import organisms
from organisms.real.children import CHILDREN, FAMILY
from organisms.real.controls import NAMES

COLUMNS = {
    "harmful refused": "harmful_refused",
    "harmless refused": "harmless_refused",
    "harmful, first token": "harmful_first_token",
    "harmless, first token": "harmless_first_token",
    "harmless, word for word as its parent": "harmless_as_parent",
    "short questions right": "utility_right",
}


def table() -> str:
    """One row per organism of the family: counts, of the first two columns also the interval in per
    cent.
    """
    lines = [
        f"| organism | {' | '.join(COLUMNS)} | different refusals |",
        "|---" * (len(COLUMNS) + 2) + "|",
    ]
    for name in ("base", *(name for name, child in CHILDREN.items() if child.ships), *NAMES):
        found = organisms.describe(f"{FAMILY}/{name}")["behaviour"]
        cells = [_cell(found.get(key), key.endswith("_refused")) for key in COLUMNS.values()]
        lines.append(f"| `{name}` | {' | '.join(cells)} | {found['refusals']['different']} |")
    return "\n".join(lines)


def _cell(share: dict | None, with_interval: bool) -> str:
    if share is None:
        return "–"
    interval = (
        f" ({100 * share['low']:.0f} to {100 * share['high']:.0f} %)" if with_interval else ""
    )
    return f"{share['count']} of {share['of']}{interval}"


if __name__ == "__main__":
    print(table())
