"""Labels of latents: planted lists come back, scores are what the judge's errors leave, chance is a half."""

import numpy as np
import pytest
import torch

from interp.dictionaries.active import Codes
from interp.dictionaries.reading import _score, labels
from interp.errors import OptionError

LISTS = {latent: {5 * latent + offset for offset in range(4)} for latent in range(12)}


def texts(wrong=0.0, documents=60, seed=0):
    """Tokens of documents, and latents that fire on lists of tokens; a share of firing is wrong."""
    generator = np.random.default_rng(seed)
    tokens = generator.integers(0, 80, size=documents * 50)
    on = np.stack([np.isin(tokens, list(members)) for members in LISTS.values()], 1)
    on ^= generator.random(on.shape) < wrong
    return Codes.of(torch.tensor(on, dtype=torch.float32)), tokens, np.arange(len(tokens)) // 50


def test_planted_lists_come_back_and_are_right_on_other_documents():
    codes, tokens, documents = texts()
    for found in labels(codes, tokens, documents, range(12)):
        assert set(found.tokens) == LISTS[found.latent]
        assert found.score == 1
        assert found.null.max() < 0.6
        assert found.density == pytest.approx(0.05, abs=0.02)


def test_a_latent_that_fires_wrongly_scores_less_and_noise_scores_a_half():
    codes, tokens, documents = texts(0.01)
    right = [found.score for found in labels(codes, tokens, documents, range(12))]
    assert 0.8 < np.mean(right) < 0.98
    generator = np.random.default_rng(3)
    noise = Codes.of(torch.tensor(generator.random((len(tokens), 20)) < 0.05).float())
    found = labels(noise, tokens, documents, range(20))
    assert np.mean([one.score for one in found]) == pytest.approx(0.5, abs=0.02)
    assert np.mean([one.p <= 0.05 for one in found]) <= 0.2


def test_judges():
    """All-yes and all-no are a half; the list itself is 1."""
    tokens, truth, held = np.arange(40) % 4, np.arange(40) % 4 == 1, np.ones(40, bool)
    assert _score(tokens, truth, held, (0, 1, 2, 3)) == 0.5
    assert _score(tokens, truth, held, ()) == 0.5
    assert _score(tokens, truth, held, (1,)) == 1


def test_labels_are_made_and_scored_on_different_documents():
    """What is only in the half that made the label is worth nothing on the other."""
    codes, tokens, documents = texts()
    unique = tokens + 80 * documents
    for found in labels(codes, unique, documents, range(12)):
        assert found.score == pytest.approx(0.5, abs=0.01)


def test_rare_latents_and_one_document():
    codes, tokens, documents = texts()
    rare = Codes.of(torch.eye(len(tokens), 3))
    assert all(np.isnan(found.score) and not found.tokens for found in labels(rare, tokens, documents, range(3)))
    with pytest.raises(OptionError, match="2 documents or more"):
        labels(codes, tokens, np.zeros(len(tokens), int), range(3))
