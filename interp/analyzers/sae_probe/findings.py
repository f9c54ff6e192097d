"""Claims about probes and interventions, with their nulls and minimum detectable effects."""

from __future__ import annotations

import numpy as np

from interp.analyzers.sae_probe.compute import ABLATE
from interp.analyzers.sae_probe.evidence import BASE, DICTIONARY, Evidence, InterventionResult
from interp.claims import ALPHA, Claim, Draws, auc, escape_braces, mean, statistic
from interp.maths.statistics import minimum_detectable_effect

MIN_RETURNED, MIN_RETURNED_BOUND, MAX_MALFORMED, MAX_MALFORMED_BOUND = 0.5, 0.25, 0.02, 0.1
"""Required share of answers that become the base's and what its interval has to exclude; malformed
answers, and the bound of their interval.
"""
MIN_RELATIVE_EFFECT = 0.01
"""Minimum effect as a share of the unedited metric, even if an effect is significant."""
REQUIRED_CLAIMS = ("predicts", "ablation-lowers")
"""The run is supported if a claim of each kind is supported."""


def claims_of(evidence: Evidence) -> list[Claim]:
    """All claims, each with its estimate, control and threshold."""
    claims = [_predicts(evidence, k) for k in evidence.k]
    if (BASE, evidence.k[-1]) in evidence.probes.results:
        claims.append(_tuning_adds(evidence))
    for result in evidence.interventions:
        claims.append(_changes_metric(evidence, result))
        if result.change == ABLATE and "base" in evidence.unedited:
            if evidence.changed.any():
                claims.append(_restores_base_answers(result))
            claims.append(_malformed(result))
    return claims


def limits_of(evidence: Evidence) -> list[str]:
    """What was not measured, and limitations of the numbers."""
    return [
        *(
            f"The {name} latents were not tested causally: {reason}."
            for name, reason in evidence.untested.items()
        ),
        *(
            []
            if evidence.held.require_metric().applies("negative")
            else ["Steering was not measured: the metric applies to positive prompts only."]
        ),
        "Probes predict the class of a prompt, not the model's answer.",
        (
            "A predictive latent may only be correlated with the cause; ablation and steering,"
            " at every token of prompt and answer, test that."
        ),
    ]


def _predicts(evidence: Evidence, k: int) -> Claim:
    where = {"source": DICTIONARY, "k": int(k)}
    baselines = {
        name: size
        for name, size in evidence.probes.results
        if size == k and name not in (DICTIONARY, BASE)
    }
    labels = {f"baseline_{at}": name for at, name in enumerate(baselines)}
    draws = len(evidence.probes.results[DICTIONARY, k].null)
    text = (
        f"{k} latent{'s' * (k > 1)} predict{'s' * (k == 1)} the class with a held-out AUC of"
        " {value:.3f} [{low:.3f}, {high:.3f}] (permuted labels {control_low:.3f} to"
        " {control_high:.3f}, "
        + "; ".join(f"{name} {{{label}:.3f}}" for label, name in labels.items())
        + ")."
    )
    detectable = _detectable_effect(
        evidence.probes.results[DICTIONARY, k].null,
        "an AUC of {smallest:.3f}",
        evidence.level,
        "permutations",
    )
    return Claim(
        name=f"predicts-{k}",
        estimate=auc(
            "score", {**where, "group": "positive"}, {**where, "group": "negative"}, table="scores"
        ),
        at_least=0.5,
        null=Draws("null", "auc", where, level=evidence.level),
        control=f"{draws} permutations of labels, each with selection among all latents",
        text=text,
        otherwise=text + detectable,
        also={
            **{
                label: statistic("mean", "auc", where={"source": name, "k": int(k)})
                for label, name in labels.items()
            },
            "smallest": statistic("mean", "null_most", where=where),
        },
    )


def _detectable_effect(
    null: list[float] | np.ndarray, unit: str, level: float = ALPHA, draws: str = "random sets"
) -> str:
    """The minimum detectable effect, as a field, or the number of draws that would be needed."""
    if np.isfinite(minimum_detectable_effect(null, level)):
        return f" The minimum detectable effect is {unit}."
    return (
        f" {len(null)} {draws} are too few for a test; at least"
        f" {int(np.ceil(1 / level - 1e-9)) - 1} are needed."
    )


def _tuning_adds(evidence: Evidence) -> Claim:
    k = evidence.k[-1]
    groups = [
        {"source": DICTIONARY, "k": int(k), "group": group} for group in ("positive", "negative")
    ]
    return Claim(
        name="tuning-adds",
        estimate=auc("score", *groups, table="scores", minus={"column": "base_score"}),
        at_least=0.0,
        reference=auc("base_score", *groups, table="scores"),
        control="the same latents, refitted, in the base",
        text=(
            f"Read in the base, the same {k} have an AUC of {{control:.3f}}: fine-tuning adds"
            " {value:+.3f} "
            "({low:+.3f} to {high:+.3f})."
        ),
    )


def _changes_metric(evidence: Evidence, result: InterventionResult) -> Claim:
    """Ablation lowers or steering raises the metric, by more than random sets with similar firing
    rates.
    """
    metric_labels, is_ablation = evidence.held.require_metric().labels, result.change == ABLATE
    count, number, unit = (
        len(evidence.sets[result.name]),
        escape_braces(metric_labels.number),
        escape_braces(metric_labels.unit),
    )
    verb = (
        ("Reverting to the base" if result.revert else "Ablating") if is_ablation else "Steering by"
    )
    min_effect = MIN_RELATIVE_EFFECT * float(np.abs(result.unedited).mean())
    where = {"set": result.name, "change": result.change}
    size = (
        f", contributions {result.size_ratio:.2f} times as large"
        if np.isfinite(result.size_ratio) and is_ablation
        else ""
    )
    text = (
        f"{verb} {count} {escape_braces(result.name)} latent{'s' * (count > 1)}"
        f" {'lowers' if is_ablation else 'raises'} {number} of"
        f" {'positive' if is_ablation else 'negative'} prompts by {{value:.2f}} {unit}"
        " [{low:.2f}, {high:.2f}] ({draws:d} random sets: {control_low:.2f} to"
        " {control_high:.2f})."
    )
    return Claim(
        name=f"{'ablation-lowers' if is_ablation else 'steering-raises'}-{result.name}",
        estimate=(
            mean("effect", table="numbers", where=where)
            if not metric_labels.is_binary
            else mean(
                "plain" if is_ablation else "after",
                table="numbers",
                where=where,
                minus={"column": "after" if is_ablation else "plain"},
            )
        ),
        at_least=min_effect,
        null=Draws("sets", "effect", where),
        control=f"{len(result.null)} random sets of latents with similar firing rates"
        + (size if is_ablation else ", steered by the same norm"),
        text=text,
        otherwise=(
            f"{text} More than {min_effect:.2g} {unit} is required, {MIN_RELATIVE_EFFECT:.0%} of"
            " the unedited metric."
        )
        + _detectable_effect(result.null, f"{{smallest:.2f}} {unit}"),
        also={"smallest": statistic("mean", "null_most", table="effects", where=where)},
    )


def _restores_base_answers(result: InterventionResult) -> Claim:
    """Share of changed answers that become the base's; p from the prompts on which random sets were
    tested.
    """
    where, rows = (
        {"set": result.name, "change": result.change},
        {"condition": result.name, "group": "positive", "changed": True},
    )
    observed = mean("matches_base", table="numbers", where=where)
    text = (
        "Of {changed:d} answers that fine-tuning changed, {value:.1%} [{low:.1%},"
        " {high:.1%}] become the base's, token for token, and {lost:.1%} lose the behaviour"
        " (the base's answers under random sets: {control_low:.1%} to {control_high:.1%} on"
        f" {len(result.rows)} prompts, where these give {{observed:.1%}})."
    )
    return Claim(
        name=f"answers-equal-base-{result.name}",
        estimate=mean("matches_base", table="answers", where=rows),
        at_least=MIN_RETURNED,
        beyond=["control", MIN_RETURNED_BOUND],
        null=Draws("sets", "matches_base", where, observed=observed),
        control=f"{len(result.null_matches_base)} random sets on {len(result.rows)} prompts",
        text=text,
        otherwise=(
            f"{text} At least {MIN_RETURNED:.0%} are required, and more than with random sets."
        ),
        also={
            "changed": statistic("count", "matches_base", table="answers", where=rows),
            "lost": statistic("mean", "lost", table="answers", where=rows),
            "observed": observed,
        },
    )


def _malformed(result: InterventionResult) -> Claim:
    rows, base = ({"condition": name, "group": "positive"} for name in (result.name, "base"))
    harmless = {"condition": result.name, "group": "negative"}
    return Claim(
        name=f"well-formed-{result.name}",
        estimate=mean(
            "malformed", table="answers", where=rows, minus={"where": base}, pair="prompt_id"
        ),
        at_most=MAX_MALFORMED,
        beyond=[MAX_MALFORMED_BOUND],
        reference=mean("malformed", table="answers", where=base),
        control="the base's own rate",
        text=(
            "{malformed:.1%} of the answers under ablation are malformed, {value:+.1%} compared"
            " with the base's (at most {high:+.1%}); {same:.1%} of the answers to negative prompts"
            " stay the same."
        ),
        also={
            "malformed": statistic("mean", "malformed", table="answers", where=rows),
            "same": statistic("mean", "matches_tuned", table="answers", where=harmless),
        },
    )


__all__ = ["REQUIRED_CLAIMS", "claims_of", "limits_of"]
