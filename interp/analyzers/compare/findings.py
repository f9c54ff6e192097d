"""Tables and claims of a comparison."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from interp.analyzers.compare.compute import DEPTHS, GroupComparison
from interp.analyzers.framework import prompt_rows
from interp.claims import Claim, mean, statistic
from interp.claims.control_fine_tunes import (
    TABLE,
    ControlRow,
    beyond_new_control,
    comparison_sentence,
    control_range,
    controls_phrase,
)
from interp.experiments.records import records_table
from interp.maths.alignment import cka_interval, debiased_cka, linear_cka
from interp.maths.intervals import cluster_interval
from interp.models.changes import TensorChange
from interp.rows import PromptRow, flag, key, measure, rows_table, text
from interp.study import Study
from interp.table import ZERO_OR_ONE, Table, as_binary, table

NAN = float("nan")
ENDS = {"": "", "_low": "lower end of: ", "_high": "upper end of: "}
OVER_CONTROLS = (
    (np.mean, "mean over"),
    (np.min, "smallest over"),
    (np.max, "largest over"),
    (np.mean, "mean over"),
)
"""How the CKA of several controls, the ends of its interval and the corrected CKA are summarised."""


class ComparedRow(PromptRow):
    """Divergence and changes of the top token of a prompt, as mean over tokens and at the last."""

    tokens: int = measure("tokens of the prompt")
    kl: float = measure("KL of the next token, fine-tuned || base, mean over tokens", "nats")
    kl_last: float = measure("the same at the last token", "nats")
    flips: float = measure("share of tokens at which the top next tokens differ")
    flip_last: float = measure("1 where they differ at the last token", ZERO_OR_ONE)
    control_kl: float = measure(
        "kl of control || base, mean over the controls", "nats", optional=True
    )
    control_kl_last: float = measure("kl_last, mean over the controls", "nats", optional=True)
    kl_last_beyond: float = measure("kl_last minus control_kl_last", "nats", optional=True)
    control_flips: float = measure("flips, mean over the controls", optional=True)


class ComparedControlRow(ControlRow):
    """Means over all prompts of a control, and with two classes the difference between them."""

    more_on_positive: float = measure(
        "mean of kl_last on positive minus negative prompts", "nats", optional=True
    )
    kl: float = measure("mean of control_kl", "nats")
    kl_last: float = measure("mean of control_kl_last", "nats")
    flips: float = measure("mean of control_flips")
    drift: float = measure("one minus the mean cosine after the last block")
    cka_distance: float = measure("one minus linear CKA of the streams, mean over depths")


class DriftRow(PromptRow):
    """A prompt's streams at one depth."""

    depth: int = key("blocks that the stream has passed")
    cosine: float = measure("cosine of both models' streams, mean over tokens")
    norm_ratio: float = measure(
        "norm of the fine-tuned model's stream over the base's, mean over tokens"
    )
    lens_kl: float = measure("KL of the logit lenses at the last token, fine-tuned || base")
    lens_flip: float = measure("the lenses' top tokens differ, at the last token", ZERO_OR_ONE)
    base_to_end: float = measure("KL of the base's final output || its lens at this depth")
    tuned_to_end: float = measure(
        "KL of the fine-tuned model's final output || its lens at this depth"
    )
    drift: float = measure("one minus the cosine")
    control_drift: float = measure("the same, mean over the controls", optional=True)


class TokenRow:
    """A token of a prompt."""

    group: str = PromptRow.group
    prompt_id: int = PromptRow.prompt_id
    position: int = key("token of the prompt, from 0")
    token: str = text("the token")
    kl: float = measure("KL of the next token, fine-tuned || base", "nats")
    flip: bool = flag("the top next tokens differ")
    base_next: str = text("top next token in the base")
    tuned_next: str = text("top next token in the fine-tuned model")


class TensorRow:
    """A tensor of the models."""

    layer: int = key("block, -1 outside the blocks")
    part: str = key("matrix, or name of the tensor")
    size: int = measure("number of elements")
    norm: float = measure("its Euclidean norm in the base")
    change: float = measure("Euclidean norm of its change")
    relative: float = measure("change over norm; 0 where nothing changed")
    share: float = measure("share of its elements that changed")
    control_relative: float = measure(
        "change over norm, mean over the controls; NaN where one has no such tensor", optional=True
    )


def prompt_table(
    study: Study,
    results: Sequence[GroupComparison],
    controls: Sequence[Sequence[GroupComparison]],
) -> Table:
    """One row per prompt."""
    kl_last, of_controls = _at_last_token(results, "kl"), {}
    if controls:
        control_kl_last = _mean_over(_at_last_token(control, "kl") for control in controls)
        of_controls = {
            "control_kl": _mean_over(_joined(control, "kl") for control in controls),
            "control_kl_last": control_kl_last,
            "kl_last_beyond": kl_last - control_kl_last,
            "control_flips": _mean_over(_joined(control, "flips") for control in controls),
        }
    return prompt_rows(
        study,
        ComparedRow,
        tokens=np.array([len(ids) for part in results for ids in part.ids]),
        kl=_joined(results, "kl"),
        kl_last=kl_last,
        flips=_joined(results, "flips"),
        flip_last=_at_last_token(results, "flip"),
        **of_controls,
    )


def control_numbers(controls: Sequence[Sequence[GroupComparison]]) -> dict[str, list[Any]]:
    """A number of each control for every column of ``ComparedControlRow``."""
    numbers = {
        "kl": [_joined(control, "kl").mean() for control in controls],
        "kl_last": [_at_last_token(control, "kl").mean() for control in controls],
        "flips": [_joined(control, "flips").mean() for control in controls],
        "drift": [
            1 - np.concatenate([part.depths["cosine"][:, -1] for part in control]).mean()
            for control in controls
        ],
    }
    numbers["cka_distance"] = [float(1 - np.nanmean(_ckas(control))) for control in controls]
    if all(len(control) == 2 for control in controls):
        numbers["more_on_positive"] = [
            _at_last_token(control[:1], "kl").mean() - _at_last_token(control[1:], "kl").mean()
            for control in controls
        ]
    return numbers


def _ckas(parts: Sequence[GroupComparison]) -> list[float]:
    """Linear CKA of the streams at every depth."""
    base, tuned = (np.concatenate([part.sample[side] for part in parts]) for side in (0, 1))
    return [linear_cka(base[:, depth], tuned[:, depth]) for depth in range(base.shape[1])]


def _joined(parts: Sequence[GroupComparison], name: str) -> np.ndarray:
    return np.concatenate([getattr(part, name) for part in parts])


def _mean_over(parts: Iterable[np.ndarray]) -> np.ndarray:
    return np.mean(list(parts), 0)


def _at_last_token(parts: Sequence[GroupComparison], name: str) -> np.ndarray:
    return np.array([float(each[name][-1]) for part in parts for each in part.tokens])


def depth_tables(
    study: Study, results: Sequence[GroupComparison], controls: Sequence[Sequence[GroupComparison]]
) -> tuple[Table, Table]:
    """One row per prompt and depth, and one per depth with intervals over clusters."""
    n_depths = results[0].depths["cosine"].shape[1]
    prompts = [(part.group, prompt) for part in results for prompt in part.prompts]
    numbers = {name: np.concatenate([part.depths[name] for part in results]) for name in DEPTHS}
    of_controls = {
        name: _mean_over(np.concatenate([part.depths[name] for part in one]) for one in controls)
        for name in (DEPTHS if controls else ())
    }
    control_drift = {"control_drift": 1 - of_controls["cosine"].ravel()} if controls else {}
    drift = rows_table(
        DriftRow,
        "",
        {
            "group": [group for group, _ in prompts for _ in range(n_depths)],
            "prompt_id": np.repeat([prompt.id for _, prompt in prompts], n_depths),
            "cluster": [prompt.cluster for _, prompt in prompts for _ in range(n_depths)],
            "depth": np.tile(np.arange(n_depths), len(prompts)),
            **{name: numbers[name].ravel() for name in DEPTHS},
            "drift": 1 - numbers["cosine"].ravel(),
            **control_drift,
        },
    )
    clusters = [prompt.cluster for _, prompt in prompts]
    layers: dict[str, tuple] = {
        "depth": (np.arange(n_depths), "key", drift.column("depth").meaning)
    }
    for name in DEPTHS:
        column = drift.column(name)
        triples = [
            cluster_interval(as_binary(own, column.unit), clusters) for own in numbers[name].T
        ]
        for at, (suffix, end) in enumerate(ENDS.items()):
            values = np.array([each[at] for each in triples])
            layers[name + suffix] = (values, "measure", end + column.meaning)
        if controls:
            layers[f"control_{name}"] = (
                of_controls[name].mean(0),
                "measure",
                f"mean over the controls: {column.meaning}",
            )
    layers |= _alignment_columns(study, results, "")
    if controls:
        alignments = [_alignment_columns(study, control, "control_") for control in controls]
        layers |= {
            name: (
                join([one[name][0] for one in alignments], axis=0),
                "measure",
                f"{over} the controls: {described[2]}",
            )
            for (name, described), (join, over) in zip(
                alignments[0].items(), OVER_CONTROLS, strict=True
            )
        }
    return drift, table("", layers)


def _alignment_columns(
    study: Study, results: Sequence[GroupComparison], prefix: str
) -> dict[str, tuple]:
    """Linear CKA of the streams at every depth [L + 1], with its interval."""
    clusters = [part.prompts[row].cluster for part in results for row in part.rows]
    base, tuned = (np.concatenate([part.sample[side] for part in results]) for side in (0, 1))
    depths = range(base.shape[1])
    triples = np.array([cka_interval(base[:, d], tuned[:, d], clusters) for d in depths])
    meaning = f"linear CKA of the streams over {len(base)} tokens"
    debiased = np.array([debiased_cka(base[:, d], tuned[:, d]) for d in depths])
    return {
        **{
            f"{prefix}cka{suffix}": (triples[:, at], "measure", end + meaning)
            for at, (suffix, end) in enumerate(ENDS.items())
        },
        f"{prefix}cka_debiased": (
            debiased,
            "measure",
            f"{meaning}, corrected for the bias of few rows",
        ),
    }


def token_table(study: Study, results: Sequence[GroupComparison], max_rows: int) -> Table:
    """One row per token, at most about ``max_rows``: of the first prompt of every cluster, then of
    the second, and so on.
    """
    decode, rows = study.pair.tokenizer.decode, []
    orders = [(part, study.prompts(part.group).rows_over_clusters()) for part in results]
    for row, part in (
        (order[at], part)
        for at in range(max(len(order) for _, order in orders))
        for part, order in orders
        if at < len(order)
    ):
        if len(rows) + len(part.ids[row]) > max_rows and rows:
            break
        numbers = part.tokens[row]
        for position, token in enumerate(part.ids[row]):
            rows.append(
                {
                    "group": part.group,
                    "prompt_id": part.prompts[row].id,
                    "position": position,
                    "token": decode([token]),
                    "kl": numbers["kl"][position],
                    "flip": numbers["flip"][position],
                    "base_next": decode([int(numbers["base_next"][position])]),
                    "tuned_next": decode([int(numbers["tuned_next"][position])]),
                }
            )
    return records_table(TokenRow, "", rows)


def weight_table(changes: Sequence[TensorChange], *controls: Sequence[TensorChange]) -> Table:
    """One row per tensor, with the controls' mean change of it."""
    columns = {
        name: [getattr(each, name) for each in changes]
        for name in ("layer", "part", "size", "norm", "change", "share")
    }
    columns["relative"] = [_relative(each) for each in changes]
    if controls:
        of_controls = [
            {(each.layer, each.part): _relative(each) for each in control} for control in controls
        ]
        columns["control_relative"] = [
            float(np.mean([one.get((each.layer, each.part), NAN) for one in of_controls]))
            for each in changes
        ]
    return rows_table(TensorRow, "", columns)


def _relative(change: TensorChange) -> float:
    return change.change / change.norm if change.norm else float(change.change > 0)


def claims_of(last_depth: int, floor: float, controls: int, classes: int) -> list[Claim]:
    """Claims: divergence beyond rounding, beyond the controls and a new control, and larger on
    positive prompts.

    ``last_depth``: depth after the last block. ``floor``: divergence of the model from itself, in
    nats.
    """
    at_last_depth = {"table": "drift", "where": {"depth": last_depth}}
    positive, negative = {"group": "positive"}, {"group": "negative"}
    by_class, class_estimates = "", {}
    if classes == 2:
        by_class = ", {positive:.3g} on positive and {negative:.3g} on negative prompts"
        class_estimates = {
            "positive": mean("kl_last", where=positive),
            "negative": mean("kl_last", where=negative),
        }
    cosine = (
        "After the last block the cosine of both models' residual streams is {cosine:.3g} on"
        " average"
    )
    of_controls = (
        "the control fine-tune" if controls == 1 else f"the mean of {controls} control fine-tunes"
    )
    compared, control_estimates = comparison_sentence("control_kl_last", controls, ".3g")
    claims = [
        Claim(
            name="outputs-differ",
            estimate=mean("kl_last"),
            at_least=floor,
            reference=floor,
            control="the fine-tuned model against itself with other padding",
            text=(
                "Where the answer begins, the fine-tuned model's next token diverges from the"
                f" base's by {{value:.3g}} nats [{{low:.3g}}, {{high:.3g}}]{by_class} (rounding"
                " alone: about {control:.2g}), and the top token differs after {flips:.1%} of the"
                " prompts; over all tokens of the prompts the divergence is {all:.3g} nats a"
                f" token.{compared}"
            ),
            also={
                "flips": mean("flip_last"),
                "all": mean("kl"),
                **class_estimates,
                **control_estimates,
            },
        )
    ]
    if not controls:
        claims.append(
            Claim(
                name="residual-stream-differs",
                estimate=mean("drift", **at_last_depth),
                at_least=0.0,
                text=cosine + "; no control was given to compare it with.",
                missing="give a control fine-tune with --control",
                also={"cosine": mean("cosine", **at_last_depth)},
            )
        )
    else:
        control_name = f"{of_controls} on the same prompts"
        claims += [
            Claim(
                name="beyond-control",
                estimate=mean("kl_last", minus={"column": "control_kl_last"}),
                at_least=0.0,
                reference=mean("control_kl_last"),
                control=control_name,
                text=(
                    "That is {value:.3g} nats more [{low:.3g}, {high:.3g}] than"
                    f" {controls_phrase(controls, '.3g')}."
                ),
                also=control_range("kl_last"),
            ),
            beyond_new_control(
                "beyond-new-control", mean("kl_last"), "kl_last", controls, "the divergence", ".3g"
            ),
            Claim(
                name="drifts-beyond-control",
                estimate=mean("drift", minus={"column": "control_drift"}, **at_last_depth),
                at_least=0.0,
                reference=mean("control_drift", **at_last_depth),
                control=control_name,
                text=cosine
                + " (one minus that is {value:+.3g} [{low:+.3g}, {high:+.3g}] more than for the"
                " control" + ("s)." if controls > 1 else ")."),
                also={"cosine": mean("cosine", **at_last_depth)},
            ),
            beyond_new_control(
                "drifts-beyond-new-control",
                mean("drift", **at_last_depth),
                "drift",
                controls,
                "one minus the cosine",
                ".3g",
            ),
        ]
    if classes == 2:
        claims.append(
            Claim(
                name="more-on-positive",
                estimate=mean("kl_last", where=positive, minus={"where": negative}),
                at_least=0.0,
                reference=mean("kl_last", where=negative),
                control="negative prompts",
                text=(
                    "On positive prompts they diverge by {value:.3g} nats more [{low:.3g},"
                    " {high:.3g}] than on negative ones (mean length {long:.1f} and {short:.1f}"
                    " tokens)."
                ),
                also={
                    "long": mean("tokens", where=positive),
                    "short": mean("tokens", where=negative),
                },
            )
        )
    if classes == 2 and controls:
        claims += [
            Claim(
                name="more-on-positive-beyond-control",
                estimate=mean("kl_last_beyond", where=positive, minus={"where": negative}),
                at_least=0.0,
                reference=statistic("mean", "more_on_positive", table=TABLE),
                control=f"the same difference of {of_controls}",
                text=(
                    "This difference is {value:.3g} nats larger [{low:.3g}, {high:.3g}] than that"
                    f" {controls_phrase(controls, '.3g')}."
                ),
                also=control_range("more_on_positive"),
            ),
            beyond_new_control(
                "more-on-positive-beyond-new-control",
                mean("kl_last", where=positive, minus={"where": negative}),
                "more_on_positive",
                controls,
                "the difference between positive and negative prompts",
                ".3g",
            ),
        ]
    return claims
