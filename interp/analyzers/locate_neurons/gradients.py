"""Methods that use the gradient of the metric: ``integrated`` and variants, ``cross``,
``act-grad``.

F is the metric's number for a positive prompt (the log-odds of refusal at its last token, say), h a
neuron's activation, W its column of the down projection, c = h W its contribution to the residual
stream. Scores are means over prompts of sums over positions, in the metric's unit (nats), signed:
positive pushes towards refusal, or towards the right answer.

integrated         (c - c_base) . dF/dc, averaged over alpha on the path on which the MLP outputs of
                   *all* blocks move together from the base's (alpha 0) to the fine-tuned model's
                   (alpha 1) inside the fine-tuned model: integrated gradients (Sundararajan et al.
                   2017) on a joint path. Every block computes its c from the stream it gets, so a
                   neuron's score includes its effect through later blocks, as in an ablation.
                   Attributions of neurons and biases add up to F(1) - F(0).
integrated-fixed   the same with every c held at its value in the unchanged fine-tuned model, so
                   that a neuron's score is its effect on the logits directly or through attention,
                   without later MLPs.
integrated-zero    as integrated, from MLPs that write nothing instead of the base's; ``integrated``
                   does this where there is no base. It attributes everything the MLPs do, not only
                   what fine-tuning changed.
cross              the same difference times dF/dc in the unchanged fine-tuned model: one step,
                   near zero where the behaviour has saturated.
act-grad           h . dF/dh in the fine-tuned model; needs no base.

Heads are scored in the same way: z for h, the attention output projection for the down projection,
attention outputs for MLP outputs; a head's score is the sum over its channels.

The mean over alpha is taken by nested rules (``interp.maths.quadrature``). With ``steps`` auto all
prompts are run at the 7 nodes that include those of the rule of 3, then at those of 15 and 31,
until two successive rules agree about the scores: about which units are selected and about the
order of all. Completeness of the sums is no criterion, since wrong parts can add up. The decision
is made once for all prompts, on the mean scores, so that it does not depend on batches.
"""

import numpy as np

from interp.analyzers.locate_neurons.paths import Path, PathKind, Sums, bytes_per_token
from interp.analyzers.locate_neurons.scores import MethodOptions, Scores, position_mask
from interp.analyzers.locate_neurons.selection import Top
from interp.analyzers.locate_neurons.steps import AUTO, agreement, rules, sweeps
from interp.capture import make_batch
from interp.maths.moments import float64_sum
from interp.maths.precision import widen
from interp.maths.quadrature import END_POINT
from interp.rows import key, measure, rows_table
from interp.study import Study
from interp.table import JSON


class PathRow:
    """The ends of one prompt's path; the metric's columns are stored under its short name."""

    prompt_id: int = key("position in the prompt file, from 0")
    base: float = measure("number of the metric for the base", optional=True)
    start: float = measure(
        "number of the metric for the fine-tuned model at the start of the path: with the base's"
        " outputs of MLPs (or attention), or with units that write nothing"
    )
    end: float = measure("number of the metric for the fine-tuned model")
    attributed: float = measure(
        "sum of the attributions of all units and of the biases of their output matrices"
    )


def integrated(study: Study, options: MethodOptions) -> Scores:
    """Integrated gradients along the joint path of all MLP contributions, computed live, from the
    base's or zero.
    """
    return _contributions(study, options, "live", from_zero=study.pair.base is None)


def integrated_zero(study: Study, options: MethodOptions) -> Scores:
    """Integrated gradients along the joint path on which all MLP outputs grow from zero; needs no
    base.
    """
    return _contributions(study, options, "live", from_zero=True)


def integrated_fixed(study: Study, options: MethodOptions) -> Scores:
    """Integrated gradients along the straight path between the two models' MLP outputs; needs a
    base.
    """
    return _contributions(study, options, "fixed")


def cross(study: Study, options: MethodOptions) -> Scores:
    """Contribution difference times the gradient at the fine-tuned model; needs a base."""
    return _contributions(study, options, "none")


def activation_gradient(study: Study, options: MethodOptions) -> Scores:
    """Activation times gradient in the fine-tuned model; needs no base."""
    tuned = study.pair.tuned
    sites = [options.unit.site(layer) for layer in range(tuned.anatomy.n_layers)]
    encoded = study.decision_inputs("positive")
    sums = Sums.empty(tuned, options.unit, len(encoded))
    for rows in study.progress(
        study.batches(encoded, tuned, bytes_per_token(tuned, options.unit)), "act-grad"
    ):
        batch, roles = make_batch(encoded, rows, study.pad_id, tuned.device)
        aim = study.objective("positive", rows)
        run = study.engine.run(
            tuned,
            batch,
            reads=sites,
            gradients_at=sites,
            gradient_of=aim.function,
            keep=aim.keep,
            over=position_mask(roles, options.positions),
        )
        for part in run.parts:
            for layer, site in enumerate(sites):
                terms = widen(part.values[site][part.mask]) * widen(part.gradients[site][part.mask])
                sums.add(layer, float64_sum(terms), float64_sum(terms.abs()))
        sums.count += len(rows)
    score, floor = sums.finish()
    words = study.require_metric().labels
    return Scores(score, floor, f"activation times gradient of the {words.number}, {words.unit}")


def _contributions(
    study: Study, options: MethodOptions, kind: PathKind, from_zero: bool = False
) -> Scores:
    unit, words = options.unit, study.require_metric().labels
    path, level, steps_summary = _refine(study, options, kind, from_zero)
    sums = path.sums[level]
    score, floor = sums.finish()
    values = {**path.endpoints, "attributed": sums.total}
    gap = values["attributed"] - values["end"] + values["start"]
    has_base, short = "base" in values, words.short
    of_base: dict[str, JSON] = {}
    if has_base:
        of_base = {
            f"{short}_base": values["base"].mean(),
            f"{unit.part}_share": _share(values),
        }
    start = f"{short}_tuned_{'with_base' if has_base else 'without'}_{unit.part}_outputs"
    meaning = "from base to tuned" if has_base else f"from {unit.plural} that write nothing"
    prompt_ids = [prompt.id for prompt in study.prompts("positive")]
    return Scores(
        score,
        floor,
        f"share of the change of the {words.number} {meaning}, {words.unit}",
        tables={
            "paths": rows_table(
                PathRow,
                "attribution-paths",
                {"prompt_id": prompt_ids, **values},
                rename={
                    "base": f"{short}_base",
                    "start": f"{short}_start",
                    "end": f"{short}_tuned",
                },
                units=dict.fromkeys(("base", "start", "end", "attributed"), words.unit),
            )
        },
        summary={
            f"{short}_tuned": values["end"].mean(),
            "completeness_error": float(np.abs(gap).mean()),
            "attributed_to_biases": float(sums.total.mean() - score.sum()),
            **steps_summary,
            start: values["start"].mean(),
            **of_base,
        },
    )


def _refine(
    study: Study, options: MethodOptions, kind: PathKind, from_zero: bool
) -> tuple[Path, int, dict[str, JSON]]:
    """The path with its sums, refined until two rules agree about the scores; the index of the
    rule that is used, and its entries of the summary.
    """
    if kind == "none":
        path = Path(study, options, kind, from_zero, [END_POINT])
        path.run_nodes(END_POINT.nodes)
        return path, 0, {}
    all_rules = rules(options.steps)
    path, level, agreed = Path(study, options, kind, from_zero, all_rules), 0, None
    for rule, nodes in sweeps(options.steps, all_rules):
        path.run_nodes(nodes)
        level = all_rules.index(rule)
        if level:
            coarse, fine = (path.sums[at].finish() for at in (level - 1, level))
            agreed = agreement(coarse, fine, Top.parse(options.top))
            if agreed.is_sufficient:
                break
    return (
        path,
        level,
        {
            "steps": len(all_rules[level]),
            "steps_at_cap": options.steps == AUTO and not (agreed and agreed.is_sufficient),
            "steps_jaccard": agreed and agreed.jaccard,
            "steps_spearman": agreed and agreed.spearman,
        },
    )


def _share(values: dict[str, np.ndarray]) -> float | None:
    """Share of the metric's rise that goes through MLP outputs; None where the rise is within its
    error.
    """
    rise, through = values["end"] - values["base"], (values["end"] - values["start"]).mean()
    # a share outside 0 to 1, or of a rise within its own error, is not reported
    clear = rise.mean() > 2 * rise.std() / max(len(rise) - 1, 1) ** 0.5
    share = float(through / rise.mean()) if clear else float("nan")
    return share if -0.005 <= share <= 1.005 else None
