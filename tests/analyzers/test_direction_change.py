"""The direction between classes: float64 oracle, a planted turn, silence, and clusters."""

import numpy as np
import pytest
import torch

from interp.analyzers.direction_change import DirectionChange
from tests import tiny


def pair_of(turned=False):
    base, tuned = tiny.planted(tiny.FAMILIES["llama"](seed=3, tie_word_embeddings=False), pairs=6)
    if turned:
        with torch.no_grad():
            tuned.model.layers[1].mlp.down_proj.weight.mul_(-3.0)
    return tiny.exact(base), tiny.exact(tuned)


def means_of(study, model):
    """Difference of the classes' mean streams, by plain forward passes of one prompt each."""
    parts = []
    for group in ("positive", "negative"):
        rows = []
        for coded in study.encoded(group):
            with torch.no_grad():
                out = model.module(torch.tensor([coded.ids]), output_hidden_states=True)
            rows.append(torch.stack([state[0, -1] for state in out.hidden_states[1:]]))
        parts.append(torch.stack(rows).double().mean(0).numpy())
    return parts[0] - parts[1]


def test_cosines_are_those_of_plain_passes():
    base, tuned = pair_of(turned=True)
    study = tiny.study(tuned, base, 6, template=False)
    made = DirectionChange()(study)
    one, other = (means_of(study, study.pair[role]) for role in ("base", "tuned"))
    cosine = (one * other).sum(1) / np.linalg.norm(one, axis=1) / np.linalg.norm(other, axis=1)
    # the last hidden state of transformers is normalised
    np.testing.assert_allclose(made["cosine"][:-1], cosine[:-1], rtol=1e-6)
    assert made["cosine"][0] == 1.0
    assert made["cosine"][1] < 0.999


def test_the_pseudo_values_are_of_a_jackknife_over_clusters():
    base, tuned = pair_of(turned=True)
    study = tiny.study(tuned, base, 6, template=False)
    made = DirectionChange()(study)
    clusters = made.tables["clusters"]
    whole = float((1 - made["cosine"]).mean())
    m = len(clusters)
    left_out = (m * whole - clusters["turn"]) / (m - 1)
    without = study.contrast
    name = clusters["cluster"][0]
    kept = type(without)(
        *(
            type(part)(tuple(p for p in part if p.cluster != name), part.source)
            for part in (without.positive, without.negative)
        )
    )
    again = DirectionChange()(study.with_prompts(kept))
    assert float((1 - again["cosine"]).mean()) == pytest.approx(left_out[0], rel=1e-6)


def test_equal_models_turn_nothing():
    base, _ = pair_of()
    study = tiny.study(base, base, 6, template=False)
    made = DirectionChange()(study)
    assert not made["turn"].any()
    assert not made.tables["clusters"]["turn"].any()
    assert made.summary["verdicts"] == {"turns-beyond-new-control": "not tested"}
