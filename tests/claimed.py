"""A hand-made verifying run whose claims follow from its tables, and its locating run: small, stored at will.

Their kinds are no real ones: figures of those need more columns.
"""

import numpy as np

from interp.claims import Claim, to_table
from interp.maths.statistics import clustered_share, permutation_p
from interp.provenance import Provenance
from interp.table import table

NAN = float("nan")
COMMAND = ["locate-neurons", "tuned", "--base", "base", "--positive", "yes.txt", "--negative", "no.txt",
           "--verify-positive", "held-yes.txt", "--verify-negative", "held-no.txt"]  # fmt: skip


def located(selected=(0, 1, 2), command=COMMAND):
    """The locating run: 3 of 8 neurons."""
    columns = {
        "layer": ([0, 0, 0, 0, 1, 1, 1, 1], "key", "block"),
        "neuron": ([0, 1, 2, 3] * 2, "key", "neuron"),
        "score": (np.linspace(1, 0, 8), "measure", "score", "nats"),
        "selected": (np.isin(np.arange(8), selected), "flag", "selected"),
    }
    summary = {"sentence": "3 of 8 neurons.", "selected": len(selected), "unit": "neuron"}
    made = Provenance("locate-neurons", 1, {"top": "3"}, None, {"prompts": "a", "seed": 0}, context(command))
    return table("located", columns, summary=summary, provenance=made)


def context(command, positive="held-yes.txt"):
    environment = {"interp": "0", "torch": "2", **({"command": list(command)} if command else {})}
    return {"base": "base", "tuned": "tuned", "positive": positive, "device": "cpu", "environment": environment}


def verified(rate=1.0, n=40, command=COMMAND, prompts="b", positive="held-yes.txt", most=0.5, control=True, **changes):
    """The verifying run: ``rate`` of ``n`` answers become the base's, beside 19 draws of a null."""
    hits = np.arange(n) < round(rate * n)
    clusters = np.array([f"c{at}" for at in range(n)], object)
    null = np.linspace(0, 0.1, 19)
    value, low, high = clustered_share(hits, clusters, draws=200)
    p = permutation_p(value, null)
    where = {"condition": "ablate-base"}
    recipe = {"table": "answers", "statistic": "mean", "column": "equal_base", "where": where, "cluster": "cluster",
              "p": {"null": {"table": "random", "column": "effect", "where": {}},
                    "observed": {"table": "answers", "statistic": "mean", "column": "equal_base"}}}  # fmt: skip
    held = 1 - value
    beside = ("19 random sets", null.mean(), null.min(), null.max()) if control else ("none", NAN, NAN, NAN)
    claims = [
        Claim("necessity", f"They return {value:.1%}.", value, low, high, *beside, p if control else NAN, most,
              "at least", bool(low > most), recipe if control else {k: v for k, v in recipe.items() if k != "p"}),
        Claim("spread", "How far apart.", 0.05, 0.0, 0.1, "19 random sets", 0.05, 0.0, 0.1, NAN, 0.2, "at most", True,
              {"table": "random", "statistic": "mean", "column": "effect"}),
        Claim("lost", f"{held:.1%} are others.", held, 1 - high, 1 - low, "none", NAN, NAN, NAN, NAN, 0.02, "at most",
              False, {"table": "answers", "statistic": "mean", "column": "other", "cluster": "cluster"}),
    ]  # fmt: skip
    answers = {
        "condition": (["ablate-base"] * n, "key", "condition"), "prompt_id": (np.arange(n), "key", "prompt"),
        "cluster": (clusters, "key", "cluster"), "equal_base": (hits, "flag", "as the base"),
        "other": (~hits, "flag", "otherwise"),
    }  # fmt: skip
    made = Provenance("verify-neurons", 1, {"controls": 19}, located().provenance.key,
                      {"prompts": prompts, "seed": 0} | changes, context(command, positive))  # fmt: skip
    return table(
        "verified", {"condition": (["ablate-base"], "key", "condition"), "equal_base": ([value], "measure", "")},
        summary={"sentence": f"They return {value:.1%}.", "selected": 3, "shown": True}, provenance=made,
        tables={"answers": table("asked", answers), "claims": to_table(claims),
                "random": table("drawn", {"effect": (null, "measure", "effect")})},
    )  # fmt: skip
