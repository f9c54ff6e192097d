"""Claims about grafts, with their nulls."""

from __future__ import annotations

from interp.claims import Claim, Draws, Estimate, mean, statistic

MIN_KEPT_GAIN, MAX_RANDOM_GAIN = 0.95, 0.2


def claims_of(count: int, size: int, questions: int, shuffles: int) -> list[Claim]:
    """Claims about masks of ``count`` of ``size`` weights, by correct answers to held-out
    questions.

    The most important claim comes first. All but ``gains`` require that the fine-tuned model gains,
    since otherwise there is nothing to keep.
    """
    base, tuned = _rows_of("base", 0), _rows_of("tuned", size)
    accuracies = {"base": _accuracy(base), "tuned": _accuracy(tuned)}
    kept_gain = _accuracy(_rows_of("learned", count), minus=base, over={**tuned, "minus": base})
    mask_text = f"{count:,} of {size:,} weights ({count / size:.2%})"
    claims = [
        Claim(
            name="keeps",
            estimate=kept_gain,
            at_least=MIN_KEPT_GAIN,
            beyond=["control"],
            null=Draws("random", "kept_gain", {"kind": "matched"}),
            control="random masks with equal counts in every parameter",
            requires=["gains"],
            text=(
                f"The base with {mask_text} of the fine-tuned model keeps {{value:.1%}} of the"
                f" change in correct answers to {questions:,} held-out questions ({{base:.1%}} in"
                " the base, {tuned:.1%} fine-tuned; random masks with equal counts in every"
                " parameter keep {control:.1%}, at most {control_max:.1%})."
            ),
            undefined=(
                f"The fine-tuned model does not clearly answer more of {questions:,} held-out"
                " questions correctly than the base ({tuned:.1%} and {base:.1%}; the interval"
                f" of the gain covers 0), so a graft of {mask_text} has no gain to keep."
            ),
            also=accuracies,
        ),
        Claim(
            name="gains",
            estimate=_accuracy(tuned, minus=base),
            at_least=0.0,
            reference=accuracies["base"],
            control="the base on the same questions",
            text=(
                f"The fine-tuned model answers {{tuned:.1%}} of {questions:,} held-out questions"
                " correctly, the base {control:.1%}: {value:+.3f} [{low:+.3f},"
                " {high:+.3f}]."
            ),
            also=accuracies,
        ),
        _beats_movement(count),
        Claim(
            name="random-fails",
            estimate=mean("kept_gain", table="random", where={"kind": "matched"}, cluster="draw"),
            at_most=MAX_RANDOM_GAIN,
            reference=kept_gain,
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
    return [*claims, *(_shuffle_claims(shuffles) if shuffles else ())]


def _rows_of(kind: str, n_weights: int) -> dict:
    return {"where": {"kind": kind, "kept": n_weights}}


def _accuracy(where: dict, **rest) -> Estimate:
    """Accuracy of one kind of mask, paired by question with other kinds."""
    return mean("correct", table="answers", pair="prompt_id", **where, **rest)


def _beats_movement(count: int) -> Claim:
    learned, movement = _rows_of("learned", count), _rows_of("movement", count)
    return Claim(
        name="beats-movement",
        estimate=_accuracy(learned, minus=movement),
        at_least=0.0,
        reference=_accuracy(movement),
        control="the same number of weights with the largest movement",
        requires=["gains"],
        text=(
            "With the learned mask {learned:.1%} of held-out questions are answered correctly, with"
            " the same number of weights with the largest movement {control:.1%}."
        ),
        also={"learned": _accuracy(learned)},
    )


def _shuffle_claims(shuffles: int) -> list[Claim]:
    """Does the position of the movement matter: compared with these shuffles, and with any?

    Questions and shuffles are both random samples. The interval of ``beats-shuffles`` is over
    clusters of questions alone. ``localised`` adds the variance over shuffles: its value is the
    mean over questions of the difference from the mean shuffle, minus the mean deviation of the
    shuffles from their mean, which is 0 and has their variance. Taken as two independent groups
    (Welch), the variances add and both numbers of clusters must suffice. A covariance of the two
    would be counted twice, so the interval is never too narrow.
    """
    shuffled_rows = {"table": "random", "where": {"kind": "shuffled"}}
    accuracies = {
        "learned": mean("learned", table="shuffled"),
        "shuffled": mean("correct", table="shuffled"),
        "least": statistic("minimum", "accuracy", **shuffled_rows),
        "most": statistic("maximum", "accuracy", **shuffled_rows),
    }
    control_text = (
        f"masks learned in the same way on {shuffles} shuffles of the movement within every"
        " parameter"
    )
    accuracy_text = (
        "With the learned mask {learned:.1%} of held-out questions are answered correctly, with"
        f" {control_text} {{shuffled:.1%}} on average ({{least:.1%}} to {{most:.1%}})"
    )
    return [
        Claim(
            name="beats-shuffles",
            estimate=mean("learned", table="shuffled", minus={"column": "correct"}),
            at_least=0.0,
            reference=accuracies["shuffled"],
            control=control_text,
            requires=["gains"],
            text=(
                f"{accuracy_text}: {{value:+.3f}} [{{low:+.3f}}, {{high:+.3f}}] over questions, on"
                " these shuffles."
            ),
            also=accuracies,
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
            reference=mean("accuracy", cluster="draw", **shuffled_rows),
            control=f"{control_text}, on average; its interval is over shuffles",
            requires=["keeps", "beats-shuffles"],
            text=(
                f"{accuracy_text}: the learned mask depends on which weights moved how far"
                " ({value:+.3f} [{low:+.3f}, {high:+.3f}] over questions and shuffles)."
            ),
            otherwise=(
                f"{accuracy_text}: {{value:+.3f}} [{{low:+.3f}}, {{high:+.3f}}] over questions and"
                " shuffles is not evidence that it matters which weights moved how far; where"
                " shuffles do as well, selecting weights is itself a way to learn the task."
            ),
            also=accuracies,
        ),
    ]
