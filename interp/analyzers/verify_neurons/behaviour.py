"""The first claim: there is a behaviour to locate."""

import numpy as np

from interp.analyzers.verify_neurons.evidence import Evidence
from interp.claims import Claim
from interp.maths.statistics import clustered_bootstrap, clustered_rise, clustered_share
from interp.study import Study

BEHAVIOUR = 0.1  # how much more often the tuned model must show it


def behaviour(study: Study, evidence: Evidence) -> Claim:
    """The tuned model shows the behaviour on positive prompts more than the base does (else: than on negative ones).

    Beside it the same on negative prompts; of a task, whose right answers only positive prompts have, the same with its
    answers shuffled among the prompts.
    """
    words = study.metric.words
    tuned, still = evidence.get("tuned", "positive"), evidence.get("tuned", "negative")
    clusters, seed = study.prompts("positive").clusters, study.seed
    if evidence.has_base:
        base = {group: evidence.get("base", group) for group in ("positive", "negative")}
        value, low, high = clustered_rise(tuned.shown, base["positive"].shown, clusters, seed)
        than, control = "than the base", "the same difference on negative prompts"
        null = clustered_rise(still.shown, base["negative"].shown, study.prompts("negative").clusters, seed)
        if tuned.chance is not None:
            control = "the same difference with the right answers shuffled among the prompts"
            null = clustered_bootstrap(tuned.chance - base["positive"].chance, clusters, seed=seed)
        minus = {"minus": {"where": {"group": "positive", "condition": "base"}}}
    elif tuned.chance is not None:
        value, low, high = clustered_share(tuned.shown, clusters, seed=seed)
        null = clustered_bootstrap(tuned.chance, clusters, seed=seed)
        than, control, minus = "than none", "the same with the right answers shuffled among the prompts", {}
    else:
        other = study.prompts("negative").clusters
        value, low, high = clustered_bootstrap(
            tuned.shown, clusters, seed=seed, minus=still.shown, minus_clusters=other
        )
        mine, theirs = (
            clustered_share(tuned.shown, clusters, seed=seed),
            clustered_share(still.shown, other, seed=seed),
        )
        low, high = float(np.fmin(low, mine[1] - theirs[2])), float(np.fmax(high, mine[2] - theirs[1]))
        null, than, control = (0.0, 0.0, 0.0), "than negative ones", "no difference"
        minus = {"minus": {"where": {"group": "negative", "condition": "tuned"}}}
    where = {"group": "positive", "condition": "tuned"}
    return Claim(
        "behaviour",
        f"The tuned model {words.verb.format(share=f'{tuned.shown.mean():.1%}')}, {value:+.1%} more {than}.",
        value, low, high, control, *null, float("nan"), BEHAVIOUR, "at least",
        value >= BEHAVIOUR and low > max(0.0, null[2]),
        {"table": "answers", "statistic": "mean", "column": words.column, "cluster": "cluster",
         "where": where, **minus, "beyond": [0.0, "control_high"]},
    )  # fmt: skip
