"""Probes for the base's answer: folds, labels, an oracle, a label that is in the stream or not."""

import copy

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression

from interp.analyzers.wrapped_probes import WrappedProbes
from interp.analyzers.wrapped_probes.compute import (
    Probed,
    chosen_depth,
    labelled_answers,
    probe_model,
)
from interp.claims import from_table
from interp.errors import OptionError
from interp.experiments.base_answers import BaseAnswers
from interp.experiments.cluster_probes import cluster_folds, cross_validated, shuffled_by_cluster
from interp.experiments.last_streams import last_streams
from interp.figures import plot
from interp.models.pair import Pair
from tests import tiny


def claims_by_name(table):
    return {claim.name: claim for claim in from_table(table.tables["claims"])}


def noise(n=120, width=10, seed=0):
    return np.random.default_rng(seed).normal(size=(n, width))


CLUSTERS = [str(at // 4) for at in range(120)]


def test_folds_keep_clusters_and_are_of_similar_size():
    folds = cluster_folds(CLUSTERS, 0)
    for name in set(CLUSTERS):
        assert len({folds[at] for at, own in enumerate(CLUSTERS) if own == name}) == 1
    assert np.bincount(folds).tolist() == [24] * 5
    assert len(set(cluster_folds(["a", "a", "b"], 0).tolist())) == 2


@pytest.mark.parametrize("width", [10, 300])
def test_a_probe_of_a_fold_is_scikit_learn_s_on_the_others(width):
    """Also with more dimensions than prompts, where it is fitted in the span of these."""
    generator = np.random.default_rng(1)
    labels = generator.integers(0, 3, 120)
    features = noise(width=width) + 7
    features[:, :3] += 4 * np.eye(3)[labels]
    folds = cluster_folds(CLUSTERS, 0)
    correct = cross_validated(features, labels, folds)
    wanted = np.zeros(120, bool)
    for fold in range(5):
        fitted = folds != fold
        inputs = features - features[fitted].mean(0)
        inputs /= np.sqrt(np.square(inputs[fitted]).mean())
        probe = LogisticRegression(max_iter=2000).fit(inputs[fitted], labels[fitted])
        wanted[~fitted] = probe.predict(inputs[~fitted]) == labels[~fitted]
    # the iterations may end elsewhere by a thousandth
    assert (correct == wanted).mean() > 0.98
    assert correct.mean() > 0.6


def test_noise_is_not_readable_and_one_label_is_constant():
    labels = np.random.default_rng(4).integers(0, 2, 120)
    folds = cluster_folds(CLUSTERS, 0)
    assert 0.3 < cross_validated(noise(width=200), labels, folds).mean() < 0.7
    assert cross_validated(noise(), np.zeros(120, np.int64), folds).all()


def test_shuffles_keep_units_and_the_size_of_classes():
    clusters = [str(at // 3) for at in range(60)]
    labels = np.array([at // 3 % 4 for at in range(60)])
    generator = np.random.default_rng(0)
    for _ in range(20):
        shuffled = shuffled_by_cluster(labels, clusters, generator)
        assert np.bincount(shuffled).tolist() == np.bincount(labels).tolist()
        assert all(len(set(shuffled[at : at + 3])) == 1 for at in range(0, 60, 3))
    # two labels in a cluster can be exchanged, or be moved elsewhere
    twins = shuffled_by_cluster(
        np.array([0, 1] * 30), [str(at // 2) for at in range(60)], generator
    )
    assert np.bincount(twins).tolist() == [30, 30]
    assert (twins != np.array([0, 1] * 30)).any()


def test_the_depth_is_the_deepest_that_is_nearly_the_best():
    correct = np.arange(20) < np.array([0, 20, 18, 19, 12])[:, None]
    base = Probed("base", correct, ~correct, np.zeros((20, 5, 1)))
    assert chosen_depth(base) == 3


@pytest.fixture(scope="module")
def study():
    """A base whose answer's first token says which of two verbs a prompt ends with, and a child
    that says sorry to all of them.
    """
    base, tuned = tiny.planted(tiny.llama(seed=7, tie_word_embeddings=False), pairs=32)
    return tiny.study(tuned, base, 32, template=False, max_new_tokens=1)


def test_a_label_has_clusters_in_both_splits(study):
    answers = BaseAnswers.from_study(study)
    labelled = labelled_answers(answers, changed_only=True, token=0, after_answer=False)
    assert answers.changed[labelled.held_out].all()
    for rows in (labelled.selection, labelled.held_out):
        for label in range(labelled.n_labels):
            own = [answers.clusters[row] for row in rows if labelled.labels[row] == label]
            assert len(set(own)) >= 2
    tokens = [answers.answers[row][labelled.token] for row in labelled.held_out]
    codes = labelled.labels[labelled.held_out].tolist()
    assert len(set(zip(tokens, codes, strict=True))) == len(set(codes)) == labelled.n_labels
    whole = labelled_answers(answers, changed_only=False, token=1, after_answer=False)
    assert len(whole.held_out) > len(labelled.held_out)
    with pytest.raises(OptionError, match="label_token is 9"):
        labelled_answers(answers, True, 9, False)


def test_streams_are_read_at_the_last_token(study):
    """Of the prompt, or of the base's answer up to the label; whatever the batches."""
    wide = tiny.study(
        study.pair.tuned.module, study.pair.base.module, 8, template=False, max_new_tokens=3
    )
    answers = BaseAnswers.from_study(wide)
    for after_answer in (False, True):
        labelled = labelled_answers(answers, False, 3, after_answer)
        texts = labelled.texts[:5]
        streams = last_streams(wide, wide.pair.tuned, texts, "tuned")
        for text, prompt, answer, stream in zip(
            texts, answers.encoded, answers.answers, streams, strict=False
        ):
            read = [*prompt.ids, *answer[:2]] if after_answer else [*prompt.ids]
            assert list(text.ids) == read
            with torch.no_grad():
                states = wide.pair.tuned.module.model(
                    input_ids=torch.tensor([read]), output_hidden_states=True
                ).hidden_states
            np.testing.assert_allclose(stream[:-1], [s[0, -1] for s in states[:-1]], atol=1e-5)


def test_below_the_planted_block_both_models_are_read_alike(study):
    """The neurons are in the second block: before it the streams and the probes are equal."""
    table = WrappedProbes(permutations=19)(study)
    rows = {
        (row["role"], row["depth"]): row for row in table.rows() if row["role"] in ("base", "tuned")
    }
    for depth in (0, 1):
        first, second = rows["base", depth], rows["tuned", depth]
        assert first["accuracy"] == second["accuracy"]
        assert first["selection"] == second["selection"]
    assert rows["base", 1]["model"] == "base"
    figure = plot(table)
    assert {"base", "fine-tuned model", "random start", "words of the prompt"} <= {
        trace.name for trace in figure.data
    }


def test_a_stream_without_the_label_is_told_from_one_with_it(study):
    """A child whose last block writes over its stream: what the base reads there is gone."""
    base = study.pair.base.module
    gone = copy.deepcopy(base)
    with torch.no_grad():
        for block in gone.model.layers:
            for matrix in (block.self_attn.o_proj, block.mlp.down_proj):
                matrix.weight.zero_()
        gone.model.embed_tokens.weight[:] = gone.model.embed_tokens.weight.mean(0)
    answers = BaseAnswers.from_study(study)
    labelled = labelled_answers(answers, False, 1, False)
    other = Pair.from_modules(gone, base, tiny.tokenizer(False)).tuned
    lost, kept = (probe_model(answers, labelled, "x", model) for model in (other, study.pair.base))
    assert kept.held_out[-1].mean() > labelled.largest + 0.2
    assert lost.held_out[-1].mean() <= labelled.largest + 1e-9
    controls = [study.pair] * 5
    table = WrappedProbes(controls, probed="all", permutations=19)(study)
    assert len(table.tables["controls"]) == 5
    # the fine-tuned model itself as its controls
    assert not claims_by_name(table)["lost-beyond-controls"].supported
    answers_of = table.tables["answers"]
    lost_here = answers_of["base"].mean() - answers_of["tuned"].mean()
    np.testing.assert_allclose(table.tables["controls"]["lost"], lost_here)


def test_without_different_answers_there_is_no_label():
    base = tiny.llama(seed=7, tie_word_embeddings=False)
    with torch.no_grad():
        base.get_output_embeddings().weight.zero_()
    study = tiny.study(tiny.perturbed(base, 0.1), base, 16, template=False, max_new_tokens=2)
    table = WrappedProbes(permutations=19)(study)
    assert set(claims_by_name(table)) == {"answers-changed"}
    assert table.summary["labels"] == 1
    assert table.summary["supported"] is False
    assert any("no label to probe for" in line for line in table.summary["limits"])
    assert "no label to probe for" in table.summary["sentence"]
