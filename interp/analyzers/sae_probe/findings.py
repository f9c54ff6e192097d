"""Claims about probes and interventions, with their nulls and minimum detectable effects."""

from __future__ import annotations

import numpy as np

from interp.analyzers.sae_probe.compute import ABLATE
from interp.analyzers.sae_probe.tables import BASE, OWN, Evidence, InterventionResult
from interp.claims import ALPHA, Claim, Draws, auc, literal, mean, statistic
from interp.maths.statistics import smallest_effect

EFFECT, LEAST, MALFORMED, BOUND = 0.5, 0.25, 0.02, 0.1
"""Required share of answers that become the base's and what its interval has to exclude; malformed
answers, and the bound of their interval.
"""
SMALLEST = 0.01
"""Minimum effect as a share of the unedited metric, even if an effect is significant."""
CONFIRMING = ("predicts", "ablation-lowers")
"""The run is supported if a claim of each kind is supported."""


def claims_of(found: Evidence) -> list[Claim]:
    """All claims, each with its estimate, control and threshold."""
    made = [_predicts(found, k) for k in found.k]
    if (BASE, found.k[-1]) in found.probes.found:
        made.append(_tuning_adds(found))
    for result in found.tried:
        if result.moved is None:
            continue
        made.append(_moves(found, result))
        if result.how == ABLATE and result.back is not None and result.changed.any():
            made.append(_returns(result))
        if result.how == ABLATE and result.base is not None:
            made.append(_malformed(result))
    return made


def limits_of(found: Evidence) -> list[str]:
    """What was not measured, and limitations of the numbers."""
    untried = [result for result in found.tried if result.moved is None]
    return [
        *(
            f"The {result.name} latents were not tested causally: {result.why}."
            for result in untried
        ),
        *(
            []
            if found.held.require_metric().applies("negative")
            else ["Steering was not measured: the metric applies to positive prompts only."]
        ),
        "Probes predict the class of a prompt, not the model's answer.",
        (
            "A predictive latent may only be correlated with the cause; ablation and steering,"
            " at every token of prompt and answer, test that."
        ),
    ]


def _predicts(found: Evidence, k: int) -> Claim:
    where = {"source": OWN, "k": int(k)}
    baselines = {
        name: size for name, size in found.probes.found if size == k and name not in (OWN, BASE)
    }
    labels = {f"baseline_{at}": name for at, name in enumerate(baselines)}
    draws = len(found.probes.found[OWN, k].null)
    text = (
        f"{k} latent{'s' * (k > 1)} predict{'s' * (k == 1)} the class with a held-out AUC of"
        " {value:.3f} [{low:.3f}, {high:.3f}] (permuted labels {control_low:.3f} to"
        " {control_high:.3f}, "
        + "; ".join(f"{name} {{{label}:.3f}}" for label, name in labels.items())
        + ")."
    )
    seen = _seen(
        found.probes.found[OWN, k].null, "an AUC of {smallest:.3f}", found.level, "permutations"
    )
    return Claim(
        name=f"predicts-{k}",
        estimate=auc(
            "score", {**where, "group": "positive"}, {**where, "group": "negative"}, table="scores"
        ),
        at_least=0.5,
        null=Draws("null", "auc", where, level=found.level),
        control=f"{draws} permutations of labels, each with selection among all latents",
        text=text,
        otherwise=text + seen,
        also={
            **{
                label: statistic("mean", "auc", where={"source": name, "k": int(k)})
                for label, name in labels.items()
            },
            "smallest": statistic("mean", "null_most", where=where),
        },
    )


def _seen(
    null: list[float] | np.ndarray, unit: str, level: float = ALPHA, of: str = "random sets"
) -> str:
    """The minimum detectable effect, as a field, or the number of draws that would be needed."""
    if np.isfinite(smallest_effect(null, level)):
        return f" The minimum detectable effect is {unit}."
    return (
        f" {len(null)} {of} are too few for a test; at least"
        f" {int(np.ceil(1 / level - 1e-9)) - 1} are needed."
    )


def _tuning_adds(found: Evidence) -> Claim:
    k = found.k[-1]
    groups = [{"source": OWN, "k": int(k), "group": group} for group in ("positive", "negative")]
    return Claim(
        name="tuning-adds",
        estimate=auc("score", *groups, table="scores", minus={"column": "base_score"}),
        at_least=0.0,
        reference=auc("base_score", *groups, table="scores"),
        control="the same latents, refitted, in the base",
        text=(
            f"Read in the base, the same {k} have an AUC of {{control:.3f}}: fine-tuning adds"
            f" {{value:+.3f}} "
            "({low:+.3f} to {high:+.3f})."
        ),
    )


def _moves(found: Evidence, result: InterventionResult) -> Claim:
    """Ablation lowers or steering raises the metric, by more than random sets with similar firing
    rates.
    """
    words, ablated = found.held.require_metric().words, result.how == ABLATE
    count, number, unit = len(found.sets[result.name]), literal(words.number), literal(words.unit)
    verb = ("Reverting to the base" if result.revert else "Ablating") if ablated else "Steering by"
    least = SMALLEST * float(np.abs(result.before).mean())
    where = {"set": result.name, "change": result.how}
    size = (
        f", contributions {result.size_ratio:.2f} times as large"
        if np.isfinite(result.size_ratio) and ablated
        else ""
    )
    text = (
        f"{verb} {count} {literal(result.name)} latent{'s' * (count > 1)}"
        f" {'lowers' if ablated else 'raises'} {number} of {'positive' if ablated else 'negative'}"
        f" prompts by {{value:.2f}} {unit} [{{low:.2f}}, {{high:.2f}}] ({{draws:d}} random sets:"
        " {control_low:.2f} to {control_high:.2f})."
    )
    return Claim(
        name=f"{'ablation-lowers' if ablated else 'steering-raises'}-{result.name}",
        estimate=(
            mean("effect", table="numbers", where=where)
            if not words.binary
            else mean(
                "plain" if ablated else "after",
                table="numbers",
                where=where,
                minus={"column": "after" if ablated else "plain"},
            )
        ),
        at_least=least,
        null=Draws("sets", "effect", where),
        control=f"{len(result.null)} random sets of latents with similar firing rates"
        + (size if ablated else ", steered by the same norm"),
        text=text,
        otherwise=(
            f"{text} More than {least:.2g} {unit} is required, {SMALLEST:.0%} of the unedited"
            " metric."
        )
        + _seen(result.null, f"{{smallest:.2f}} {unit}"),
        also={"smallest": statistic("mean", "null_most", table="effects", where=where)},
    )


def _returns(result: InterventionResult) -> Claim:
    """Share of changed answers that become the base's; p from the prompts on which random sets were
    tested.
    """
    where, rows = (
        {"set": result.name, "change": result.how},
        {"condition": result.name, "group": "positive", "changed": True},
    )
    observed = mean("matches_base", table="numbers", where=where)
    text = (
        "Of {changed:d} answers that fine-tuning changed, {value:.1%} [{low:.1%}, {high:.1%}]"
        " become the base's, token for token, and {lost:.1%} lose the behaviour (the base's"
        " answers under random sets: {control_low:.1%} to {control_high:.1%} on"
        f" {len(result.rows)} prompts, where these give {{observed:.1%}})."
    )
    return Claim(
        name=f"answers-equal-base-{result.name}",
        estimate=mean("matches_base", table="answers", where=rows),
        at_least=EFFECT,
        beyond=["control", LEAST],
        null=Draws("sets", "matches_base", where, observed=observed),
        control=f"{len(result.null_back)} random sets on {len(result.rows)} prompts",
        text=text,
        otherwise=f"{text} At least {EFFECT:.0%} are required, and more than with random sets.",
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
        at_most=MALFORMED,
        beyond=[BOUND],
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


__all__ = ["CONFIRMING", "claims_of", "limits_of"]
