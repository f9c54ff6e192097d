"""Claims of LoFiT."""

from __future__ import annotations

from collections.abc import Sequence

from interp.analyzers.lofit.tables import ALL, GRADIENTS, LOCATED, PROBES
from interp.claims import Claim, Draws, mean
from interp.claims.control_fine_tunes import beyond_new_control
from interp.experiments.base_answers import BASE, CHANGED, changed_claim

VERDICT = "located-beyond-random"
MIN_DRAWS = 19
BASELINES = {GRADIENTS: "integrated gradients", PROBES: "linear probes"}


def _recovered(name: str) -> dict:
    return {"table": "answers", "where": {"set": name}, "over": {"column": "gap"}}


def claims_of(n_heads: int, sets: Sequence[str], n_draws: int, n_controls: int) -> list[Claim]:
    """That answers changed, and that the located heads recover more than others.

    ``sets``: the sets that were trained; none where there was nothing to learn.
    """
    changed = changed_claim("answers", {"set": BASE})
    if LOCATED not in sets:
        return [changed]
    heads = f"{n_heads} located head{'s' * (n_heads != 1)}"
    located = mean("gain", **_recovered(LOCATED))
    draws = Draws("random", "recovered", min_draws=MIN_DRAWS) if n_draws else None
    claims = [
        Claim(
            name=VERDICT,
            estimate=located,
            at_least=0.0,
            null=draws,
            control="as many heads at random, their offsets trained in the same way"
            * bool(n_draws),
            missing="random sets of heads (--draws 19)" * (not n_draws),
            requires=[CHANGED],
            text=(
                f"Offsets on {heads} recover {{value:.1%}} [{{low:.1%}}, {{high:.1%}}] of the"
                " difference in loss of the fine-tuned model's answers to held-out prompts"
                " (offsets on all heads: {all:.1%}); the base then writes {writes:.1%} of the"
                " answers, {before:.1%} without."
                + (
                    " Random heads recover {control:.1%} on average, p = {p:.2g}."
                    if n_draws
                    else ""
                )
            ),
            also={
                "all": mean("gain", **_recovered(ALL)),
                "writes": mean("writes", table="answers", where={"set": LOCATED}),
                "before": mean("writes", table="answers", where={"set": BASE}),
            },
        )
    ]
    claims += [_beyond(name, words) for name, words in BASELINES.items() if name in sets]
    if n_controls:
        claims.append(
            beyond_new_control(
                "located-beyond-new-control",
                located,
                "recovered",
                n_controls,
                "the share recovered by the heads located for the fine-tuned model's own answers",
                ".1%",
            )
        )
    return [*claims, changed]


def _beyond(name: str, words: str) -> Claim:
    """That the located heads recover more than those of another method."""
    difference = mean(
        "gain",
        table="answers",
        where={"set": LOCATED},
        pair=["group", "prompt_id"],
        minus={"where": {"set": name}},
    )
    return Claim(
        name=f"located-beyond-{name}",
        estimate=difference,
        at_least=0.0,
        reference=mean("gain", table="answers", where={"set": name}),
        control=f"as many heads by {words}, their offsets trained in the same way",
        requires=[CHANGED],
        text=(
            f"The located heads lower the held-out loss by {{value:+.3f}} [{{low:+.3f}},"
            f" {{high:+.3f}}] nats per token more than as many heads by {words}, which lower it by"
            " {control:.3f}."
        ),
    )
