"""A hand-made verifying run whose claims follow from its tables, and its locating run: small,
stored at will.

Their kinds are no real ones: figures of those need more columns.
"""

import numpy as np

from interp.claims import Claim, Draws, conclude, mean, statistic
from interp.provenance import Provenance
from interp.provenance.request import CommandRequest
from interp.table import table

COMMAND = CommandRequest(
    command="locate-neurons",
    arguments=["tuned"],
    options={
        "--base": "base",
        "--positive": "yes.txt",
        "--negative": "no.txt",
        "--verify-positive": "held-yes.txt",
        "--verify-negative": "held-no.txt",
    },
)


def located(selected=(0, 1, 2), command=COMMAND):
    """The locating run: 3 of 8 neurons."""
    columns = {
        "layer": ([0, 0, 0, 0, 1, 1, 1, 1], "key", "block"),
        "neuron": ([0, 1, 2, 3] * 2, "key", "neuron"),
        "score": (np.linspace(1, 0, 8), "measure", "score", "nats"),
        "selected": (np.isin(np.arange(8), selected), "flag", "selected"),
    }
    summary = {"sentence": "3 of 8 neurons.", "selected": len(selected), "unit": "neuron"}
    made = Provenance(
        "locate-neurons", 1, {"top": "3"}, None, {"prompts": "a", "seed": 0}, context(command)
    )
    return table("located", columns, summary=summary, provenance=made)


def context(command, positive="held-yes.txt"):
    environment = {"interp": "0", "torch": "2"}
    if command:
        environment["request"] = command.to_json()
    return {
        "base": "base",
        "tuned": "tuned",
        "positive": positive,
        "device": "cpu",
        "environment": environment,
    }


def verified(
    rate=1.0,
    n=40,
    command=COMMAND,
    prompts="b",
    positive="held-yes.txt",
    most=0.5,
    control=True,
    **changes,
):
    """The verifying run: ``rate`` of ``n`` answers become the base's, next to 19 draws of a null."""
    hits = np.arange(n) < round(rate * n)
    clusters = np.array([f"c{at}" for at in range(n)], object)
    null = np.linspace(0, 0.1, 19)
    where = {"table": "answers", "where": {"condition": "ablate-base"}}
    null_of = {
        "null": Draws("random", "effect"),
        "control": "19 random sets" if control else "none",
    }
    made = [
        Claim(
            name="necessity",
            estimate=mean("matches_base", **where),
            at_least=most,
            text="They return {value:.1%}.",
            **null_of,
        ),
        Claim(
            name="spread",
            estimate=statistic("mean", "effect", table="random", spread="range"),
            at_most=0.2,
            beyond=[0.2],
            reference=0.05,
            control="19 random sets",
            text="How far apart.",
        ),
        Claim(
            name="lost",
            estimate=mean("other", **where),
            at_most=0.02,
            text="{value:.1%} are others.",
        ),
    ]
    answers = {
        "condition": (["ablate-base"] * n, "key", "condition"),
        "prompt_id": (np.arange(n), "key", "prompt"),
        "cluster": (clusters, "key", "cluster"),
        "matches_base": (hits, "flag", "as the base"),
        "other": (~hits, "flag", "otherwise"),
    }
    provenance = Provenance(
        "verify-neurons",
        1,
        {"random_sets": 19},
        located().provenance.key,
        {"prompts": prompts, "seed": 0} | changes,
        context(command, positive),
    )
    run = table(
        "verified",
        {
            "condition": (["ablate-base"], "key", "condition"),
            "matches_base": ([rate], "measure", ""),
        },
        summary={"selected": 3},
        provenance=provenance,
        tables={
            "answers": table("asked", answers),
            "random": table("drawn", {"effect": (null, "measure", "effect")}),
        },
    )
    return conclude(run, made, lead=f"They return {hits.mean():.1%}.", supported=True)
