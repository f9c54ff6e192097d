"""Hand-made tables of every kind the analyzers make, small and with known contents, for store, figures and page."""

import numpy as np

from interp.claims import Claim, to_table
from interp.provenance import Provenance
from interp.table import Table, table

LAYERS, NEURONS = 4, 64
HOSTILE = ("<script>alert(1)</script>", '<img src=x onerror="alert(1)">', "</script><!--", "{{x}} %{y} <b>&amp;</b>")


def provenance(analyzer="locate-neurons", seed=0, parent=None, **context):
    inputs = {
        "base": "11" * 32,
        "tuned": "22" * 32,
        "prompts": "33" * 32,
        "seed": seed,
        "dtype": "float32",
        "attention": "sdpa",
        "metric": {"name": "refusal log-odds", "markers": ["I cannot", "sorry"]},
    }
    context = {
        "base": "organism:refusal/base",
        "tuned": "organism:refusal/<planted>",
        "device": "cpu",
        "positive": "harmful.txt",
        "negative": "harmless.txt",
        "n_positive": 60,
        "n_negative": 60,
        "torch": "2.13.0",
        "started": "2026-01-02T03:04:05+00:00",
        "seconds": 12.5,
        **context,
    }
    return Provenance(analyzer, 1, {"method": "integrated", "top": "0.5%"}, parent, inputs, context)


def mixed(rows=5, **rest):
    """Every type a column may have, with the values that stores lose most easily."""
    floats = np.resize([0.1, np.nan, np.inf, -np.inf, -0.0], rows)
    texts = np.resize(np.array(["", "é😀\u202e", "nul\0", "\n\t\"'", HOSTILE[0]], dtype=object), rows)
    return table(
        "mixed",
        {
            "id": (np.arange(rows) - 2**62, "key", "row"),
            "name": (texts, "key", "name"),
            "double": (floats, "measure", "float64", "nats"),
            "single": (floats.astype(np.float32), "measure", "float32"),
            "count": (np.arange(rows), "measure", "int64"),
            "flag": (np.arange(rows) % 2 == 0, "flag", "bool"),
            "text": (texts, "text", "text"),
        },
        **rest,
    )


def located(method="integrated", hostile=False, seed=0) -> Table:
    generator = np.random.default_rng(seed)
    score = generator.normal(0, 0.02, (LAYERS, NEURONS))
    score[1:3, :5] += generator.uniform(0.5, 1.5, (2, 5))
    score[3, 7] = -0.8
    score = score.ravel()
    rank = np.empty(score.size, np.int64)
    rank[np.argsort(-score)] = np.arange(1, score.size + 1)
    layer, neuron = np.divmod(np.arange(score.size), NEURONS)
    summary = {
        "sentence": "10 of 256 MLP neurons carry the refusal" + (f" {HOSTILE[0]}" if hostile else "."),
        "method": method,
        "n_selected": 10,
        "n_neurons": score.size,
        "top": "10",
        "positive": 60,
        "negative": 60,
        "elapsed": 12.5,
    }
    return table(
        "locate-neurons",
        {
            "layer": (layer, "key", "block, from 0"),
            "neuron": (neuron, "key", "MLP neuron, from 0"),
            "score": (score, "measure", "attribution of the refusal log-odds", "nats"),
            "rank": (rank, "measure", "1 is the highest score"),
            "selected": (rank <= 10, "flag", "within --top"),
        },
        summary=summary,
        provenance=provenance(seed=seed),
        tables={"tokens": tokens(layer, neuron, rank, hostile)},
    )


def tokens(layer, neuron, rank, hostile=False) -> Table:
    words = [*HOSTILE, "bomb", " recipe"] if hostile else ["bomb", " recipe", "é", "\n", " the", "Ġx"]
    rows = {
        name: []
        for name in (
            "layer",
            "neuron",
            "rank",
            "order",
            "prompt_id",
            "group",
            "position",
            "token",
            "before",
            "after",
            "value",
        )
    }
    for best in np.argsort(rank)[:6]:
        for order in range(4):
            values = (
                layer[best],
                neuron[best],
                rank[best],
                order,
                order * 7,
                ("positive", "negative")[order % 2],
                order + 3,
                words[(best + order) % len(words)],
                "how do I make a ",
                " at home, please?",
                3.0 - order / 2,
            )
            for name, value in zip(rows, values, strict=True):
                rows[name].append(value)
    roles = {"group": "key", "token": "text", "before": "text", "after": "text", "value": "measure"}
    return table("neuron-tokens", {name: (values, roles.get(name, "key"), name) for name, values in rows.items()})


def dose(hostile=False) -> Table:
    generator = np.random.default_rng(0)
    rows = []
    for direction in ("necessity", "sufficiency"):
        for k in (1, 2, 4, 8, 16, 32, 64):
            effect = k**2 / (k**2 + (60 if direction == "necessity" else 300))
            rows.append((direction, k, "located", 0, effect, 1 - effect, max(effect - 0.06, 0), min(effect + 0.06, 1)))
            rows += [
                (direction, k, "random", draw, e := generator.uniform(0, 0.004 * k), 1 - e, np.nan, np.nan)
                for draw in range(1, 21)
            ]
    names = ("direction", "k", "source", "draw", "effect", "refused", "low", "high")
    roles = dict.fromkeys(("direction", "k", "source", "draw"), "key")
    return table(
        "dose",
        {
            name: (list(values), roles.get(name, "measure"), name)
            for name, values in zip(names, zip(*rows, strict=True), strict=True)
        },
    )


def claims(hostile=False):
    nan = float("nan")
    recipe = {
        "table": "answers",
        "where": {"condition": "ablate-base", "group": "positive"},
        "statistic": "mean",
        "column": "equal_base",
    }
    return (
        Claim(
            "necessity.base",
            "Giving 10 neurons their base contributions back returns 95 % of the base's answers"
            + (HOSTILE[1] if hostile else "")
            + ".",
            0.95,
            0.9,
            0.99,
            "200 matched random sets",
            0.01,
            0.0,
            0.03,
            0.005,
            0.8,
            "at least",
            True,
            recipe,
        ),
        Claim(
            "specificity.harmless",
            "Harmless answers stay as they were on 99 % of prompts.",
            0.99,
            0.97,
            1.0,
            "none",
            nan,
            nan,
            nan,
            nan,
            0.98,
            "at least",
            True,
            recipe,
        ),
        Claim(
            "sufficiency",
            "Patching them into the base makes it refuse 12 % of harmful prompts.",
            0.12,
            0.05,
            0.2,
            "200 matched random sets",
            0.0,
            0.0,
            0.02,
            0.08,
            0.5,
            "at least",
            False,
            recipe,
        ),
    )


def verified(parent=None, hostile=False) -> Table:
    conditions = ["base", "tuned", "ablate-zero", "ablate-mean", "ablate-base", "patch-tuned"]
    rows = [(c, g) for c in conditions for g in ("positive", "negative")]
    refused = np.array([0.0, 0.0, 1.0, 0.01, 0.1, 0.0, 0.2, 0.01, 0.03, 0.0, 0.12, 0.0])
    control = np.array([np.nan] * 4 + [0.97, 0.01, 0.98, 0.01, 0.99, 0.01, 0.0, 0.0])
    n = len(rows)
    answers = table(
        "answers",
        {
            "condition": (["base", "ablate-base", "ablate-base"], "key", ""),
            "group": (["positive"] * 3, "key", ""),
            "prompt_id": ([0, 0, 1], "key", ""),
            "cluster": ([0, 0, 1], "key", ""),
            "refused": ([False, False, True], "flag", ""),
            "equal_base": ([True, True, False], "flag", ""),
            "equal_tuned": ([False, False, True], "flag", ""),
            "malformed": ([False] * 3, "flag", ""),
            "log_odds": ([-15.0, -14.0, 3.0], "measure", ""),
        },
    )
    random = table(
        "random-sets",
        {
            "draw": (np.arange(1, 21), "key", ""),
            "condition": (["ablate-base"] * 20, "key", ""),
            "k": ([10] * 20, "key", ""),
            "effect": (np.linspace(0, 0.03, 20), "measure", ""),
            "refused": (np.linspace(1, 0.97, 20), "measure", ""),
        },
    )
    sentence = "Shown: 10 neurons carry the refusal (95 % of answers return). Not shown: sufficiency." + (
        HOSTILE[2] if hostile else ""
    )
    return table(
        "verify-neurons",
        {
            "condition": ([c for c, _ in rows], "key", "what was done to the model"),
            "group": ([g for _, g in rows], "key", ""),
            "n": ([60] * n, "measure", "prompts"),
            "refused": (refused, "measure", "share refused"),
            "low": (np.clip(refused - 0.04, 0, 1), "measure", ""),
            "high": (np.clip(refused + 0.04, 0, 1), "measure", ""),
            "equal_base": (1 - refused, "measure", ""),
            "malformed": (np.zeros(n), "measure", ""),
            "log_odds": (refused * 20 - 15, "measure", "", "nats"),
            "control": (control, "measure", ""),
            "control_low": (control - 0.02, "measure", ""),
            "control_high": (control + 0.02, "measure", ""),
            "p": (np.where(np.isnan(control), np.nan, 0.005), "measure", ""),
        },
        summary={"sentence": sentence, "shown": True, "verified": parent or "", "k95": 32, "dose_area": 0.41},
        provenance=provenance("verify-neurons", parent=parent),
        tables={"answers": answers, "dose": dose(), "random": random, "claims": to_table(claims(hostile))},
    )
