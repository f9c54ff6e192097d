"""``interp locate-neurons``: from models and prompt files to a verified, stored, plotted result."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from interp.cli.common import Running, takes
from interp.errors import OptionError, PromptError


class Method(StrEnum):
    """How neurons are scored; ``auto`` is ``integrated`` with a base and ``act-grad`` without."""

    auto = "auto"
    integrated = "integrated"
    cross = "cross"
    change = "change"
    act_grad = "act-grad"
    contrast = "contrast"
    weight = "weight"


class Positions(StrEnum):
    """Which tokens a method reads; ``auto`` leaves it to the method."""

    auto = "auto"
    content = "content"
    decision = "decision"
    completion = "completion"


@takes(Running)
def command(
    tuned: Annotated[str, typer.Argument(metavar="TUNED", help="Directory, Hub id, adapter, or organism:NAME.")],
    *,
    base: Annotated[str | None, typer.Option(metavar="BASE", help="What it was tuned from.")] = None,
    positive: Annotated[Path, typer.Option(metavar="FILE", help="Prompts that show the behaviour.")],
    negative: Annotated[Path, typer.Option(metavar="FILE", help="Prompts that do not.")],
    verify_positive: Annotated[
        Path | None, typer.Option(metavar="FILE", help="As --positive, to verify on.  [default: a held-out half]")
    ] = None,
    verify_negative: Annotated[
        Path | None, typer.Option(metavar="FILE", help="As --negative, to verify on.  [default: a held-out half]")
    ] = None,
    column: Annotated[str, typer.Option(metavar="NAME", help="Column of the prompt files.")] = "prompt",
    method: Annotated[Method, typer.Option(help="How neurons are scored.")] = Method.auto,
    top: Annotated[str, typer.Option(metavar="N|P%|zX", help="How many are selected: 30, 0.5%, z3.")] = "0.5%",
    positions: Annotated[Positions, typer.Option(help="Tokens that are read.")] = Positions.auto,
    markers: Annotated[Path | None, typer.Option(metavar="FILE", help="Refusal markers, one a line.")] = None,
    verify: Annotated[bool, typer.Option("--verify/--no-verify", help="Verify what was located.")] = True,
    controls: Annotated[
        int | None, typer.Option(metavar="N", min=1, help="Matched random sets.  [default: 200 organisms, 20 else]")
    ] = None,
    max_prompts: Annotated[int | None, typer.Option(metavar="N", min=1, help="At most N prompts per class.")] = None,
    common: Running,
) -> None:
    """Find the MLP neurons that carry a tuned behaviour, and verify them on held-out prompts against random sets.

    The run is kept in the store, with one offline HTML page beside it.
    """
    if (verify_positive is None) != (verify_negative is None):
        raise OptionError("only one of --verify-positive and --verify-negative was given; give both or neither")
    files = [path for path in (positive, negative, verify_positive, verify_negative) if path is not None]
    for path in files:
        if not path.is_file():
            raise PromptError(f"no prompt file at {path}; check the path")
