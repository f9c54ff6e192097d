"""From evidence to claims: what was shown beside its null, and what was not, with the smallest effect to be seen."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from interp.analyzers.dictionary_probe.passes import ABLATE
from interp.analyzers.dictionary_probe.rows import BASE, NAN, OWN, Evidence, Tried
from interp.claims import ALPHA, Claim
from interp.maths.statistics import (
    clustered_bootstrap,
    clustered_rise,
    clustered_share,
    permutation_p,
    roc_auc,
    smallest_effect,
)

EFFECT, LEAST, MALFORMED, BOUND = 0.5, 0.25, 0.02, 0.1
"""Share of answers that have to return, what its interval has to exclude; broken answers, and their interval."""
SMALLEST = 0.01
"""Of the unchanged number's size: what moves less is no effect, however sure that it is not 0."""

RESAMPLES = 500


@dataclass(frozen=True)
class Findings:
    """Claims, the sentence, the verdict, and what has to be said besides."""

    claims: list[Claim]
    sentence: str
    shown: bool
    limits: list[str]


def find(found: Evidence) -> Findings:
    """State every finding as a claim with its interval, its control and its threshold."""
    made, limits = [_predicts(found, k) for k in found.k], []
    if (BASE, found.k[-1]) in found.probes.found:
        made.append(_tuning_adds(found))
    for one in found.tried:
        if one.moved is None:
            limits.append(f"Nothing was confirmed of the {one.name} latents: {one.why}.")
            continue
        made.append(_moves(found, one))
        if one.how == ABLATE and one.back is not None:
            made += _returns(found, one)
        if one.how == ABLATE and one.base is not None:
            made.append(_malformed(found, one))
    if not found.held.metric.applies("negative"):
        limits.append("Nothing was steered: the metric is of positive prompts only.")
    limits += [
        "Classes of prompts are what is predicted, whatever the model answers to each.",
        "A latent that predicts can be a companion of what causes; ablation and steering are the test of that, at "
        "every token of prompt and answer.",
    ]
    missing = [claim for claim in made if not claim.shown]
    said = [claim.sentence for claim in made]
    if missing:
        said.append(f"Not shown: {', '.join(claim.name for claim in missing)}.")
    verdict = {kind: any(c.shown and c.name.startswith(kind) for c in made) for kind in ("predicts", "ablation-lowers")}
    return Findings(made, " ".join(said + [line for line in limits if "confirmed" in line]),
                    all(verdict.values()), limits)  # fmt: skip


def _seen(null: list[float] | np.ndarray, unit: str, level: float = ALPHA, of: str = "random sets") -> str:
    least = smallest_effect(null, level)
    return f" The smallest that could have been seen is {unit.format(least)}." if np.isfinite(least) else (
        f" {len(null)} {of} can show nothing; {int(np.ceil(1 / level - 1e-9)) - 1} at least are needed."
    )  # fmt: skip


def _predicts(found: Evidence, k: int) -> Claim:
    one, level = found.probes.found[OWN, k], ALPHA / len(found.k)
    beside = [f"{name} {other.auc:.3f}" for (name, size), other in found.probes.found.items()
              if size == k and name not in (OWN, BASE)]  # fmt: skip
    shown = bool(one.p <= level and one.low > 0.5)
    null = (float(np.quantile(one.null, 0.025)), float(np.quantile(one.null, 0.975)))
    where = {"source": OWN, "k": int(k)}
    return Claim(
        f"predicts-{k}",
        f"{k} latent{'s' * (k > 1)} tell{'s' * (k == 1)} the classes apart with a held-out AUC of {one.auc:.3f} "
        f"(permuted labels {null[0]:.3f} to {null[1]:.3f}, {'; '.join(beside)})."
        + ("" if shown else _seen(one.null, "an AUC above {:.3f}", level, "permutations")),
        one.auc, one.low, one.high, f"{len(one.null)} permutations of labels, each choosing among all latents",
        one.null.mean(), *null, one.p, 0.5, "at least", shown,
        {"table": "", "statistic": "mean", "column": "auc", "where": where,
         "p": {"null": {"table": "null", "column": "auc", "where": where}, "at_most": level,
               "observed": {"table": "", "statistic": "mean", "column": "auc", "where": where}}},
    )  # fmt: skip


def _tuning_adds(found: Evidence) -> Claim:
    k = found.k[-1]
    own, base = found.probes.found[OWN, k], found.probes.found[BASE, k]
    labels, held = found.probes.labels, np.flatnonzero(~own.training)

    def gap(drawn: np.ndarray) -> float:
        at = drawn.astype(int)
        return roc_auc(labels[at], own.scores[at]) - roc_auc(labels[at], base.scores[at])

    value, low, high = clustered_bootstrap(held, found.probes.clusters[held], gap, draws=RESAMPLES)
    shown = bool(low > 0)
    where = {"source": OWN, "k": int(k)}
    return Claim(
        "tuning-adds",
        f"Read in the base, the same {k} give {base.auc:.3f}: tuning adds {value:+.3f} ({low:+.3f} to {high:+.3f}).",
        value, low, high, "the same latents, fitted anew, in the base", base.auc, base.low, base.high, NAN, 0.0,
        "at least", shown,
        {"table": "", "statistic": "mean", "column": "auc", "where": where,
         "minus": {"where": {"source": BASE, "k": int(k)}}},
    )  # fmt: skip


def _moves(found: Evidence, one: Tried) -> Claim:
    """Ablation lowers, steering raises: by more than random sets that fire as often."""
    words, clusters = found.held.metric.words, _clusters(found, one)
    value, low, high = clustered_bootstrap(one.moved, clusters, seed=found.study.seed)
    p = permutation_p(value, one.null)
    null = (float(np.quantile(one.null, 0.025)), float(np.quantile(one.null, 0.975)))
    ablated = one.how == ABLATE
    count = len(found.sets[one.name])
    verb = ("Giving the base's part to" if one.revert else "Ablating") if ablated else "Steering by"
    what = f"{verb} {count} {one.name} latent{'s' * (count > 1)}"
    least = SMALLEST * float(np.abs(one.plain).mean())
    shown = bool(low > least and p <= ALPHA)
    where = {"set": one.name, "change": one.how}
    size = f", contributions {one.size_ratio:.2f} times as large" if np.isfinite(one.size_ratio) and ablated else ""
    return Claim(
        f"{'ablation-lowers' if ablated else 'steering-raises'}-{one.name}",
        f"{what} {'lowers' if ablated == (value >= 0) else 'raises'} {words.number} "
        f"of {'positive' if ablated else 'negative'} prompts by {abs(value):.2f} {words.unit} "
        f"({len(one.null)} random sets: {null[0]:.2f} to {null[1]:.2f})."
        + ("" if shown else f" More than {least:.2g} {words.unit} is asked, {SMALLEST:.0%} of what it is unchanged."
           + _seen(one.null, f"above {{:.2f}} {words.unit}")),
        value, low, high,
        f"{len(one.null)} random sets of latents that fire as often" + (size if ablated else ", pushed as far"),
        float(np.mean(one.null)), *null, p, least, "at least", shown,
        {"table": "numbers", "statistic": "mean", "column": "effect", "where": where, "cluster": "cluster",
         "p": {"null": {"table": "sets", "column": "effect", "where": where},
               "observed": {"table": "numbers", "statistic": "mean", "column": "effect", "where": where}}},
    )  # fmt: skip


def _returns(found: Evidence, one: Tried) -> list[Claim]:
    """How many of the answers in which tuning shows become the base's; p by the prompts that the random sets had."""
    changed = one.own.shown & ~one.own.equal_base
    if not changed.any():
        return []
    clusters = np.array(found.held.prompts("positive").clusters, object)[changed]
    value, low, high = clustered_share(one.judged.equal_base[changed], clusters, seed=found.study.seed)
    drawn, observed = np.array(one.null_back), float(one.back.mean())
    null, p = (float(np.quantile(drawn, 0.025)), float(np.quantile(drawn, 0.975))), permutation_p(observed, drawn)
    shown = bool(value >= EFFECT and p <= ALPHA and low > max(null[1], LEAST))
    lost = float((~one.judged.shown & ~one.judged.malformed)[changed].mean())
    where, on = {"set": one.name, "change": one.how}, {"condition": one.name, "group": "positive", "changed": True}
    return [Claim(
        f"answers-equal-base-{one.name}",
        f"Of {int(changed.sum())} answers in which tuning shows, {value:.1%} become the base's, token for token, and "
        f"{lost:.1%} lose the behaviour (the base's answers under random sets: {null[0]:.1%} to {null[1]:.1%})."
        + ("" if shown else f" At least {EFFECT:.0%} are asked, and more than random sets give."),
        value, low, high,
        f"{len(drawn)} random sets on {len(one.rows)} prompts, where these give {observed:.1%}", float(drawn.mean()),
        *null, p, EFFECT, "at least", shown,
        {"table": "answers", "statistic": "mean", "column": "equal_base", "where": on, "cluster": "cluster",
         "beyond": ["control_high", LEAST],
         "p": {"null": {"table": "sets", "column": "equal_base", "where": where},
               "observed": {"table": "numbers", "statistic": "mean", "column": "equal_base", "where": where}}},
    )]  # fmt: skip


def _malformed(found: Evidence, one: Tried) -> Claim:
    clusters = found.held.prompts("positive").clusters
    value, low, high = clustered_rise(one.judged.malformed, one.base.malformed, clusters, found.study.seed)
    before = clustered_share(one.base.malformed, clusters, seed=found.study.seed)
    on = {"condition": one.name, "group": "positive"}
    return Claim(
        f"well-formed-{one.name}",
        f"{one.judged.malformed.mean():.1%} of the answers under ablation are malformed, {value:+.1%} over the base's "
        f"(at most {high:+.1%}); {1 - one.harmless.equal_tuned.mean():.1%} of the answers to negative prompts change.",
        value, low, high, "the base's own rate", *before, NAN, MALFORMED, "at most",
        value <= MALFORMED and high <= BOUND,
        {"table": "answers", "statistic": "mean", "column": "malformed", "where": on, "cluster": "cluster",
         "beyond": [BOUND], "minus": {"where": {"condition": "base", "group": "positive"}}},
    )  # fmt: skip


def _clusters(found: Evidence, one: Tried) -> np.ndarray:
    prompts = found.held.prompts("positive" if one.how == ABLATE else "negative").prompts
    return np.array([prompts[row].cluster for row in one.rows], object)
