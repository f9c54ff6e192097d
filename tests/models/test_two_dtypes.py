"""Blocks of a base in one precision within a fine-tuned model in another."""

import copy

import pytest
import torch

from interp.engines import Batch, TorchEngine
from interp.engines.coupled_forward import coupled_forward
from interp.interventions.generation import generate
from interp.models.model import Model
from interp.prompts import encode
from tests import tiny


@pytest.mark.parametrize("family", [*tiny.FAMILIES, "eager"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("share", [0.0, 0.5, 1.5])
def test_blocks_of_two_precisions_are_mixed(family, dtype, share):
    """As the same two models in float32, to the rounding of the stream."""
    base = tiny.FAMILIES.get(family, tiny.llama)()
    if family == "eager":
        # masks are then least numbers, which are infinite in a narrower precision
        base.set_attn_implementation("eager")
    half = tiny.perturbed(base).to(dtype)
    batch = Batch.pad([encode(tiny.tokenizer(), text).ids for text in tiny.PROMPTS], 0)

    def logits(tuned, other, plain=False):
        tuned, other = Model.wrap("tuned", tuned), Model.wrap("base", other)
        if plain:
            return TorchEngine().run(tuned, batch, keep=1).require_logits().float()
        with coupled_forward(tuned, other, [share] * tuned.anatomy.n_layers):
            return TorchEngine().run(tuned, batch, keep=1).require_logits().float()

    mixed, whole = logits(half, base), logits(copy.deepcopy(half).float(), base)
    rounding = (
        (logits(half, base, plain=True) - logits(copy.deepcopy(half).float(), base, plain=True))
        .abs()
        .max()
    )
    assert torch.isfinite(mixed).all()
    assert (mixed - whole).abs().max() <= 4 * rounding
    # and the other way round: a base in half precision
    other = logits(copy.deepcopy(half).float(), copy.deepcopy(base).to(dtype))
    assert (other - whole).abs().max() <= 8 * rounding


def test_answers_are_written_through_both():
    base, tuned = tiny.llama(), tiny.perturbed(tiny.llama()).bfloat16()
    tuned, base = Model.wrap("tuned", tuned), Model.wrap("base", base)
    study = tiny.study(tuned.module, base.module, 4, max_new_tokens=3)
    with coupled_forward(tuned, base, [0.5] * tuned.anatomy.n_layers):
        answers = generate(TorchEngine(), tuned, study.text("positive", range(4)), 3)
    assert [len(answer) > 0 for answer in answers] == [True] * 4
