"""Tables and claims of answers in other registers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from interp.analyzers.wrapped_conjugate.compute import InRegister
from interp.claims import Claim, Draws, escape_braces, mean
from interp.claims.control_fine_tunes import ControlRow, beyond_new_control, controls_table
from interp.experiments.base_answers import (
    CHANGED,
    BaseAnswers,
    ChangedRow,
    ModelRow,
    changed_claim,
)
from interp.maths.intervals import cluster_interval
from interp.rows import DrawRow, flag, key, measure, rows_table
from interp.table import Table

MIN_RETURNED = 0.1
"""Share of the changed answers that has to return."""
NAN = float("nan")
VERDICT = "gains-in-register"


class RegisterRow(ModelRow):
    """A row per register and model, on the held-out prompts that a rule fits."""

    register: str = key("register that the prompts were changed into")
    chosen: bool = flag("the register chosen on the selection split")
    prompts: int = measure("held-out prompts that a rule fits", "prompts")
    returned: float = measure(
        "share of prompts whose answer fine-tuning changed to which the model gives, in the"
        " register and changed back, the base's plain answer"
    )
    low: float = measure("lower end of its 95 % interval over clusters")
    high: float = measure("upper end of its 95 % interval over clusters")
    kept: float = measure("the same share of prompts whose answer fine-tuning did not change")
    gained: float = measure(
        "the same share of all prompts, minus that of prompts as they are to which the model writes"
        " the base's answer"
    )


class ConjugateRow(ChangedRow):
    """A row per register and held-out prompt that a rule fits."""

    register: str = key("register that the prompt was changed into")
    before: bool = flag("the fine-tuned model gives the base's answer to the plain prompt")
    after: bool = flag("the fine-tuned model gives it in the register, changed back")
    base: bool = flag("the base gives it in the register, changed back")


class ExchangedRow(DrawRow):
    """A row per exchange of the fine-tuned model's answers among changed held-out prompts."""

    returned: float = measure("share of prompts with the base's plain answer")


class ConjugateControlRow(ControlRow):
    """A row per control fine-tune, in the chosen register."""

    gained: float = measure(
        "share of held-out prompts with the base's plain answer in the register, minus that without"
    )


def _share(flags: np.ndarray) -> float:
    return float(flags.mean()) if flags.size else NAN


def registers_table(
    answers: BaseAnswers,
    rewritten: Sequence[InRegister],
    models: Sequence[tuple[dict[str, Any], Sequence[np.ndarray], np.ndarray]],
    chosen: int,
) -> Table:
    """One row per register and model; ``models``: each with the columns of ``ModelRow``, what it
    gives in every register, and whether it writes the base's answer to every plain prompt.
    """
    rows: list[dict[str, Any]] = []
    for at, one in enumerate(rewritten):
        held_out, changed = one.held_out(answers), answers.changed[one.rows]
        clusters = np.array([answers.clusters[row] for row in one.rows.tolist()], object)
        counted = held_out & changed
        for columns, matches, plain in models:
            interval = (
                cluster_interval(matches[at][counted], clusters[counted])
                if counted.any()
                else (NAN, NAN, NAN)
            )
            rows.append(
                {
                    **columns,
                    "register": one.name,
                    "chosen": at == chosen,
                    "prompts": int(held_out.sum()),
                    **dict(zip(("returned", "low", "high"), interval, strict=True)),
                    "kept": _share(matches[at][held_out & ~changed]),
                    "gained": _share(matches[at][held_out]) - _share(plain[one.rows[held_out]]),
                }
            )
    return rows_table(
        RegisterRow, "wrapped-conjugate", {name: [row[name] for row in rows] for name in rows[0]}
    )


def answers_table(
    answers: BaseAnswers,
    rewritten: Sequence[InRegister],
    tuned: Sequence[np.ndarray],
    base: Sequence[np.ndarray],
) -> Table:
    """The held-out prompts in every register."""
    parts = []
    for one, own, other in zip(rewritten, tuned, base, strict=True):
        kept = one.held_out(answers)
        parts.append(
            {
                **answers.columns(one.rows[kept]),
                "register": [one.name] * int(kept.sum()),
                "before": answers.tuned.writes[one.rows[kept]],
                "after": own[kept],
                "base": other[kept],
            }
        )
    return rows_table(
        ConjugateRow,
        "",
        {name: [value for part in parts for value in part[name]] for name in parts[0]},
    )


def exchanged_table(shares: np.ndarray) -> Table:
    """The exchanges, in the chosen register."""
    return rows_table(ExchangedRow, "", {"draw": np.arange(len(shares)), "returned": shares})


def controls_rows(
    answers: BaseAnswers,
    rewritten: InRegister,
    names: Sequence[str],
    plain: Sequence[np.ndarray],
    matches: Sequence[np.ndarray],
) -> Table:
    """What the register gains in every control; ``plain`` [n]: whether it writes the base's answer
    to the plain prompt.
    """
    kept = rewritten.held_out(answers)
    gained = [
        _share(own[kept]) - _share(before[rewritten.rows[kept]])
        for own, before in zip(matches, plain, strict=True)
    ]
    return controls_table(names, row=ConjugateControlRow, numbers={"gained": gained})


def claims_of(answers: BaseAnswers, rewritten: InRegister, n_controls: int) -> list[Claim]:
    """That more answers are the base's in the register, that changed ones return, and more than in
    controls.

    Only that answers changed is claimed where no held-out answer in the register changed.
    """
    where = {"register": rewritten.name}
    changed = changed_claim("answers", where)
    if not (rewritten.held_out(answers) & answers.changed[rewritten.rows]).any():
        return [changed]
    claims = [_gain(rewritten.name), _return(rewritten.name)]
    if n_controls:
        claims.append(
            beyond_new_control(
                "gain-beyond-controls",
                mean("after", table="answers", where=where, minus={"column": "before"}),
                "gained",
                n_controls,
                "the gain in held-out prompts with the base's answer",
                "+.3f",
            )
        )
    return [*claims, changed]


def _gain(register: str) -> Claim:
    rows = {"table": "answers", "where": {"register": register}}
    return Claim(
        name=VERDICT,
        estimate=mean("after", minus={"column": "before"}, **rows),
        at_least=0.0,
        reference=mean("before", **rows),
        control="the same prompts as they are",
        requires=[CHANGED],
        text=(
            f"In the register {escape_braces(repr(register))} (chosen on other prompts) the"
            " fine-tuned model gives the base's plain answer to {after:.1%} of the held-out prompts"
            " that a rule fits, to the prompts as they are {control:.1%}: {value:+.1%}"
            " [{low:+.1%}, {high:+.1%}]; the base itself in the register {base:.1%}."
        ),
        also={"after": mean("after", **rows), "base": mean("base", **rows)},
    )


def _return(register: str) -> Claim:
    rows = {"table": "answers", "where": {"register": register, "changed": True}}
    return Claim(
        name="answers-return-in-register",
        estimate=mean("after", **rows),
        at_least=MIN_RETURNED,
        null=Draws("exchanged", "returned"),
        control="answers in the register exchanged among the prompts",
        # a model that refuses at random answers some refused prompts in any other form
        requires=[CHANGED, VERDICT],
        text=(
            "Of the prompts whose answer fine-tuning changed {value:.1%} [{low:.1%}, {high:.1%}]"
            " get the base's answer in the register; answers exchanged among the prompts {control:.1%},"
            " at most {control_max:.1%}."
        ),
    )
