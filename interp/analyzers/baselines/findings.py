"""The table of answers and the claims of a comparison with other methods."""

from collections.abc import Sequence

from interp.analyzers.baselines.arms import NAN, Arm, MethodRow
from interp.claims import Claim, escape_braces, mean
from interp.experiments.records import records_table
from interp.metrics import MetricLabels
from interp.models.units import Unit
from interp.rows import PromptRow, flag, measure
from interp.study import Study
from interp.table import Table


class _OfMethod:
    method: str = MethodRow.method


class AnswerRow(PromptRow, _OfMethod):
    """A row per method and prompt; what is of the other class is False or NaN."""

    exhibits_behaviour: bool = flag("the answer to a positive prompt shows the behaviour")
    malformed: bool = flag("the answer to a positive prompt is malformed")
    flipped: bool = flag("the answer to a negative prompt flips (for a task: differs)")
    number: float = measure("the metric's number of a positive prompt")
    divergence: float = measure(
        "KL divergence from the fine-tuned model on a negative prompt", "nats a token"
    )


def answers_table(study: Study, arms: Sequence[Arm]) -> Table:
    """One row per method, class and prompt; what one class lacks is NaN or False."""
    records = []
    for arm in arms:
        for group, names in (
            (
                "positive",
                {
                    "exhibits_behaviour": arm.exhibits,
                    "malformed": arm.malformed,
                    "number": arm.number,
                },
            ),
            ("negative", {"flipped": arm.flipped, "divergence": arm.divergence}),
        ):
            records += [
                {
                    "exhibits_behaviour": False,
                    "malformed": False,
                    "flipped": False,
                    "number": NAN,
                    "divergence": NAN,
                    "method": arm.method,
                    "group": group,
                    "prompt_id": prompt.id,
                    "cluster": prompt.cluster,
                    **dict(zip(names, values, strict=True)),
                }
                for prompt, *values in zip(study.prompts(group), *names.values(), strict=True)
            ]
    return records_table(AnswerRow, "baselines-answers", records)


def beats_claim(words: MetricLabels, unit: Unit, size: int, method: str, arm: Arm | None) -> Claim:
    """The located set leaves less of the behaviour than the other method."""
    clause = escape_braces(words.verb).replace("{{share}}", "{own:.1%}")
    located_rows = {"method": "located", "group": "positive"}
    own = mean("exhibits_behaviour", table="answers", where=located_rows)
    text = (
        f"With this intervention on the {size} located {unit.name}s the fine-tuned model {clause};"
    )
    if arm is None:
        return Claim(
            name=f"beats-{method}",
            estimate=own,
            at_most=0.0,
            text=f"{text} no share of the direction has as small a divergence on negative prompts.",
            also={"own": own},
            missing="a share of the direction with as small a divergence",
        )
    reference_rows = {"method": method, "group": "positive"}
    return Claim(
        name=f"beats-{method}",
        estimate=mean(
            "exhibits_behaviour",
            table="answers",
            where=located_rows,
            pair="prompt_id",
            minus={"where": reference_rows},
        ),
        at_most=0.0,
        reference=mean("exhibits_behaviour", table="answers", where=reference_rows),
        control=escape_braces(arm.what),
        text=f"{text} with {escape_braces(arm.what)}: {{control:.1%}}.",
        also={"own": own},
    )
