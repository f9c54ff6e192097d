"""Claims about grafts, with their nulls."""

from __future__ import annotations

from interp.claims import Claim, Draws, Estimate, mean, statistic

KEEPS, CHANCE = 0.95, 0.2


def claims_of(count: int, size: int, questions: int, shuffles: int) -> list[Claim]:
    """Claims about masks of ``count`` of ``size`` weights, by correct answers to held-out
    questions.

    The most important claim comes first. All but ``gains`` require that the fine-tuned model gains,
    since otherwise there is nothing to keep.
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
                f" in correct answers to {questions:,} held-out questions ({{base:.1%}} in the"
                " base, {tuned:.1%} fine-tuned; random masks with equal counts in every parameter"
                " keep {control:.1%}, at most {control_max:.1%})."
            ),
            undefined=(
                f"The fine-tuned model does not clearly answer more of {questions:,} held-out"
                " questions correctly than the base ({tuned:.1%} and {base:.1%}; the interval of"
                f" the gain covers 0), so a graft of {share} has no gain to keep."
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
                f"The fine-tuned model answers {{tuned:.1%}} of {questions:,} held-out questions"
                " correctly, the base {control:.1%}: {value:+.3f} [{low:+.3f}, {high:+.3f}]."
            ),
            also=right,
        ),
        _beats_movement(count),
        Claim(
            name="random-fails",
            estimate=mean("kept_gain", table="random", where={"kind": "matched"}, cluster="draw"),
            at_most=CHANCE,
            reference=kept,
            control="the learned mask of the same size",
            requires=["gains"],
            text=(
                "Random masks of the same size, with the learned mask's count in every parameter,"
                " keep {value:.1%} [{low:.1%}, {high:.1%}] of the gain on average over draws (at"
                " most {most:.1%})."
            ),
            undefined=(
                "Base and fine-tuned model answer equally many questions correctly, so random masks"
                " have no gain to keep."
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
    """Accuracy of one kind of mask, paired by question with other kinds."""
    return mean("correct", table="answers", pair="prompt_id", **where, **rest)


def _beats_movement(count: int) -> Claim:
    learned, movement = _kind("learned", count), _kind("movement", count)
    return Claim(
        name="beats-movement",
        estimate=_right(learned, minus=movement),
        at_least=0.0,
        reference=_right(movement),
        control="the same number of weights with the largest movement",
        requires=["gains"],
        text=(
            "With the learned mask {learned:.1%} of held-out questions are answered correctly, with"
            " the same number of weights with the largest movement {control:.1%}."
        ),
        also={"learned": _right(learned)},
    )


def _against_shuffles(shuffles: int) -> list[Claim]:
    """Does the position of the movement matter: compared with these shuffles, and with any?

    Questions and shuffles are both random samples. The interval of ``beats-shuffles`` is over
    clusters of questions alone. ``localised`` adds the variance over shuffles: its value is the
    mean over questions of the difference from the mean shuffle, minus the mean deviation of the
    shuffles from their mean, which is 0 and has their variance. Taken as two independent groups
    (Welch), the variances add and both numbers of clusters must suffice. A covariance of the two
    would be counted twice, so the interval is never too narrow.
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
        f"With the learned mask {{learned:.1%}} of held-out questions are answered correctly, with"
        f" {means} {{shuffled:.1%}} on average ({{least:.1%}} to {{most:.1%}})"
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
                f"{learned}: the learned mask depends on which weights moved how far"
                " ({value:+.3f} [{low:+.3f}, {high:+.3f}] over questions and shuffles)."
            ),
            otherwise=(
                f"{learned}: {{value:+.3f}} [{{low:+.3f}}, {{high:+.3f}}] over questions and"
                " shuffles is not evidence that it matters which weights moved how far; where"
                " shuffles do as well, selecting weights is itself a way to learn the task."
            ),
            also=shares,
        ),
    ]
