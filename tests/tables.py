"""Hand-made tables of every kind the analyzers make, small and with known contents, for store,
figures and page.
"""

import numpy as np

from interp.claims import Claim, Draws, Finding, mean, to_table, verdicts_sentence
from interp.claims.sentences import fill
from interp.provenance import Provenance
from interp.table import Table, table

LAYERS, NEURONS = 4, 64
HOSTILE = (
    "<script>alert(1)</script>",
    '<img src=x onerror="alert(1)">',
    "</script><!--",
    "{{x}} %{y} <b>&amp;</b>",
)


NAN = float("nan")


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
    texts = np.resize(
        np.array(["", "é😀\u202e", "nul\0", "\n\t\"'", HOSTILE[0]], dtype=object), rows
    )
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
        "sentence": (
            "10 of 256 MLP neurons carry the refusal" + (f" {HOSTILE[0]}" if hostile else ".")
        ),
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
    words = (
        [*HOSTILE, "bomb", " recipe"] if hostile else ["bomb", " recipe", "é", "\n", " the", "Ġx"]
    )
    names = (
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
    rows = [
        (
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
        for best in np.argsort(rank)[:6]
        for order in range(4)
    ]
    columns = zip(names, map(list, zip(*rows, strict=True)), strict=True)
    roles = {"group": "key", "token": "text", "before": "text", "after": "text", "value": "measure"}
    return table(
        "neuron-tokens", {name: (values, roles.get(name, "key"), name) for name, values in columns}
    )


def dose() -> Table:
    generator = np.random.default_rng(0)
    rows = []
    for direction in ("necessity", "sufficiency"):
        for k in (1, 2, 4, 8, 16, 32, 64):
            rows.append(
                (
                    direction,
                    k,
                    "located",
                    0,
                    k**2 / (k**2 + (60 if direction == "necessity" else 300)),
                )
            )
            rows += [
                (direction, k, "random", draw, generator.uniform(0, 0.004 * k))
                for draw in range(1, 21)
            ]
    names = ("direction", "k", "source", "draw", "effect")
    columns = dict(zip(names, map(list, zip(*rows, strict=True)), strict=True))
    effect = np.array(columns.pop("effect"))
    measures = {"behaviour": effect, "recovery": 1.2 * effect}
    return table(
        "dose",
        {name: (values, "key", name) for name, values in columns.items()}
        | {name: (values, "measure", name) for name, values in measures.items()},
    )


def finding(
    name,
    sentence,
    value,
    low,
    high,
    null=(NAN, NAN, NAN),
    p=NAN,
    verdict="supported",
    control="",
    **sides,
):
    """A finding made by hand: its numbers follow from no table."""
    where = {"condition": "ablate-base", "group": "positive"}
    tested = {"null": Draws("random", "effect")} if control else {}
    claim = Claim(
        name=name,
        estimate=mean("matches_base", table="answers", where=where),
        text=sentence,
        control=control,
        **tested,
        **sides,
    )
    return Finding(
        claim,
        value,
        low,
        high,
        40.0,
        *null,
        p,
        p,
        200.0 if control else 0.0,
        verdict,
        "",
        fill(sentence, {"value": value}),
    )


def claims(hostile=False):
    sets = "200 matched random sets"
    extra = HOSTILE[1] if hostile else ""
    return (
        finding(
            "necessity",
            "Given the base's contributions, 10 neurons return {value:.1%} of its"
            f" answers{extra}.",
            0.95,
            0.9,
            0.99,
            (0.01, 0.0, 0.03),
            0.005,
            control=sets,
            at_least=0.5,
        ),
        finding(
            "harmless",
            "The ablation changes {value:.1%} of the answers to negative prompts.",
            0.01,
            0.0,
            0.03,
            at_most=0.02,
        ),
        finding(
            "sufficiency",
            "Put into the base, their tuned contributions give {value:.1%} of the tuned answers.",
            0.12,
            0.05,
            0.2,
            (0.0, 0.0, 0.02),
            0.08,
            "not supported",
            control=sets,
            at_least=0.5,
        ),
    )


def answers() -> Table:
    columns = {
        "condition": ["base", "ablate-base", "ablate-base"],
        "group": ["positive"] * 3,
        "prompt_id": [0, 0, 1],
        "cluster": ["a", "a", "b"],
        "changed": [True] * 3,
        "refused": [False, False, True],
        "lost": [True, True, False],
        "matches_base": [True, True, False],
        "matches_tuned": [False, False, True],
        "malformed": [False] * 3,
        "log_odds": [-15.0, -14.0, 3.0],
        "loss": [0.1, 0.2, 2.0],
    }
    roles = {"log_odds": "measure", "loss": "measure"} | dict.fromkeys(
        ("condition", "group", "prompt_id", "cluster"), "key"
    )
    return table(
        "answers",
        {name: (values, roles.get(name, "flag"), name) for name, values in columns.items()},
    )


def verified(parent=None, hostile=False) -> Table:
    conditions = ["base", "tuned", "ablate-zero", "ablate-mean", "ablate-base", "patch-tuned"]
    rows = [(condition, group) for condition in conditions for group in ("positive", "negative")]
    refused = np.array([0.0, 0.0, 1.0, 0.01, 0.1, 0.0, 0.2, 0.01, 0.03, 0.0, 0.12, 0.0])
    control = np.full(len(rows), np.nan)
    control[[8, 10]] = 0.01, 0.0
    measures = {
        "n": np.full(len(rows), 60),
        "refused": refused,
        "low": np.clip(refused - 0.04, 0, 1),
        "high": np.clip(refused + 0.04, 0, 1),
        "matches_base": np.linspace(1, 0.1, len(rows)),
        "matches_tuned": np.linspace(0, 0.9, len(rows)),
        "malformed": np.zeros(len(rows)),
        "log_odds": refused * 20 - 15,
        "control": control,
        "control_low": control - 0.01,
        "control_high": control + 0.03,
    }
    random = {
        "direction": (["necessity"] * 20 + ["sufficiency"] * 20, "key", ""),
        "draw": ([*range(20)] * 2, "key", ""),
        "k": ([10] * 40, "measure", ""),
        "effect": (np.linspace(0, 0.03, 40), "measure", ""),
        "recovery": (np.linspace(-0.01, 0.02, 40), "measure", ""),
        "behaviour": (np.linspace(0, 0.03, 40), "measure", ""),
    }
    sentence = "10 neurons carry the refusal." + (HOSTILE[2] if hostile else "")
    sentence += f" {verdicts_sentence(claims())}"
    return table(
        "verify-neurons",
        {
            "condition": (
                [condition for condition, _ in rows],
                "key",
                "what was done to the model",
            ),
            "group": ([group for _, group in rows], "key", "class of the prompts"),
            **{name: (values, "measure", name) for name, values in measures.items()},
        },
        summary={"sentence": sentence, "supported": True, "verified": parent, "k95_behaviour": 32},
        provenance=provenance("verify-neurons", parent=parent),
        tables={
            "answers": answers(),
            "dose": dose(),
            "random": table("random-sets", random),
            "claims": to_table(claims(hostile)),
        },
    )
