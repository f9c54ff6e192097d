"""``--baselines``: other methods of the field that a verified set is compared with, and their table
for a terminal.
"""

import math
from typing import TYPE_CHECKING, Any

from interp.cli.checks import names_in
from interp.cli.text import aligned
from interp.errors import OptionError

if TYPE_CHECKING:
    from interp.study import Study
    from interp.table import Table

BASELINES = {
    "contrast": (
        "as many neurons as were located, by a contrast of the classes in the fine-tuned model"
        " alone"
    ),
    "direction": "one direction of the stream taken away, at equal divergence on harmless answers",
}
HEADER = ("method", "behaviour", "recovery", "divergence", "flips", "malformed")


def parse(text: str, verify: bool) -> tuple[str, ...]:
    """``none``, ``all`` or names with commas between; raises OptionError for others, and where
    nothing verifies.
    """
    names = names_in(text, BASELINES, "--baselines")
    if names and not verify:
        raise OptionError("--baselines are measured on the held-out prompts; leave out --no-verify")
    return names


def applicable(
    names: tuple[str, ...], asked_all: bool, unit: str, is_task: bool, has_number: bool
) -> tuple[str, ...]:
    """The baselines that can be measured; raises OptionError for a named one that cannot."""
    barred = {}
    if unit != "neuron":
        barred["contrast"] = f"neurons, and units are of kind {unit}"
    if is_task:
        barred["direction"] = "a behaviour that both classes can show; a task has none"
    elif not has_number:
        barred["direction"] = "log-odds; add continuations to the behaviour's file"
    for name in names:
        if name in barred and not asked_all:
            raise OptionError(f"--baselines {name} needs {barred[name]}")
    return tuple(name for name in names if name not in barred)


def baselines_analyzer(
    names: tuple[str, ...], store: Any, locating: "Study", verified: "Table", located: "Table"
) -> Any:
    """The analyzer of these baselines; what they choose is chosen on the prompts that located."""
    from interp.analyzers.baselines import Baselines
    from interp.analyzers.locate_neurons import LocateNeurons

    contrast, size = None, int(verified.summary["selected"])
    if "contrast" in names:
        contrast = store.run(LocateNeurons(method="contrast", top=str(size)), locating).table
    return Baselines(
        verified, located, contrast=contrast, choosing=locating if "direction" in names else None
    )


def baselines_table(table: "Table") -> str:
    """A line per method, with 95 % intervals; of random sets the range of them."""
    return aligned([baseline_cells(row) for row in table.rows()], HEADER)


def baseline_cells(row: dict[str, Any]) -> tuple[str, ...]:
    """The cells of a method, under ``HEADER``."""
    return (
        row["what"],
        _interval(row["exhibits_behaviour"], row["low"], row["high"], ".1%"),
        _interval(row["recovery"], row["recovery_low"], row["recovery_high"], ".2f"),
        _number(row["divergence"], ".3g"),
        _number(row["flipped"], ".1%"),
        _number(row["malformed"], ".1%"),
    )


def _interval(value: float, low: float, high: float, form: str) -> str:
    text = _number(value, form)
    return text if math.isnan(low) else f"{text} [{_number(low, form)}, {_number(high, form)}]"


def _number(value: float, form: str) -> str:
    return "-" if math.isnan(value) else format(value + 0.0, form)
