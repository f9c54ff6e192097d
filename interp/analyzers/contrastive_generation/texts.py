"""The sub-table of the texts that every model wrote."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

from interp.analyzers.contrastive_generation.contrast import ContrastiveText
from interp.analyzers.contrastive_generation.writing import Writer
from interp.rows import key, measure, rows_table
from interp.rows import text as words
from interp.table import Table


class TextRow:
    """A row per text, by model, its highest score first."""

    model_number: int = key("0 for the fine-tuned model, then the controls in the given order")
    model: str = words("its name")
    where: str = key("what the text continues")
    gamma: float = measure("weight of the base's log probabilities")
    round: int = key("of the iterative form, from 1; 0 for other texts")
    prefill: str = words("the end of what the text continues")
    text: str = words("what was written")
    tokens: int = measure("length, with the end token where it ended", "tokens")
    score: float = measure(
        "mean over tokens of l_t - gamma l_b, log probabilities of the model and of the base",
        "nats",
    )
    control_mean: float = measure(
        "mean of the same over the controls, each in the place of the fine-tuned model; for the"
        " fine-tuned model's texts",
        "nats",
        optional=True,
    )
    control_high: float = measure("the largest of a control", "nats", optional=True)


def texts_table(
    writer: Writer,
    names: Sequence[str],
    written: Sequence[Sequence[ContrastiveText]],
    reference: Sequence[ContrastiveText],
    under_controls: Sequence[Float[np.ndarray, " n"]],
) -> Table:
    """Texts of every model that the base, contrasted with itself, does not write from the same
    prefill and random numbers.

    ``written`` [M][n]; ``under_controls`` [K][n]: scores of the fine-tuned model's texts.
    """
    places, scores = [], [writer.scores(texts) for texts in written]
    for number, texts in enumerate(written):
        rows = [row for row, one in enumerate(texts) if one.ids != reference[row].ids]
        places += [(number, row) for row in sorted(rows, key=lambda row: -scores[number][row])]
    prefills, read = writer.prefills, [writer.read(texts) for texts in written]
    of_controls = {}
    if under_controls:
        nan = np.full(len(reference), np.nan)
        of_controls = {
            f"control_{name}": np.array(
                [(nan if number else values)[row] for number, row in places], np.float64
            )
            for name, values in (
                ("mean", np.mean(under_controls, axis=0)),
                ("high", np.max(under_controls, axis=0)),
            )
        }
    return rows_table(
        TextRow,
        "contrastive-generation-texts",
        {
            "model_number": np.array([number for number, _ in places], np.int64),
            "model": [names[number] for number, _ in places],
            "where": [writer.prompts[row].where for _, row in places],
            "gamma": np.array(
                [writer.prompts[row].contrast.gamma for _, row in places], np.float64
            ),
            "round": np.array([writer.prompts[row].round for _, row in places], np.int64),
            "prefill": [prefills[row][-PREFILL_SHOWN:] for _, row in places],
            "text": [read[number][row] for number, row in places],
            "tokens": np.array([len(written[number][row].ids) for number, row in places], np.int64),
            "score": np.array([scores[number][row] for number, row in places], np.float64),
            **of_controls,
        },
    )


PREFILL_SHOWN = 80
"""Characters of a prefill that are shown."""
