"""``--checks``: further tests of a located set, each a run of its own."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from interp.cli.excluded import Units
from interp.errors import OptionError

if TYPE_CHECKING:
    from interp.study import Study
    from interp.table import Table

CHECKS = {
    "stability": "is the same set located on other prompts",
    "redundancy": "what is located when the set is out of the way",
    "coalitions": "do the scores predict what random halves of all units do",
    "direction": "does the set do more than one direction of the stream at equal KL",
}
NEEDS_BASE = ("redundancy", "coalitions")
NEEDS_NUMBER = ("coalitions", "direction")


def parse(text: str) -> tuple[str, ...]:
    """``none``, ``all`` or names with commas between; raises OptionError for others."""
    return names_in(text, CHECKS, "--checks")


def names_in(text: str, known: Mapping[str, str], flag: str) -> tuple[str, ...]:
    """Those of the ``known`` names that an option lists; raises OptionError for others."""
    if text in ("none", "all"):
        return tuple(known) if text == "all" else ()
    names = tuple(dict.fromkeys(part.strip() for part in text.split(",")))
    if unknown := [name for name in names if name not in known]:
        raise OptionError(
            f"unknown {flag} {unknown[0]!r}; use all, none or some of {','.join(known)}"
        )
    return names


def applicable(
    names: tuple[str, ...], asked_all: bool, has_base: bool, is_task: bool, has_number: bool
) -> tuple[str, ...]:
    """The checks that can be made; raises OptionError for a named one that cannot."""
    barred = {name: "a base to return to; add --base MODEL" for name in NEEDS_BASE if not has_base}
    if is_task:
        barred["direction"] = "a behaviour that both classes can show; a task has none"
    if not has_number:
        barred |= dict.fromkeys(NEEDS_NUMBER, "log-odds; add continuations to the behaviour's file")
    for name in names:
        if name in barred and not asked_all:
            raise OptionError(f"--checks {name} needs {barred[name]}")
    return tuple(name for name in names if name not in barred)


def analyzers(
    names: tuple[str, ...], locate: Any, located: "Table", excluded: Units
) -> Mapping[str, Any]:
    """The analyzer of each check, for a locating analyzer and its run; ``excluded`` units are in no
    random set.
    """
    from interp.analyzers.coalitions import Coalitions
    from interp.analyzers.redundancy import Redundancy
    from interp.analyzers.refusal_direction import RefusalDirection
    from interp.analyzers.stability import Stability

    key = located.require_provenance().key
    factories = {
        "stability": lambda: Stability(locate=locate, parent=key, excluded=excluded),
        "redundancy": lambda: Redundancy(locate=locate, parent=key, excluded=excluded),
        "coalitions": lambda: Coalitions(located),
        "direction": lambda: RefusalDirection(located),
    }
    return {name: factories[name]() for name in names}


def study_of_check(name: str, locating: "Study", verifying: "Study | None") -> "Study":
    """The prompts of a check: the selection split for those that locate again, else the held-out
    split.
    """
    return locating if name in ("stability", "redundancy") or verifying is None else verifying
