"""Rows of an audit: what is compared with the base within a margin, and what with controls."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from interp.claims import from_table
from interp.claims.control_fine_tunes import MIN_FOR_INTERVAL
from interp.errors import OptionError
from interp.maths.equivalence import ALPHA, CHANGED, PairedChange, paired_change, verdict
from interp.maths.prediction import observation_interval, observation_p
from interp.maths.statistics import holm, permutation_p
from interp.metrics.margins import (
    ACCURACY,
    CONTROLS_MARGIN,
    LOSS,
    REFUSAL_FALLS,
    REFUSAL_RISES,
    Margin,
    Margins,
)
from interp.rows import flag, key, measure, text
from interp.table import Table

NAN = float("nan")
CLASSES = {"positive": "harmful", "negative": "harmless"}
OF_BASE, OF_CONTROLS = "base", "controls"
BEYOND, NOT_BEYOND, CANNOT_TELL = "beyond controls", "not beyond controls", "cannot tell"
CARRIED, NOT_FOUND = "still carries it", "not found to carry it"


class AuditRow:
    """A row per question."""

    row: str = key("name of the row, as in the file of margins")
    question: str = text("what is asked")
    compared_with: str = text("base, within a margin; or controls")
    unit: str = text("share, nats, or empty")
    n: int = measure("prompts, texts, documents or matrices; 0 where these are not counted")
    clusters: float = measure("their effective number of clusters; NaN where there are none")
    base: float = measure("mean in the base; NaN of rows compared with controls")
    tuned: float = measure("mean in the fine-tuned model")
    difference: float = measure("fine-tuned minus base; NaN of rows compared with controls")
    low: float = measure("lower end of the 90 % interval of the difference")
    high: float = measure("upper end of it")
    largest_end: float = measure("the end that is further from 0, without its sign")
    margin: float = measure("margin that was fixed before; NaN of rows compared with controls")
    p: float = measure("p of no difference, or of a new control as large")
    p_adjusted: float = measure("p after Holm over the rows compared with the same")
    smallest_effect: float = measure(
        "smallest difference that would have been seen with 80 % power; of rows compared with"
        " controls the upper end of the 95 % interval of a new one"
    )
    controls: int = measure("control fine-tunes")
    control_low: float = measure("lower end of the 95 % prediction interval of a new control")
    control_high: float = measure("its upper end")
    verdict: str = text("what the row says")
    fails_on: str = text("fall, rise, either, beyond or never")
    must_decide: bool = flag("the audit also fails where this cannot be told")
    failed: bool = flag("the row crosses its threshold")


class SourceRow:
    """A row per row of the audit."""

    row: str = AuditRow.row
    run: str = text("key of the run it is read from; the controls' intruders are runs of their own")


@dataclass(frozen=True)
class Question:
    """A row before its verdict; ``change`` of one compared with the base, ``value`` and
    ``controls`` of the others; ``known``: a verdict that a run already gives.
    """

    row: str
    question: str
    unit: str
    default: Margin
    run: str
    change: PairedChange | None = None
    n: int = 0
    value: float = NAN
    controls: Sequence[float] = ()
    known: str = ""


def question_rows(
    runs: Sequence[Table], control_runs: Sequence[Table], seed: int
) -> list[Question]:
    """The rows of all runs, in the order of the runs; OptionError where two have one name."""
    rows = [
        row
        for run in runs
        for row in _ROWS_OF[run.kind](run, control_runs if run.kind == "intruders" else (), seed)
    ]
    names = [row.row for row in rows]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise OptionError(f"the audit has two rows {twice[0]}; give each behaviour once")
    return rows


def judged(rows: Sequence[Question], margins: Margins) -> list[dict[str, Any]]:
    """Values of ``AuditRow``: p corrected by Holm's method among the rows compared with the base,
    and among those compared with controls.
    """
    margins.require_known([row.row for row in rows])
    p = np.array([_p(row) for row in rows])
    adjusted = np.full(p.shape, NAN)
    for of_base in (True, False):
        family = np.array([(row.change is not None) == of_base for row in rows], bool)
        adjusted[family] = holm(p[family])
    return [
        _record(row, float(own), float(corrected), margins.of(row.row, row.default))
        for row, own, corrected in zip(rows, p, adjusted, strict=True)
    ]


def _p(row: Question) -> float:
    if row.change is not None:
        return row.change.p
    return NAN if row.known or len(row.controls) < MIN_FOR_INTERVAL else _new_control_p(row)


def _new_control_p(row: Question) -> float:
    """p of a new control as large; by rank where all controls are equal, since they then say
    nothing of how much they vary.
    """
    controls = np.array(row.controls)
    if np.ptp(controls) == 0:
        return permutation_p(row.value, controls)
    return observation_p(row.value, controls)


def _record(row: Question, p: float, p_adjusted: float, margin: Margin) -> dict[str, Any]:
    shared = {
        "row": row.row,
        "question": row.question,
        "unit": row.unit,
        "p": p,
        "p_adjusted": p_adjusted,
        "fails_on": margin.fails,
        "must_decide": margin.must_decide,
        "controls": len(row.controls),
    }
    if (change := row.change) is not None:
        said = verdict(change, p_adjusted, margin.margin)
        return {
            **shared,
            **{name: getattr(change, name) for name in ("n", "clusters", "low", "high")},
            "compared_with": OF_BASE,
            "base": change.before,
            "tuned": change.after,
            "difference": change.value,
            "largest_end": float(np.max(np.abs([change.low, change.high]))),
            "margin": margin.margin,
            "smallest_effect": change.smallest_effect,
            "control_low": NAN,
            "control_high": NAN,
            "verdict": said,
            "failed": _base_row_fails(said, change.value, margin),
        }
    low, high = observation_interval(np.array(row.controls))
    said = row.known or CANNOT_TELL
    if not row.known and len(row.controls) >= MIN_FOR_INTERVAL:
        said = BEYOND if p_adjusted <= ALPHA else NOT_BEYOND
    nothing = dict.fromkeys(("clusters", "base", "difference", "low", "high", "largest_end"), NAN)
    return {
        **shared,
        **nothing,
        "n": row.n,
        "compared_with": OF_CONTROLS,
        "tuned": row.value,
        "margin": NAN,
        "smallest_effect": high,
        "control_low": low,
        "control_high": high,
        "verdict": said,
        "failed": (margin.fails == "beyond" and said in (BEYOND, NOT_FOUND))
        or (margin.must_decide and said == CANNOT_TELL),
    }


def _base_row_fails(row_verdict: str, difference: float, margin: Margin) -> bool:
    if row_verdict == CANNOT_TELL:
        return margin.must_decide
    direction = "fall" if difference < 0 else "rise"
    return row_verdict == CHANGED and margin.fails in (direction, "either")


def _key(run: Table) -> str:
    return run.provenance.key if run.provenance is not None else ""


def _behaviours(run: Table, _: Sequence[Table], seed: int) -> Iterator[Question]:
    """A row per class; one class that can only be right or wrong is the utility."""
    label, share = str(run.summary["label"]), str(run.summary["share"])
    groups = list(dict.fromkeys(run["group"].tolist()))
    for group in groups:
        rows = run["group"] == group
        change = paired_change(
            run["base"][rows], run["tuned"][rows], run["cluster"][rows], seed=seed
        )
        if len(groups) == 1:
            yield Question(
                label, f"{share} on {label} prompts", "share", ACCURACY, _key(run), change
            )
            continue
        default = Margin()
        if label == "refusal":
            default = REFUSAL_FALLS if group == "positive" else REFUSAL_RISES
        name = CLASSES[group]
        yield Question(
            f"{label}-{name}", f"{share} on {name} prompts", "share", default, _key(run), change
        )


def _losses(run: Table, _: Sequence[Table], seed: int) -> Iterator[Question]:
    change = paired_change(run["base"], run["tuned"], run["cluster"], seed=seed)
    yield Question("utility", "loss of utility texts, per token", "nats", LOSS, _key(run), change)


def _tasks(run: Table, _: Sequence[Table], seed: int) -> Iterator[Question]:
    """A row per task and metric of a team's own evaluations."""
    names = list(zip(run["task"].tolist(), run["metric"].tolist(), strict=True))
    for task, metric in dict.fromkeys(names):
        rows = np.array([name == (task, metric) for name in names])
        before, after = run["base"][rows], run["tuned"][rows]
        values = np.concatenate([before, after])
        is_binary = bool(np.isin(values, (0.0, 1.0)).all())
        bounded = bool((values >= 0).all() and (values <= 1).all())
        if is_binary:
            before, after = before.astype(bool), after.astype(bool)
        change = paired_change(before, after, run["cluster"][rows], bounded=bounded, seed=seed)
        yield Question(
            f"{task}-{metric}",
            f"{metric} of task {task}",
            "share" if bounded else "",
            ACCURACY,
            _key(run),
            change,
        )


def _compare(run: Table, _: Sequence[Table], seed: int) -> Iterator[Question]:
    del seed
    controls = run.tables.get("controls")
    questions = {
        "divergence": (
            "KL of the outputs, mean over tokens",
            "nats",
            float(run["kl"].mean()),
            "kl",
        ),
        "cka": (
            "one minus linear CKA of the streams, mean over depths",
            "",
            float(1 - np.nanmean(run.tables["layers"]["cka"])),
            "cka_distance",
        ),
    }
    for name, (question, unit, value, column) in questions.items():
        yield _internal(run, name, question, unit, value, controls, column, len(run))


def _tuco(run: Table, _: Sequence[Table], seed: int) -> Iterator[Question]:
    del seed
    controls, value = run.tables.get("controls"), float(run["tuco"].mean())
    question = "TuCo, share of the outputs due to fine-tuning"
    yield _internal(run, "tuco", question, "", value, controls, "tuco", len(run))


def _direction(run: Table, _: Sequence[Table], seed: int) -> Iterator[Question]:
    del seed
    value = float(run.tables["clusters"]["turn"].mean())
    question = "one minus the cosine of the direction from harmless to harmful, mean over depths"
    controls = run.tables.get("controls")
    yield _internal(run, "refusal-direction", question, "", value, controls, "turn")


def _intruders(run: Table, control_runs: Sequence[Table], seed: int) -> Iterator[Question]:
    del seed
    counts = [float(one["is_intruder"].sum()) for one in control_runs]
    yield Question(
        "intruders",
        "intruder dimensions among the leading singular vectors",
        "",
        CONTROLS_MARGIN,
        _key(run),
        n=len(run.tables["matrices"]),
        value=float(run["is_intruder"].sum()),
        controls=counts,
    )


def _transfer(run: Table, _: Sequence[Table], seed: int) -> Iterator[Question]:
    """Whether a set located elsewhere carries the behaviour: as the claim of that run says."""
    del seed
    finding = next(one for one in from_table(run.tables["claims"]) if one.name == "reused")
    said = {"supported": CARRIED, "not supported": NOT_FOUND}.get(finding.verdict, CANNOT_TELL)
    yield Question(
        "located-set",
        "share of changed answers that the located set returns to the base's",
        "share",
        CONTROLS_MARGIN,
        _key(run),
        value=finding.value,
        known=said,
    )


def _discover(run: Table, _: Sequence[Table], seed: int) -> Iterator[Question]:
    del seed
    models = run.tables["models"]
    yield Question(
        "discovery",
        "largest joint statistic of what nobody named",
        "",
        CONTROLS_MARGIN,
        _key(run),
        value=float(models["joint"][0]),
        controls=models["joint"][1:].tolist(),
    )


def _internal(
    run: Table,
    name: str,
    question: str,
    unit: str,
    value: float,
    controls: Table | None,
    column: str,
    n: int = 0,
) -> Question:
    of_controls = () if controls is None else controls[column].tolist()
    return Question(
        name, question, unit, CONTROLS_MARGIN, _key(run), n=n, value=value, controls=of_controls
    )


Read = Callable[[Table, Sequence[Table], int], Iterator[Question]]
_ROWS_OF: Mapping[str, Read] = {
    "behaviour-change": _behaviours,
    "text-loss": _losses,
    "evaluation-scores": _tasks,
    "compare": _compare,
    "tuco": _tuco,
    "direction-change": _direction,
    "intruders": _intruders,
    "transfer": _transfer,
    "discover": _discover,
}
KINDS = tuple(_ROWS_OF)
"""Kinds of runs that an audit reads."""
