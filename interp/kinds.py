"""Kinds of runs: one record for each, of everything outside its analyzer that has to know it.

From a record come the command and its help, the figure, the heading on a page, the section of a
report, and whether a report may run it again. Import strings only: nothing is loaded here. Another
package adds a kind by naming its analyzer in the entry points ``interp.kinds``; the command gets
the name of the entry point::

    [project.entry-points."interp.kinds"]
    answer-length = "my_package.answer_length:AnswerLength"
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib import import_module, metadata
from typing import Any

from interp.errors import OptionError

GROUP = "interp.kinds"


@dataclass(frozen=True)
class Kind:
    """What is known of a kind of table.

    ``analyzer``: ``module:Class`` of runs; empty for kinds of sub-tables only. ``help``: one line,
    which makes the analyzer a command. ``figure``: ``module:function``, table -> plotly figure.
    ``heading``: of its figure on a page. ``section``: heading of the run in a report.
    ``replayable``: a report may run its command again: it writes to its store or ``--out`` alone.
    """

    analyzer: str = ""
    help: str = ""
    figure: str = ""
    heading: str = ""
    section: str = ""
    replayable: bool = False


@cache
def kinds() -> Mapping[str, Kind]:
    """All kinds by name: those of interp, then those of other packages.

    Raises OptionError for an entry point that has the name of one of ours.
    """
    found = dict(KINDS)
    for entry in metadata.entry_points(group=GROUP):
        if entry.name in KINDS:
            raise OptionError(
                f"the entry point {entry.name} of {GROUP} has the name of a kind of interp; give"
                " it another one"
            )
        package = entry.dist.name if entry.dist else entry.module
        found[entry.name] = Kind(entry.value, help=f"an analyzer of the package {package}")
    return found


def load(path: str) -> Any:
    """What ``module:name`` names."""
    module, _, name = path.partition(":")
    return getattr(import_module(module), name)


KINDS: dict[str, Kind] = {}
