"""What is claimed of grafts, and the nulls of it."""

from __future__ import annotations

from interp.claims import Claim, Draws, Estimate, mean, statistic

KEEPS, CHANCE = 0.95, 0.2


def claims_of(count: int, size: int, questions: int, shuffles: int) -> list[Claim]:
    """Claims about masks of ``count`` of ``size`` weights, by right answers to held-out
    ``questions``.

    The first is what a person reads first. All but ``gains`` require that the fine-tuned model
    gains, so that there is something to keep.
    """
    base, tuned = _kind("base", 0), _kind("tuned", size)
    right = {"base": _right(base), "tuned": _right(tuned)}
    kept = _right(_kind("learned", count), minus=base, over={**tuned, "minus": base})
    share = f"{count:,} of {size:,} weights ({count / size:.2%})"
    made = [
        Claim(
            name="keeps",
            estimate=kept,
            at_least=KEEPS,
            beyond=["control"],
            null=Draws("random", "kept_gain", {"kind": "matched"}),
            control="random masks with equal counts in every parameter",
            requires=["gains"],
            text=(
                f"The base with {share} of the fine-tuned model keeps {{value:.1%}} of the change"
                f" in right answers to {questions:,} held-out questions ({{base:.1%}} in the base,"
                " {tuned:.1%} fine-tuned; random masks with equal counts in every parameter keep"
                " {control:.1%}, at most {control_max:.1%})."
            ),
            undefined=(
                f"Within its interval the fine-tuned model answers no more of {questions:,}"
                " held-out questions rightly than the base ({tuned:.1%} and {base:.1%}), so"
                f" that a graft of {share} has nothing to keep."
            ),
            also=right,
        ),
        Claim(
            name="gains",
            estimate=_right(tuned, minus=base),
            at_least=0.0,
            reference=right["base"],
            control="the base on the same questions",
            text=(
                f"The fine-tuned model gets {{tuned:.1%}} of {questions:,} held-out questions"
                " right, the base {control:.1%}: {value:+.3f} [{low:+.3f}, {high:+.3f}]."
            ),
            also=right,
        ),
        _beats_movement(count),
        Claim(
            name="random-fails",
            estimate=mean("kept_gain", table="random", where={"kind": "matched"}, cluster="draw"),
            at_most=CHANCE,
            reference=kept,
            control="the learned mask, as many weights",
            requires=["gains"],
            text=(
                "Random masks of as many weights, with the learned mask's count in every parameter,"
                " keep {value:.1%} [{low:.1%}, {high:.1%}] of the gain on average over draws (at"
                " most {most:.1%})."
            ),
            undefined=(
                "Base and fine-tuned model answer as many questions rightly, so that random masks"
                " have nothing to keep."
            ),
            also={
                "most": statistic("maximum", "kept_gain", table="random", where={"kind": "matched"})
            },
        ),
    ]
    return [*made, *(_against_shuffles(shuffles) if shuffles else ())]


def _kind(kind: str, kept: int) -> dict:
    return {"where": {"kind": kind, "kept": kept}}


def _right(where: dict, **rest) -> Estimate:
    """Right answers of one kind of mask, paired by question with those of others."""
    return mean("correct", table="answers", pair="prompt_id", **where, **rest)


def _beats_movement(count: int) -> Claim:
    learned, movement = _kind("learned", count), _kind("movement", count)
    return Claim(
        name="beats-movement",
        estimate=_right(learned, minus=movement),
        at_least=0.0,
        reference=_right(movement),
        control="the weights that moved furthest, as many",
        requires=["gains"],
        text=(
            "The learned mask gets {learned:.1%} of held-out questions right, as many of the"
            " weights that moved furthest {control:.1%}."
        ),
        also={"learned": _right(learned)},
    )


def _against_shuffles(shuffles: int) -> list[Claim]:
    """Whether it matters where the movement went: on these shuffles, and on any.

    Questions and shuffles are both drawn at random. ``beats-shuffles`` has the interval over
    clusters of questions alone, which has a width also where all questions agree. ``localised``
    adds the variance over shuffles: its value is the mean over questions of the difference from the
    shuffles' mean, less the mean of the shuffles' deviations from it, which is 0 and has their
    spread; as two independent groups (Welch) both variances add, and both numbers of clusters have
    to be enough. What questions and shuffles have in common is counted twice, never too seldom.
    """
    each = {"table": "random", "where": {"kind": "shuffled"}}
    shares = {
        "learned": mean("learned", table="shuffled"),
        "shuffled": mean("correct", table="shuffled"),
        "least": statistic("minimum", "accuracy", **each),
        "most": statistic("maximum", "accuracy", **each),
    }
    means = (
        f"masks learned in the same way on {shuffles} shuffles of the movement within every"
        " parameter"
    )
    learned = (
        f"The learned mask gets {{learned:.1%}} of held-out questions right, {means}"
        " {shuffled:.1%} on average ({least:.1%} to {most:.1%})"
    )
    return [
        Claim(
            name="beats-shuffles",
            estimate=mean("learned", table="shuffled", minus={"column": "correct"}),
            at_least=0.0,
            reference=shares["shuffled"],
            control=means,
            requires=["gains"],
            text=(
                f"{learned}: {{value:+.3f}} [{{low:+.3f}}, {{high:+.3f}}] over questions, on these"
                " shuffles."
            ),
            also=shares,
        ),
        Claim(
            name="localised",
            estimate=mean(
                "value",
                table="differences",
                where={"unit": "question"},
                minus={"where": {"unit": "shuffle"}},
            ),
            at_least=0.0,
            reference=mean("accuracy", cluster="draw", **each),
            control=f"{means}, on average; its interval is over shuffles",
            requires=["keeps", "beats-shuffles"],
            text=(
                f"{learned}: that the learned mask works is owed to where each weight went"
                " ({value:+.3f} [{low:+.3f}, {high:+.3f}] over questions and shuffles)."
            ),
            otherwise=(
                f"{learned}: {{value:+.3f}} [{{low:+.3f}}, {{high:+.3f}}] over questions and"
                " shuffles does not say that it matters where each weight went; where shuffles do"
                " as well, choosing weights is itself a way to learn the task."
            ),
            also=shares,
        ),
    ]
