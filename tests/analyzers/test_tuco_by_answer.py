"""One class of prompts split in two by what the fine-tuned model answers."""

from dataclasses import replace

import numpy as np
import pytest

from interp import claims
from interp.analyzers.tuco import Tuco
from interp.errors import OptionError
from interp.models.pair import Pair
from interp.prompts import OneClass, PromptSet
from interp.study import Study
from tests import tiny


def planted_in_one_file():
    """Prompts of both classes in one file, of which the planted tune refuses the first."""
    study = tiny.planted_study("llama")
    prompts = [*study.contrast.positive.prompts[:6], *study.contrast.negative.prompts[:6]]
    mixed = PromptSet(tuple(replace(prompt, id=row) for row, prompt in enumerate(prompts)), "mixed")
    return study.with_prompts(OneClass(mixed))


def test_prompts_are_parted_by_what_is_answered():
    study = planted_in_one_file()
    base = study.pair.base.module
    control = Pair.from_modules(tiny.perturbed(base, 0.02), base, tiny.tokenizer())
    control = Pair(
        control.tuned,
        study.pair.base,
        study.pair.tokenizer,
        {**study.pair.digests, "tuned": "of the control"},
    )
    table = Tuco(by_answer=True, controls=(control,), caliper=9)(study)
    answers = table.tables["answers"]
    assert answers["refused"].tolist() == [True] * 6 + [False] * 6
    assert table["prompt_id"][table["group"] == "positive"].tolist() == list(range(6))
    assert "text" not in answers.data
    assert (
        table.provenance.key
        == study.provenance(Tuco(by_answer=True, controls=(control,), caliper=9)).key
    )
    made = {claim.name: claim for claim in claims.from_table(table.tables["claims"])}
    assert list(made) == [
        "beyond-rounding",
        "beyond-control",
        "beyond-new-control",
        "separates",
        "separates-at-equal-length",
        "separates-beyond-base",
        "separates-beyond-control",
        "separates-beyond-new-control",
    ]
    for claim in made.values():
        claims.check(claim, table)
    alone = Tuco()(Study(control, OneClass(study.contrast.positive), None))
    order = np.argsort(table["prompt_id"])
    np.testing.assert_allclose(table["control_tuco"][order], alone["tuco"], rtol=1e-5)
    kept = study.contrast.positive.prompts[:6]
    alike = Tuco(by_answer=True, keep_text=True)(
        study.with_prompts(OneClass(PromptSet(kept, "refused")))
    )
    assert "there are no two classes to compare" in alike.summary["sentence"]
    assert not alike.summary["supported"]
    assert "text" in alike.tables["answers"].data
    with pytest.raises(OptionError, match="the study has two"):
        Tuco(by_answer=True)(tiny.planted_study("llama"))
