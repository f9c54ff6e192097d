"""Tables and claims of a comparison."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from interp.analyzers.compare.compute import DEPTHS, Read
from interp.claims import Claim, mean, statistic
from interp.claims.control_fine_tunes import TABLE, beyond_new, ends, on_average, opening
from interp.maths.alignment import cka_interval, debiased_cka
from interp.maths.intervals import cluster_interval
from interp.models.changes import Change
from interp.study import Study
from interp.table import ZERO_OR_ONE, Table, as_counted, table

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


def prompt_columns(found: Sequence[Read], controls: Sequence[Sequence[Read]]) -> dict[str, tuple]:
    """One row per prompt: divergence and changes of the top token, as mean over tokens and at the
    last.
    """
    prompts = [prompt for part in found for prompt in part.prompts]
    columns = {
        "group": (
            [part.group for part in found for _ in part.prompts],
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
            [len(ids) for part in found for ids in part.ids],
            "measure",
            "tokens of the prompt",
        ),
        "kl": (
            np.concatenate([part.kl for part in found]),
            "measure",
            "KL of the next token, fine-tuned || base, mean over tokens",
            "nats",
        ),
        "kl_last": (_last(found, "kl"), "measure", "the same at the last token", "nats"),
        "flips": (
            np.concatenate([part.flips for part in found]),
            "measure",
            "share of tokens at which the top next tokens differ",
        ),
        "flip_last": (
            _last(found, "flip"),
            "measure",
            "1 where they differ at the last token",
            ZERO_OR_ONE,
        ),
    }
    if controls:
        of = _of(controls)
        columns["control_kl"] = (
            _mean(np.concatenate([p.kl for p in c]) for c in controls),
            "measure",
            f"kl {of}, control || base",
            "nats",
        )
        columns["control_kl_last"] = (
            _mean(_last(c, "kl") for c in controls),
            "measure",
            f"kl_last {of}",
            "nats",
        )
        beyond = columns["kl_last"][0] - columns["control_kl_last"][0]
        columns["kl_last_beyond"] = (beyond, "measure", "kl_last minus control_kl_last", "nats")
        columns["control_flips"] = (
            _mean(np.concatenate([p.flips for p in c]) for c in controls),
            "measure",
            f"flips {of}",
        )
    return columns


def control_columns(controls: Sequence[Sequence[Read]]) -> dict[str, tuple]:
    """One row per control: means over all prompts, and with two classes the difference between
    them.
    """
    drifts = [
        1 - np.concatenate([part.depths["cosine"][:, -1] for part in control]).mean()
        for control in controls
    ]
    classes: dict[str, tuple] = {}
    if all(len(control) == 2 for control in controls):
        more = [_last(c[:1], "kl").mean() - _last(c[1:], "kl").mean() for c in controls]
        classes["more_on_positive"] = (
            more,
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
            [_last(c, "kl").mean() for c in controls],
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


def _of(controls: Sequence) -> str:
    return "of the control" if len(controls) == 1 else f"mean of {len(controls)} controls"


def _mean(parts: Iterable[np.ndarray]) -> np.ndarray:
    return np.mean(list(parts), 0)


def _last(parts: Sequence[Read], name: str) -> np.ndarray:
    return np.array([float(each[name][-1]) for part in parts for each in part.tokens])


def depth_table(
    study: Study, found: Sequence[Read], controls: Sequence[Sequence[Read]]
) -> tuple[Table, Table]:
    """One row per prompt and depth, and one per depth with intervals over clusters."""
    n_depths = found[0].depths["cosine"].shape[1]
    prompts = [(part.group, prompt) for part in found for prompt in part.prompts]
    numbers = {name: np.concatenate([part.depths[name] for part in found]) for name in DEPTHS}
    theirs = {
        name: (
            _mean(np.concatenate([part.depths[name] for part in one]) for one in controls)
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
    if (cosine := theirs["cosine"]) is not None:
        columns["control_drift"] = (1 - cosine.ravel(), "measure", f"the same {_of(controls)}")
    clusters = [prompt.cluster for _, prompt in prompts]
    layers: dict[str, tuple] = {
        "depth": (np.arange(n_depths), "key", "blocks that the stream has passed")
    }
    for name in DEPTHS:
        triples = [
            cluster_interval(as_counted(own, UNITS.get(name, "")), clusters)
            for own in numbers[name].T
        ]
        for end, place in (("", 0), ("_low", 1), ("_high", 2)):
            said = {"": "", "_low": "lower end of: ", "_high": "upper end of: "}[end] + MEANINGS[
                name
            ]
            layers[name + end] = (np.array([each[place] for each in triples]), "measure", said)
        if (other := theirs[name]) is not None:
            layers[f"control_{name}"] = (
                other.mean(0),
                "measure",
                f"{_of(controls)}: {MEANINGS[name]}",
            )
    layers |= _aligned(study, found, "")
    if controls:
        each = [_aligned(study, control, "control_") for control in controls]
        layers |= {
            name: (
                join([one[name][0] for one in each], axis=0),
                "measure",
                f"{_of(controls)}: {said[2]}",
            )
            for (name, said), join in zip(
                each[0].items(), (np.mean, np.min, np.max, np.mean), strict=True
            )
        }
    return table("compare-drift", columns), table("compare-layers", layers)


def _aligned(study: Study, found: Sequence[Read], prefix: str) -> dict[str, tuple]:
    clusters = [part.prompts[row].cluster for part in found for row in part.rows]
    base, other = (np.concatenate([part.sample[side] for part in found]) for side in (0, 1))
    depths = range(base.shape[1])
    triples = np.array([cka_interval(base[:, d], other[:, d], clusters) for d in depths])
    said = f"linear CKA of the streams over {len(base)} tokens"
    columns = {
        f"{prefix}cka": (triples[:, 0], "measure", said),
        f"{prefix}cka_low": (triples[:, 1], "measure", f"lower end of: {said}"),
        f"{prefix}cka_high": (triples[:, 2], "measure", f"upper end of: {said}"),
    }
    fair = np.array([debiased_cka(base[:, d], other[:, d]) for d in depths])
    return columns | {
        f"{prefix}cka_debiased": (fair, "measure", f"{said}, corrected for the bias of few rows")
    }


def token_table(study: Study, found: Sequence[Read], most: int) -> Table:
    """One row per token, at most about ``most``: of the first prompt of every cluster, then of the
    second, and so on.
    """
    decode, rows = study.pair.tokenizer.decode, []
    orders = [(part, study.prompts(part.group).over_clusters()) for part in found]
    for row, part in (
        (order[at], part)
        for at in range(max(len(order) for _, order in orders))
        for part, order in orders
        if at < len(order)
    ):
        if len(rows) + len(part.ids[row]) > most and rows:
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


def weight_table(own: Sequence[Change], *controls: Sequence[Change]) -> Table:
    """One row per tensor, with the controls' mean change of it."""
    columns = {
        "layer": ([each.layer for each in own], "key", "block, -1 outside the blocks"),
        "part": ([each.part for each in own], "key", "matrix, or name of the tensor"),
        "size": ([each.size for each in own], "measure", "number of elements"),
        "norm": ([each.norm for each in own], "measure", "its Euclidean norm in the base"),
        "change": ([each.change for each in own], "measure", "Euclidean norm of its change"),
        "relative": (
            [_relative(each) for each in own],
            "measure",
            "change over norm; 0 where nothing changed",
        ),
        "share": ([each.share for each in own], "measure", "share of its elements that changed"),
    }
    if controls:
        theirs = [
            {(each.layer, each.part): _relative(each) for each in control} for control in controls
        ]
        beside = [
            float(np.mean([one.get((each.layer, each.part), NAN) for one in theirs]))
            for each in own
        ]
        columns["control_relative"] = (
            beside,
            "measure",
            f"{_of(controls)}: change over norm; NaN where it has no such tensor",
        )
    return table("compare-weights", columns)


def _relative(each: Change) -> float:
    return each.change / each.norm if each.norm else float(each.change > 0)


def claims_of(last: int, floor: float, controls: int, classes: int) -> list[Claim]:
    """Claims: divergence beyond rounding, beyond the controls and a new control, and larger on
    positive prompts.

    ``last``: depth after the last block. ``floor``: divergence of the model from itself, in nats.
    """
    end = {"table": "drift", "where": {"depth": last}}
    positive, negative = {"group": "positive"}, {"group": "negative"}
    both = {
        "positive": mean("kl_last", where=positive),
        "negative": mean("kl_last", where=negative),
    }
    two = classes == 2
    by_class, each = (
        ", {positive:.3g} on positive and {negative:.3g} on negative prompts" * two,
        both if two else {},
    )
    cosine = (
        "After the last block the cosine of both models' residual streams is {cosine:.3g} on"
        " average"
    )
    compared, theirs = opening("control_kl_last", controls, ".3g")
    made = [
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
            also={"flips": mean("flip_last"), "all": mean("kl"), **each, **theirs},
        )
    ]
    if not controls:
        made.append(
            Claim(
                name="stream-drifts",
                estimate=mean("drift", **end),
                at_least=0.0,
                text=cosine + "; no control was given to compare it with.",
                missing="give a control fine-tune with --control",
                also={"cosine": mean("cosine", **end)},
            )
        )
    else:
        control_name = (
            "the control fine-tune on the same prompts"
            if controls == 1
            else (f"the mean of {controls} control fine-tunes on the same prompts")
        )
        made += [
            Claim(
                name="beyond-control",
                estimate=mean("kl_last", minus={"column": "control_kl_last"}),
                at_least=0.0,
                reference=mean("control_kl_last"),
                control=control_name,
                text=(
                    "That is {value:.3g} nats more [{low:.3g}, {high:.3g}] than"
                    f" {on_average(controls, '.3g')}."
                ),
                also=ends("kl_last"),
            ),
            beyond_new(
                "beyond-new-control", mean("kl_last"), "kl_last", controls, "the divergence", ".3g"
            ),
            Claim(
                name="drifts-beyond-control",
                estimate=mean("drift", minus={"column": "control_drift"}, **end),
                at_least=0.0,
                reference=mean("control_drift", **end),
                control=control_name,
                text=cosine
                + " (one minus that is {value:+.3g} [{low:+.3g}, {high:+.3g}] more than for the"
                " control" + ("s)." if controls > 1 else ")."),
                also={"cosine": mean("cosine", **end)},
            ),
            beyond_new(
                "drifts-beyond-new-control",
                mean("drift", **end),
                "drift",
                controls,
                "one minus the cosine",
                ".3g",
            ),
        ]
    if classes == 2:
        made.append(
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
        less = mean("kl_last_beyond", where=positive, minus={"where": negative})
        made += [
            Claim(
                name="more-on-positive-beyond-control",
                estimate=less,
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
                    f" {on_average(controls, '.3g')}."
                ),
                also=ends("more_on_positive"),
            ),
            beyond_new(
                "more-on-positive-beyond-new-control",
                mean("kl_last", where=positive, minus={"where": negative}),
                "more_on_positive",
                controls,
                "the difference between positive and negative prompts",
                ".3g",
            ),
        ]
    return made
