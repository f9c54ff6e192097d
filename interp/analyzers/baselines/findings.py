"""Tables and claims of a comparison with other methods."""

from collections.abc import Sequence

import numpy as np

from interp.analyzers.baselines.arms import NAN, Arm
from interp.claims import Claim, escape_braces, mean
from interp.metrics import MetricLabels
from interp.models.units import Unit
from interp.study import Study
from interp.table import Table, table

_COLUMNS = {
    "method": ("key", "located, zero, direction, contrast or random"),
    "what": ("text", "what was done"),
    "units": ("measure", "units that were changed; NaN for the direction"),
    "share": ("measure", "share of the direction that was removed; NaN for units"),
    "prompts": ("measure", "positive prompts; for random sets the control prompts"),
    "exhibits_behaviour": (
        "measure",
        "share of answers to positive prompts that show the behaviour",
    ),
    "low": (
        "measure",
        "lower end of its 95 % interval over clusters; for random sets their minimum",
    ),
    "high": (
        "measure",
        "upper end of its 95 % interval over clusters; for random sets their maximum",
    ),
    "recovery": (
        "measure",
        (
            "share of the gap between both models' mean numbers that is closed; NaN where there is"
            " no gap"
        ),
    ),
    "recovery_low": (
        "measure",
        "lower end of its 95 % interval over clusters; for random sets their minimum",
    ),
    "recovery_high": (
        "measure",
        "upper end of its 95 % interval over clusters; for random sets their maximum",
    ),
    "malformed": (
        "measure",
        "share of answers to positive prompts that are malformed; NaN for random sets",
    ),
    "divergence": (
        "measure",
        "KL divergence from the fine-tuned model on its answers to negative prompts",
        "nats a token",
    ),
    "flipped": (
        "measure",
        "share of answers to negative prompts whose behaviour flips (for a task: that differ)",
    ),
}


def columns(rows: Sequence[dict]) -> dict[str, tuple]:
    """The run's main table, a row per method."""
    types = {"method": object, "what": object, "prompts": np.int64}
    return {
        name: (np.array([row[name] for row in rows], types.get(name, np.float64)), *described)
        for name, described in _COLUMNS.items()
    }


def answers_table(study: Study, arms: Sequence[Arm]) -> Table:
    """One row per method, class and prompt; what one class lacks is NaN or False."""
    blocks: list[tuple[str, str, np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray]] = []
    for arm in arms:
        n_positive, n_negative = len(arm.exhibits), len(arm.flipped)
        no, nan = (
            np.zeros(max(n_positive, n_negative), bool),
            np.full(max(n_positive, n_negative), NAN),
        )
        blocks.append(
            (
                arm.method,
                "positive",
                arm.exhibits,
                arm.malformed,
                no[:n_positive],
                arm.number,
                nan[:n_positive],
            )
        )
        blocks.append(
            (
                arm.method,
                "negative",
                no[:n_negative],
                no[:n_negative],
                arm.flipped,
                nan[:n_negative],
                arm.divergence,
            )
        )
    prompts = [
        (method, group, prompt) for method, group, *_ in blocks for prompt in study.prompts(group)
    ]
    exhibits, malformed, flipped, numbers, divergence = (
        np.concatenate([block[at] for block in blocks]) for at in range(2, 7)
    )
    return table(
        "baselines-answers",
        {
            "method": (
                np.array([method for method, _, _ in prompts], object),
                "key",
                "method",
            ),
            "group": (
                np.array([group for _, group, _ in prompts], object),
                "key",
                "class of the prompt",
            ),
            "prompt_id": (
                np.array([p.id for *_, p in prompts], np.int64),
                "key",
                "position in the prompt file",
            ),
            "cluster": (
                np.array([p.cluster for *_, p in prompts], object),
                "key",
                "prompts that intervals take as one",
            ),
            "exhibits_behaviour": (
                exhibits,
                "flag",
                "the answer to a positive prompt shows the behaviour",
            ),
            "malformed": (malformed, "flag", "the answer to a positive prompt is malformed"),
            "flipped": (
                flipped,
                "flag",
                "the answer to a negative prompt flips (for a task: differs)",
            ),
            "number": (
                numbers,
                "measure",
                f"{study.require_metric().labels.number} of a positive prompt",
            ),
            "divergence": (
                divergence,
                "measure",
                "KL divergence from the fine-tuned model on a negative prompt",
                "nats a token",
            ),
        },
    )


def beats_claim(words: MetricLabels, unit: Unit, size: int, method: str, arm: Arm | None) -> Claim:
    """The located set leaves less of the behaviour than the other method."""
    clause = escape_braces(words.verb).replace("{{share}}", "{own:.1%}")
    located_rows = {"method": "located", "group": "positive"}
    also, text = (
        {"own": mean("exhibits_behaviour", table="answers", where=located_rows)},
        f"With this intervention on the {size} located {unit.name}s ",
    )
    text += f"the fine-tuned model {clause}; "
    name = f"beats-{method}"
    if arm is None:
        text += "no share of the direction has as small a divergence on negative prompts."
        return Claim(
            name=name,
            estimate=also["own"],
            at_most=0.0,
            text=text,
            also=also,
            missing="a share of the direction with as small a divergence",
        )
    reference_rows = {"method": method, "group": "positive"}
    return Claim(
        name=name,
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
        text=text + f"with {escape_braces(arm.what)}: {{control:.1%}}.",
        also=also,
    )
