"""Tables and claims of a comparison."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from interp.analyzers.compare.compute import DEPTHS, GroupComparison
from interp.claims import Claim, mean, statistic
from interp.claims.control_fine_tunes import (
    TABLE,
    beyond_new_control,
    comparison_sentence,
    control_range,
    controls_phrase,
)
from interp.maths.alignment import cka_interval, debiased_cka
from interp.maths.intervals import cluster_interval
from interp.models.changes import TensorChange
from interp.study import Study
from interp.table import ZERO_OR_ONE, Table, as_binary, table

NAN = float("nan")
MEANINGS = {
    "cosine": "cosine of both models' streams, mean over tokens",
    "norm_ratio": "norm of the fine-tuned model's stream over the base's, mean over tokens",
    "lens_kl": "KL of the logit lenses at the last token, fine-tuned || base",
    "lens_flip": "the lenses' top tokens differ, at the last token",
    "base_to_end": "KL of the base's final output || its lens at this depth",
    "tuned_to_end": "KL of the fine-tuned model's final output || its lens at this depth",
}
UNITS = {"lens_flip": ZERO_OR_ONE}


def prompt_columns(
    results: Sequence[GroupComparison], controls: Sequence[Sequence[GroupComparison]]
) -> dict[str, tuple]:
    """One row per prompt: divergence and changes of the top token, as mean over tokens and at the
    last.
    """
    prompts = [prompt for part in results for prompt in part.prompts]
    columns = {
        "group": (
            [part.group for part in results for _ in part.prompts],
            "key",
            "class of the prompt",
        ),
        "prompt_id": (
            np.array([p.id for p in prompts]),
            "key",
            "position in the prompt file, from 0",
        ),
        "cluster": ([p.cluster for p in prompts], "key", "prompts that depend on each other"),
        "tokens": (
            [len(ids) for part in results for ids in part.ids],
            "measure",
            "tokens of the prompt",
        ),
        "kl": (
            np.concatenate([part.kl for part in results]),
            "measure",
            "KL of the next token, fine-tuned || base, mean over tokens",
            "nats",
        ),
        "kl_last": (_at_last_token(results, "kl"), "measure", "the same at the last token", "nats"),
        "flips": (
            np.concatenate([part.flips for part in results]),
            "measure",
            "share of tokens at which the top next tokens differ",
        ),
        "flip_last": (
            _at_last_token(results, "flip"),
            "measure",
            "1 where they differ at the last token",
            ZERO_OR_ONE,
        ),
    }
    if controls:
        of_controls = _of_controls(controls)
        columns["control_kl"] = (
            _mean_over(np.concatenate([p.kl for p in c]) for c in controls),
            "measure",
            f"kl {of_controls}, control || base",
            "nats",
        )
        columns["control_kl_last"] = (
            _mean_over(_at_last_token(c, "kl") for c in controls),
            "measure",
            f"kl_last {of_controls}",
            "nats",
        )
        beyond = columns["kl_last"][0] - columns["control_kl_last"][0]
        columns["kl_last_beyond"] = (beyond, "measure", "kl_last minus control_kl_last", "nats")
        columns["control_flips"] = (
            _mean_over(np.concatenate([p.flips for p in c]) for c in controls),
            "measure",
            f"flips {of_controls}",
        )
    return columns


def control_columns(controls: Sequence[Sequence[GroupComparison]]) -> dict[str, tuple]:
    """One row per control: means over all prompts, and with two classes the difference between
    them.
    """
    drifts = [
        1 - np.concatenate([part.depths["cosine"][:, -1] for part in control]).mean()
        for control in controls
    ]
    classes: dict[str, tuple] = {}
    if all(len(control) == 2 for control in controls):
        differences = [
            _at_last_token(c[:1], "kl").mean() - _at_last_token(c[1:], "kl").mean()
            for c in controls
        ]
        classes["more_on_positive"] = (
            differences,
            "measure",
            "mean of kl_last on positive minus negative prompts",
            "nats",
        )
    return classes | {
        "kl": (
            [np.concatenate([p.kl for p in c]).mean() for c in controls],
            "measure",
            "mean of control_kl",
            "nats",
        ),
        "kl_last": (
            [_at_last_token(c, "kl").mean() for c in controls],
            "measure",
            "mean of control_kl_last",
            "nats",
        ),
        "flips": (
            [np.concatenate([p.flips for p in c]).mean() for c in controls],
            "measure",
            "mean of control_flips",
        ),
        "drift": (drifts, "measure", "one minus the mean cosine after the last block"),
    }


def _of_controls(controls: Sequence) -> str:
    return "of the control" if len(controls) == 1 else f"mean of {len(controls)} controls"


def _mean_over(parts: Iterable[np.ndarray]) -> np.ndarray:
    return np.mean(list(parts), 0)


def _at_last_token(parts: Sequence[GroupComparison], name: str) -> np.ndarray:
    return np.array([float(each[name][-1]) for part in parts for each in part.tokens])


def depth_table(
    study: Study, results: Sequence[GroupComparison], controls: Sequence[Sequence[GroupComparison]]
) -> tuple[Table, Table]:
    """One row per prompt and depth, and one per depth with intervals over clusters."""
    n_depths = results[0].depths["cosine"].shape[1]
    prompts = [(part.group, prompt) for part in results for prompt in part.prompts]
    numbers = {name: np.concatenate([part.depths[name] for part in results]) for name in DEPTHS}
    control_numbers = {
        name: (
            _mean_over(np.concatenate([part.depths[name] for part in one]) for one in controls)
            if controls
            else None
        )
        for name in DEPTHS
    }
    columns = {
        "group": (
            [group for group, _ in prompts for _ in range(n_depths)],
            "key",
            "class of the prompt",
        ),
        "prompt_id": (
            np.repeat([p.id for _, p in prompts], n_depths),
            "key",
            "position in the prompt file, from 0",
        ),
        "cluster": (
            [p.cluster for _, p in prompts for _ in range(n_depths)],
            "key",
            "prompts that depend on each other",
        ),
        "depth": (
            np.tile(np.arange(n_depths), len(prompts)),
            "key",
            "blocks that the stream has passed",
        ),
        **{
            name: (numbers[name].ravel(), "measure", MEANINGS[name], UNITS.get(name, ""))
            for name in DEPTHS
        },
        "drift": (1 - numbers["cosine"].ravel(), "measure", "one minus the cosine"),
    }
    if (cosine := control_numbers["cosine"]) is not None:
        columns["control_drift"] = (
            1 - cosine.ravel(),
            "measure",
            f"the same {_of_controls(controls)}",
        )
    clusters = [prompt.cluster for _, prompt in prompts]
    layers: dict[str, tuple] = {
        "depth": (np.arange(n_depths), "key", "blocks that the stream has passed")
    }
    for name in DEPTHS:
        triples = [
            cluster_interval(as_binary(own, UNITS.get(name, "")), clusters)
            for own in numbers[name].T
        ]
        for suffix, index in (("", 0), ("_low", 1), ("_high", 2)):
            meaning = {"": "", "_low": "lower end of: ", "_high": "upper end of: "}[
                suffix
            ] + MEANINGS[name]
            layers[name + suffix] = (
                np.array([each[index] for each in triples]),
                "measure",
                meaning,
            )
        if (control_values := control_numbers[name]) is not None:
            layers[f"control_{name}"] = (
                control_values.mean(0),
                "measure",
                f"{_of_controls(controls)}: {MEANINGS[name]}",
            )
    layers |= _alignment_columns(study, results, "")
    if controls:
        alignments = [_alignment_columns(study, control, "control_") for control in controls]
        layers |= {
            name: (
                join([one[name][0] for one in alignments], axis=0),
                "measure",
                f"{_of_controls(controls)}: {said[2]}",
            )
            for (name, said), join in zip(
                alignments[0].items(), (np.mean, np.min, np.max, np.mean), strict=True
            )
        }
    return table("compare-drift", columns), table("compare-layers", layers)


def _alignment_columns(
    study: Study, results: Sequence[GroupComparison], prefix: str
) -> dict[str, tuple]:
    clusters = [part.prompts[row].cluster for part in results for row in part.rows]
    base, tuned = (np.concatenate([part.sample[side] for part in results]) for side in (0, 1))
    depths = range(base.shape[1])
    triples = np.array([cka_interval(base[:, d], tuned[:, d], clusters) for d in depths])
    meaning = f"linear CKA of the streams over {len(base)} tokens"
    columns = {
        f"{prefix}cka": (triples[:, 0], "measure", meaning),
        f"{prefix}cka_low": (triples[:, 1], "measure", f"lower end of: {meaning}"),
        f"{prefix}cka_high": (triples[:, 2], "measure", f"upper end of: {meaning}"),
    }
    debiased = np.array([debiased_cka(base[:, d], tuned[:, d]) for d in depths])
    return columns | {
        f"{prefix}cka_debiased": (
            debiased,
            "measure",
            f"{meaning}, corrected for the bias of few rows",
        )
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
            follow = [
                decode([int(numbers[name][position])]) for name in ("base_next", "tuned_next")
            ]
            kl, flip = float(numbers["kl"][position]), bool(numbers["flip"][position])
            rows.append(
                (part.group, part.prompts[row].id, position, decode([token]), kl, flip, *follow)
            )
    about = {
        "group": ("key", "class of the prompt"),
        "prompt_id": ("key", "position in the prompt file, from 0"),
        "position": ("key", "token of the prompt, from 0"),
        "token": ("text", "the token"),
        "kl": ("measure", "KL of the next token, fine-tuned || base", "nats"),
        "flip": ("flag", "the top next tokens differ"),
        "base_next": ("text", "top next token in the base"),
        "tuned_next": ("text", "top next token in the fine-tuned model"),
    }
    values = zip(*rows, strict=True)
    return table(
        "compare-tokens",
        {n: (list(v), *said) for (n, said), v in zip(about.items(), values, strict=True)},
    )


def weight_table(changes: Sequence[TensorChange], *controls: Sequence[TensorChange]) -> Table:
    """One row per tensor, with the controls' mean change of it."""
    columns = {
        "layer": ([each.layer for each in changes], "key", "block, -1 outside the blocks"),
        "part": ([each.part for each in changes], "key", "matrix, or name of the tensor"),
        "size": ([each.size for each in changes], "measure", "number of elements"),
        "norm": ([each.norm for each in changes], "measure", "its Euclidean norm in the base"),
        "change": ([each.change for each in changes], "measure", "Euclidean norm of its change"),
        "relative": (
            [_relative(each) for each in changes],
            "measure",
            "change over norm; 0 where nothing changed",
        ),
        "share": (
            [each.share for each in changes],
            "measure",
            "share of its elements that changed",
        ),
    }
    if controls:
        control_changes = [
            {(each.layer, each.part): _relative(each) for each in control} for control in controls
        ]
        control_relative = [
            float(np.mean([one.get((each.layer, each.part), NAN) for one in control_changes]))
            for each in changes
        ]
        columns["control_relative"] = (
            control_relative,
            "measure",
            f"{_of_controls(controls)}: change over norm; NaN where it has no such tensor",
        )
    return table("compare-weights", columns)


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
    class_means = {
        "positive": mean("kl_last", where=positive),
        "negative": mean("kl_last", where=negative),
    }
    has_two_classes = classes == 2
    by_class, class_estimates = (
        ", {positive:.3g} on positive and {negative:.3g} on negative prompts" * has_two_classes,
        class_means if has_two_classes else {},
    )
    cosine = (
        "After the last block the cosine of both models' residual streams is {cosine:.3g} on"
        " average"
    )
    compared, control_estimates = comparison_sentence("control_kl_last", controls, ".3g")
    claims = [
        Claim(
            name="speaks-otherwise",
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
                name="stream-drifts",
                estimate=mean("drift", **at_last_depth),
                at_least=0.0,
                text=cosine + "; no control was given to compare it with.",
                missing="give a control fine-tune with --control",
                also={"cosine": mean("cosine", **at_last_depth)},
            )
        )
    else:
        control_name = (
            "the control fine-tune on the same prompts"
            if controls == 1
            else (f"the mean of {controls} control fine-tunes on the same prompts")
        )
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
        difference = mean("kl_last_beyond", where=positive, minus={"where": negative})
        claims += [
            Claim(
                name="more-on-positive-beyond-control",
                estimate=difference,
                at_least=0.0,
                reference=statistic("mean", "more_on_positive", table=TABLE),
                control="the same difference of "
                + (
                    "the control fine-tune"
                    if controls == 1
                    else f"the mean of {controls} control fine-tunes"
                ),
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
