"""From evidence to claims: what each is compared with, and the smallest effect that could have been
seen.
"""

from __future__ import annotations

import numpy as np

from interp.analyzers.dictionary_probe.compute import ABLATE
from interp.analyzers.dictionary_probe.tables import BASE, OWN, Evidence, InterventionResult
from interp.claims import ALPHA, Claim, Draws, auc, literal, mean, statistic
from interp.maths.statistics import smallest_effect

EFFECT, LEAST, MALFORMED, BOUND = 0.5, 0.25, 0.02, 0.1
"""Share of answers that have to return, what its interval has to exclude; broken answers, and their
interval.
"""
SMALLEST = 0.01
"""Of the unchanged number's size: what moves less is no effect, however sure that it is not 0."""
CONFIRMING = ("predicts", "ablation-lowers")
"""The run supports its latents where a claim of each kind is supported."""


def claims_of(found: Evidence) -> list[Claim]:
    """Every claim with its estimate, its control and its threshold."""
    made = [_predicts(found, k) for k in found.k]
    if (BASE, found.k[-1]) in found.probes.found:
        made.append(_tuning_adds(found))
    for one in found.tried:
        if one.moved is None:
            continue
        made.append(_moves(found, one))
        if one.how == ABLATE and one.back is not None and one.changed.any():
            made.append(_returns(one))
        if one.how == ABLATE and one.base is not None:
            made.append(_malformed(one))
    return made


def limits_of(found: Evidence) -> list[str]:
    """What was not done, and what the numbers do not say."""
    untried = [one for one in found.tried if one.moved is None]
    return [
        *(f"Nothing was confirmed of the {one.name} latents: {one.why}." for one in untried),
        *(
            []
            if found.held.require_metric().applies("negative")
            else ["Nothing was steered: the metric is of positive prompts only."]
        ),
        "Classes of prompts are what is predicted, whatever the model answers to each.",
        (
            "A latent that predicts can be a companion of what causes; ablation and steering are"
            " the test of that, at every token of prompt and answer."
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
        f"{k} latent{'s' * (k > 1)} tell{'s' * (k == 1)} the classes apart with a held-out AUC of"
        " {value:.3f} [{low:.3f}, {high:.3f}] (permuted labels {control_low:.3f} to"
        " {control_high:.3f}, "
        + "; ".join(f"{name} {{{label}:.3f}}" for label, name in labels.items())
        + ")."
    )
    seen = _seen(
        found.probes.found[OWN, k].null, "an AUC above {smallest:.3f}", found.level, "permutations"
    )
    return Claim(
        name=f"predicts-{k}",
        estimate=auc(
            "score", {**where, "group": "positive"}, {**where, "group": "negative"}, table="scores"
        ),
        at_least=0.5,
        null=Draws("null", "auc", where, level=found.level),
        control=f"{draws} permutations of labels, each choosing among all latents",
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
    """The smallest effect that could have been seen, as a field, or how many draws could show one."""
    if np.isfinite(smallest_effect(null, level)):
        return f" The smallest that could have been seen is {unit}."
    return (
        f" {len(null)} {of} can show nothing; {int(np.ceil(1 / level - 1e-9)) - 1} at least are"
        " needed."
    )


def _tuning_adds(found: Evidence) -> Claim:
    k = found.k[-1]
    groups = [{"source": OWN, "k": int(k), "group": group} for group in ("positive", "negative")]
    return Claim(
        name="tuning-adds",
        estimate=auc("score", *groups, table="scores", minus={"column": "base_score"}),
        at_least=0.0,
        reference=auc("base_score", *groups, table="scores"),
        control="the same latents, fitted anew, in the base",
        text=(
            f"Read in the base, the same {k} give {{control:.3f}}: tuning adds {{value:+.3f}} "
            "({low:+.3f} to {high:+.3f})."
        ),
    )


def _moves(found: Evidence, one: InterventionResult) -> Claim:
    """Ablation lowers, steering raises: by more than random sets that fire as often."""
    words, ablated = found.held.require_metric().words, one.how == ABLATE
    count, number, unit = len(found.sets[one.name]), literal(words.number), literal(words.unit)
    verb = ("Giving the base's part to" if one.revert else "Ablating") if ablated else "Steering by"
    least = SMALLEST * float(np.abs(one.before).mean())
    where = {"set": one.name, "change": one.how}
    size = (
        f", contributions {one.size_ratio:.2f} times as large"
        if np.isfinite(one.size_ratio) and ablated
        else ""
    )
    text = (
        f"{verb} {count} {literal(one.name)} latent{'s' * (count > 1)}"
        f" {'lowers' if ablated else 'raises'} {number} of {'positive' if ablated else 'negative'}"
        f" prompts by {{value:.2f}} {unit} [{{low:.2f}}, {{high:.2f}}] ({{draws:d}} random sets:"
        " {control_low:.2f} to {control_high:.2f})."
    )
    return Claim(
        name=f"{'ablation-lowers' if ablated else 'steering-raises'}-{one.name}",
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
        control=f"{len(one.null)} random sets of latents that fire as often"
        + (size if ablated else ", pushed as far"),
        text=text,
        otherwise=(
            f"{text} More than {least:.2g} {unit} is required, {SMALLEST:.0%} of the unchanged"
            " number."
        )
        + _seen(one.null, f"above {{smallest:.2f}} {unit}"),
        also={"smallest": statistic("mean", "null_most", table="effects", where=where)},
    )


def _returns(one: InterventionResult) -> Claim:
    """How many of the answers in which tuning shows become the base's; p by the prompts that the
    random sets had.
    """
    where, rows = (
        {"set": one.name, "change": one.how},
        {"condition": one.name, "group": "positive", "changed": True},
    )
    observed = mean("matches_base", table="numbers", where=where)
    text = (
        "Of {changed:d} answers in which tuning shows, {value:.1%} [{low:.1%}, {high:.1%}]"
        " become the base's, token for token, and {lost:.1%} lose the behaviour (the base's"
        " answers under random sets: {control_low:.1%} to {control_high:.1%} on"
        f" {len(one.rows)} prompts, where these give {{observed:.1%}})."
    )
    return Claim(
        name=f"answers-equal-base-{one.name}",
        estimate=mean("matches_base", table="answers", where=rows),
        at_least=EFFECT,
        beyond=["control", LEAST],
        null=Draws("sets", "matches_base", where, observed=observed),
        control=f"{len(one.null_back)} random sets on {len(one.rows)} prompts",
        text=text,
        otherwise=f"{text} At least {EFFECT:.0%} are required, and more than random sets give.",
        also={
            "changed": statistic("count", "matches_base", table="answers", where=rows),
            "lost": statistic("mean", "lost", table="answers", where=rows),
            "observed": observed,
        },
    )


def _malformed(one: InterventionResult) -> Claim:
    rows, base = ({"condition": name, "group": "positive"} for name in (one.name, "base"))
    harmless = {"condition": one.name, "group": "negative"}
    return Claim(
        name=f"well-formed-{one.name}",
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
