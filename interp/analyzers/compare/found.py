"""Tables of a comparison, and what is claimed of them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from interp.analyzers.compare.passes import DEPTHS, Read
from interp.claims import Claim, mean
from interp.maths.alignment import cka_interval, debiased_cka
from interp.maths.intervals import cluster_interval
from interp.models.changes import Change
from interp.study import Study
from interp.table import ZERO_OR_ONE, Table, as_counted, table

NAN = float("nan")
MEANINGS = {
    "cosine": "of both models' streams, mean over tokens",
    "norm_ratio": "length of the tuned model's stream over the base's, mean over tokens",
    "lens_kl": "KL of the logit lenses at the last token, tuned || base",
    "lens_flip": "the lenses' first tokens differ, at the last token",
    "base_to_end": "KL of what the base says in the end || its lens here",
    "tuned_to_end": "KL of what the tuned model says in the end || its lens here",
}
UNITS = {"lens_flip": ZERO_OR_ONE}


def prompt_columns(found: Sequence[Read], sham: Sequence[Read] | None) -> dict[str, tuple]:
    """One row per prompt: divergence and flips, the mean over tokens and at the last."""
    prompts = [prompt for part in found for prompt in part.prompts]

    def last(parts: Sequence[Read], name: str) -> np.ndarray:
        return np.array([float(each[name][-1]) for part in parts for each in part.tokens])

    columns = {
        "group": ([part.group for part in found for _ in part.prompts], "key", "class of the prompt"),
        "prompt_id": (np.array([p.id for p in prompts]), "key", "position in the prompt file, from 0"),
        "cluster": ([p.cluster for p in prompts], "key", "prompts that depend on each other"),
        "tokens": ([len(ids) for part in found for ids in part.ids], "measure", "tokens of the prompt"),
        "kl": (np.concatenate([part.kl for part in found]), "measure", "KL of the next token, tuned || base, mean over "
               "tokens", "nats"),
        "kl_last": (last(found, "kl"), "measure", "the same at the last token", "nats"),
        "flips": (np.concatenate([part.flips for part in found]), "measure", "share of tokens with another first next "
                  "token"),
        "flip_last": (last(found, "flip"), "measure", "1 where it is another at the last token", ZERO_OR_ONE),
    }  # fmt: skip
    if sham is not None:
        columns["sham_kl"] = (np.concatenate([p.kl for p in sham]), "measure", "kl of the sham, sham || base", "nats")
        columns["sham_kl_last"] = (last(sham, "kl"), "measure", "kl_last of the sham", "nats")
        columns["sham_flips"] = (np.concatenate([p.flips for p in sham]), "measure", "flips of the sham")
    return columns


def depth_table(study: Study, found: Sequence[Read], sham: Sequence[Read] | None) -> tuple[Table, Table]:
    """Prompt by depth, and depth by depth with intervals over clusters."""
    n_depths = found[0].depths["cosine"].shape[1]
    prompts = [(part.group, prompt) for part in found for prompt in part.prompts]
    numbers = {name: np.concatenate([part.depths[name] for part in found]) for name in DEPTHS}
    theirs = None if sham is None else {name: np.concatenate([part.depths[name] for part in sham]) for name in DEPTHS}
    columns = {
        "group": ([group for group, _ in prompts for _ in range(n_depths)], "key", "class of the prompt"),
        "prompt_id": (np.repeat([p.id for _, p in prompts], n_depths), "key", "position in the prompt file, from 0"),
        "cluster": ([p.cluster for _, p in prompts for _ in range(n_depths)], "key", "dependent prompts"),
        "depth": (np.tile(np.arange(n_depths), len(prompts)), "key", "blocks that the stream has passed"),
        **{name: (numbers[name].ravel(), "measure", MEANINGS[name], UNITS.get(name, "")) for name in DEPTHS},
        "drift": (1 - numbers["cosine"].ravel(), "measure", "one minus the cosine"),
    }
    if theirs is not None:
        columns["sham_drift"] = (1 - theirs["cosine"].ravel(), "measure", "the same of the sham")
    clusters = [prompt.cluster for _, prompt in prompts]
    layers: dict[str, tuple] = {"depth": (np.arange(n_depths), "key", "blocks that the stream has passed")}
    for name in DEPTHS:
        triples = [cluster_interval(as_counted(own, UNITS.get(name, "")), clusters) for own in numbers[name].T]
        for end, place in (("", 0), ("_low", 1), ("_high", 2)):
            said = {"": "", "_low": "lower end of: ", "_high": "upper end of: "}[end] + MEANINGS[name]
            layers[name + end] = (np.array([each[place] for each in triples]), "measure", said)
        if theirs is not None:
            layers[f"sham_{name}"] = (theirs[name].mean(0), "measure", f"of the sham: {MEANINGS[name]}")
    layers |= _aligned(study, found, "")
    if sham is not None:
        layers |= _aligned(study, sham, "sham_")
    return table("compare-drift", columns), table("compare-layers", layers)


def _aligned(study: Study, found: Sequence[Read], prefix: str) -> dict[str, tuple]:
    clusters = [part.prompts[row].cluster for part in found for row in part.rows]
    base, other = (np.concatenate([part.sample[side] for part in found]) for side in (0, 1))
    depths = range(base.shape[1])
    triples = np.array([cka_interval(base[:, d], other[:, d], clusters) for d in depths])
    said = f"{'of the sham: ' if prefix else ''}linear CKA of the streams over {len(base)} tokens"
    columns = {
        f"{prefix}cka": (triples[:, 0], "measure", said),
        f"{prefix}cka_low": (triples[:, 1], "measure", f"lower end of: {said}"),
        f"{prefix}cka_high": (triples[:, 2], "measure", f"upper end of: {said}"),
    }
    fair = np.array([debiased_cka(base[:, d], other[:, d]) for d in depths])
    return columns | {f"{prefix}cka_debiased": (fair, "measure", f"{said}, without bias from few rows")}


def token_table(study: Study, found: Sequence[Read], most: int) -> Table:
    """One row per token of the first prompts of every cluster, then of the second ones, classes in turn."""
    decode, rows = study.pair.tokenizer.decode, []
    orders = [(part, study.prompts(part.group).over_clusters()) for part in found]
    for row, part in ((order[at], part) for at in range(max(len(order) for _, order in orders))
                      for part, order in orders if at < len(order)):  # fmt: skip
        if len(rows) + len(part.ids[row]) > most and rows:
            break
        numbers = part.tokens[row]
        for position, token in enumerate(part.ids[row]):
            follow = [decode([int(numbers[name][position])]) for name in ("base_next", "tuned_next")]
            kl, flip = float(numbers["kl"][position]), bool(numbers["flip"][position])
            rows.append((part.group, part.prompts[row].id, position, decode([token]), kl, flip, *follow))
    about = {
        "group": ("key", "class of the prompt"), "prompt_id": ("key", "position in the prompt file, from 0"),
        "position": ("key", "token of the prompt, from 0"), "token": ("text", "the token"),
        "kl": ("measure", "KL of the next token, tuned || base", "nats"),
        "flip": ("flag", "another token comes first"), "base_next": ("text", "first next token in the base"),
        "tuned_next": ("text", "first next token in the tuned model"),
    }  # fmt: skip
    values = zip(*rows, strict=True)
    return table("compare-tokens", {n: (list(v), *said) for (n, said), v in zip(about.items(), values, strict=True)})


def weight_table(own: Sequence[Change], sham: Sequence[Change] = ()) -> Table:
    """One row per tensor, beside the sham's change of it."""
    columns = {
        "layer": ([each.layer for each in own], "key", "block, -1 outside of blocks"),
        "part": ([each.part for each in own], "key", "matrix, or name of the tensor"),
        "size": ([each.size for each in own], "measure", "numbers in it"),
        "norm": ([each.norm for each in own], "measure", "its Euclidean norm in the base"),
        "change": ([each.change for each in own], "measure", "Euclidean norm of its change"),
        "relative": ([_relative(each) for each in own], "measure", "change over norm; 0 where nothing changed"),
        "share": ([each.share for each in own], "measure", "share of its numbers that changed"),
    }
    if sham:
        theirs = {(each.layer, each.part): _relative(each) for each in sham}
        beside = [theirs.get((each.layer, each.part), NAN) for each in own]
        columns["sham_relative"] = (beside, "measure", "of the sham: change over norm; NaN where it has no such tensor")
    return table("compare-weights", columns)


def _relative(each: Change) -> float:
    return each.change / each.norm if each.norm else float(each.change > 0)


def claims_of(last: int, floor: float, sham: bool, classes: int) -> list[Claim]:
    """Beyond rounding, beyond the sham, and (of two classes) more on one than on the other.

    ``last``: depth after the last block. ``floor``: divergence of the model from itself, in nats.
    """
    end = {"table": "drift", "where": {"depth": last}}
    positive, negative = {"group": "positive"}, {"group": "negative"}
    both = {"positive": mean("kl_last", where=positive), "negative": mean("kl_last", where=negative)}
    two = classes == 2
    by_class, each = (", {positive:.3g} on positive and {negative:.3g} on negative prompts" * two, both if two else {})
    cosine = "After the last block the cosine of both models' residual streams is {cosine:.3g} on average"
    made = [
        Claim(
            name="speaks-otherwise",
            estimate=mean("kl_last"),
            at_least=floor,
            reference=floor,
            control="the fine-tuned model and itself, by arithmetic of another shape",
            text="Where the answer begins, the fine-tuned model's next token diverges from the base's by {value:.3g} "
            f"nats [{{low:.3g}}, {{high:.3g}}]{by_class} (rounding alone: about {{control:.2g}}), and another token "
            "comes first after {flips:.1%} of the prompts; over all tokens of the prompts the divergence is {all:.3g} "
            "nats a token.",
            also={"flips": mean("flip_last"), "all": mean("kl"), **each},
        )
    ]
    if not sham:
        made.append(
            Claim(
                name="stream-drifts",
                estimate=mean("drift", **end),
                at_least=0.0,
                text=cosine + "; no control was given to compare it with.",
                missing="give a control fine-tune with --sham",
                also={"cosine": mean("cosine", **end)},
            )
        )
    else:
        made += [
            Claim(
                name="beyond-sham",
                estimate=mean("kl_last", minus={"column": "sham_kl_last"}),
                at_least=0.0,
                reference=mean("sham_kl_last"),
                control="the control fine-tune on the same prompts",
                text="That is {value:.3g} nats more [{low:.3g}, {high:.3g}] than of the control ({control:.3g}).",
            ),
            Claim(
                name="drifts-beyond-sham",
                estimate=mean("drift", minus={"column": "sham_drift"}, **end),
                at_least=0.0,
                reference=mean("sham_drift", **end),
                control="the control fine-tune on the same prompts",
                text=cosine + " (one minus that is {value:+.3g} [{low:+.3g}, {high:+.3g}] more than of the control).",
                also={"cosine": mean("cosine", **end)},
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
                text="On positive prompts they diverge by {value:.3g} nats more [{low:.3g}, {high:.3g}] than "
                "on negative ones (mean length {long:.1f} and {short:.1f} tokens).",
                also={"long": mean("tokens", where=positive), "short": mean("tokens", where=negative)},
            )
        )
    return made
