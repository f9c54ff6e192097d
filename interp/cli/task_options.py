"""Task files with positions on the command line, and heads written as LAYER.HEAD."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from interp.errors import OptionError

if TYPE_CHECKING:
    from interp.prompts.task_file import TaskFile
    from interp.table import Table


def split_task_file(task: "TaskFile", seed: int) -> "tuple[TaskFile, TaskFile]":
    """What of a task file selects and what measures: by its column ``split``, else half of the
    clusters each.
    """
    from interp.cli.graft import split_task

    place = {prompt.id: row for row, prompt in enumerate(task.prompts)}
    first, second = split_task(task.prompts, seed)
    return (
        task.keep([place[prompt.id] for prompt in first]),
        task.keep([place[prompt.id] for prompt in second]),
    )


def read_limited(path: Path, name: str, most: int | None) -> "TaskFile":
    """A task file, or at most so many of its rows over clusters."""
    from interp.prompts.task_file import read_task_file

    task = read_task_file(path, name)
    return task if most is None else task.keep(task.prompts.spread_rows(most))


def parse_heads(text: str, flag: str = "--heads") -> tuple[tuple[int, int], ...]:
    """``3.1,3.2`` as (block, head) pairs; raises OptionError naming the flag."""
    heads = []
    for part in text.split(","):
        layer, dot, head = part.strip().partition(".")
        if not (dot and layer.isdecimal() and head.isdecimal()):
            raise OptionError(
                f"{flag} {text!r} is not a list of heads; write LAYER.HEAD with commas between, such"
                " as 3.1,3.2"
            )
        heads.append((int(layer), int(head)))
    if len(set(heads)) < len(heads):
        raise OptionError(f"{flag} {text!r} names a head twice; name each once")
    return tuple(heads)


def parse_groups(texts: Sequence[str] | None) -> tuple[tuple[tuple[int, int], ...], ...]:
    """Groups of heads, one from each ``--heads``; OptionError for one that is given twice."""
    groups = tuple(parse_heads(text) for text in texts or ())
    if len({frozenset(group) for group in groups}) < len(groups):
        raise OptionError("--heads gives the same heads twice; give every group once")
    return groups


def circuit_groups(
    run: "Table", role: str, position: str
) -> tuple[tuple[tuple[int, int], ...], ...]:
    """The groups of heads of one model's circuit in a stored run: those at a position, or all of
    them for ``all``; OptionError for another kind of run, and where there is no such group.
    """
    if run.kind != "circuit":
        raise OptionError(
            f"--circuit is a run of kind {run.kind!r}; give the key of a run of interp circuit"
        )
    found: dict[str, list[tuple[int, int]]] = {}
    for row in run.rows():
        if row[f"in_{role}"] and position in ("all", row["position"]):
            found.setdefault(row["group"], []).append((row["layer"], row["head"]))
    if not found:
        known = ", ".join(sorted(set(run["position"].tolist()))) or "none"
        raise OptionError(
            f"the circuit of {role} has no heads at --position {position}; it has {known}"
        )
    return tuple(tuple(sorted(heads)) for heads in found.values())
