"""Diff mining: planted tokens, silence, identities, and the definition with all logits kept."""

import copy
import functools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from interp.analyzers.diff_mining import DiffMining
from interp.analyzers.diff_mining import topics as topics_module
from interp.analyzers.diff_mining.compute import TokenCounts, beyond_median
from interp.analyzers.diff_mining.topics import PositionSample, topics_table
from interp.errors import OptionError, PairError, PromptError
from interp.models.pair import Pair
from tests import tiny

FAST = settings(max_examples=40, deadline=None, derandomize=True)
# of several lengths, the shortest of two tokens
TEXTS = [
    *tiny.PROMPTS,
    "a gate",
    "open the door . close a window ? please tell me how",
    "new locks",
]
ALL_ROWS = 1000


def pair_of(tuned, base):
    return Pair.from_modules(tuned, base, tiny.tokenizer(False))


def study_of(tuned, base, given=TEXTS, **options):
    return tiny.text_study(tuned, base, given, **options)


@functools.cache
def steady_base():
    """A model in which the first dimension of what the head reads is above 0 everywhere."""
    model = tiny.llama(3)
    with torch.no_grad():
        model.get_input_embeddings().weight[:, 0] = 4.0
    return model


def biased(model, token, size):
    """A child in which the logit of one token is larger at every position, and nothing else is."""
    child = copy.deepcopy(model)
    with torch.no_grad():
        child.lm_head.weight[token, 0] += size
    return child


def fine_tuned(seed):
    """A child of the steady base: of one recipe, which moves all weights alike, and a little of its
    own.
    """
    return tiny.perturbed(tiny.perturbed(steady_base(), 0.02, 100), 0.001, seed)


def token_id(word):
    return tiny.tokenizer().convert_tokens_to_ids(f"\u0120{word}")


def by_token(table, column="score"):
    return dict(zip(table["token_id"].tolist(), table[column].tolist(), strict=True))


@functools.cache
def trained_study(**options):
    base = tiny.llama(3)
    return study_of(tiny.perturbed(base, 0.02), base, **options)


# ----------------------------------------------------------------------------------- planted and silent


@pytest.mark.parametrize(("size", "direction"), [(0.5, "more"), (-0.5, "less")])
def test_a_bias_on_one_row_of_the_head_puts_the_token_at_every_position(size, direction):
    token = token_id("Sorry")
    table = DiffMining()(study_of(biased(steady_base(), token, size), steady_base()))
    assert table["token_id"].tolist() == [token]
    assert table["evidence"].tolist() == [" Sorry"]
    assert table["score"].tolist() == [pytest.approx(np.sign(size))]
    assert table["likelier"].tolist() == [float(size > 0)]
    assert np.sign(table["gain"][0]) == np.sign(size)
    assert table["direction"].tolist() == [direction]
    assert "«»" in table["example"][0]


def test_a_planted_token_is_beyond_controls_that_moved_everywhere():
    """The fine-tuned model moved as every control did, and has a bias besides."""
    base, token = steady_base(), token_id("Sorry")
    controls = [pair_of(fine_tuned(seed), base) for seed in range(2, 7)]
    study = study_of(biased(fine_tuned(1), token, 2.0), base)
    table = DiffMining(controls)(study)
    assert table["token_id"][0] == token
    assert table["score"][0] == pytest.approx(1)
    assert table["p"][0] == pytest.approx(1 / 6)
    maxima = table.tables["controls"]["maximum"]
    assert maxima[0] == pytest.approx(table["statistic"][0])
    assert maxima[0] > 5 * maxima[1:].max()
    assert table.tables["controls"]["evidence"][0] == " Sorry"
    assert table["control_low"][0] <= table["control_mean"][0] <= table["control_high"][0] < 0.9
    # the planted token is what tells it from the controls: without it the model is one of them
    plain = DiffMining(controls)(study_of(fine_tuned(1), base))
    assert plain.summary["largest"] < 2 * plain.summary["largest_of_controls"]


@pytest.mark.parametrize("topics_by", ["positions", "texts"])
def test_of_the_identical_pair_every_table_is_empty(topics_by):
    base = tiny.llama(3)
    controls = [pair_of(tiny.perturbed(base, 0.02, seed), base) for seed in (2, 3)]
    for some in ((), controls):
        study = study_of(copy.deepcopy(base), base)
        table = DiffMining(some, topics=2, topics_by=topics_by)(study)
        assert len(table) == 0
        assert len(table.tables["topics"]) == 0
        assert len(table.tables["controls"]) == 1 + len(some)
    assert table.tables["controls"]["maximum"][0] == 0
    assert table.tables["controls"]["evidence"][0] == ""


# ------------------------------------------------------------------------------------------- identities


def test_the_models_exchanged_give_the_opposite():
    base = tiny.llama(3)
    tuned = tiny.perturbed(base, 0.02)
    there, back = (
        DiffMining(rows=ALL_ROWS)(study_of(*both)) for both in ((tuned, base), (base, tuned))
    )
    one, other = by_token(there), by_token(back)
    assert len(one) > 50
    assert one.keys() == other.keys()
    assert all(other[token] == pytest.approx(-score, abs=1e-12) for token, score in one.items())
    gains = by_token(there, "gain"), by_token(back, "gain")
    assert all(
        gains[1][token] == pytest.approx(-gain, abs=1e-6) for token, gain in gains[0].items()
    )


def test_a_constant_on_all_logits_changes_nothing():
    """The same vector on every row of the head adds one number to all logits of a position, which
    changes no probability.
    """
    base = tiny.llama(3)
    tuned = tiny.perturbed(base, 0.02)
    shifted = copy.deepcopy(tuned)
    with torch.no_grad():
        shifted.lm_head.weight += torch.linspace(-1, 1, 32)
    one, other = (DiffMining(rows=ALL_ROWS)(study_of(model, base)) for model in (tuned, shifted))
    assert one["token_id"].tolist() == other["token_id"].tolist()
    np.testing.assert_allclose(other["score"], one["score"], atol=1e-12)
    np.testing.assert_allclose(other["likelier"], one["likelier"], atol=1e-12)
    np.testing.assert_allclose(other["gain"], one["gain"], atol=1e-5)
    assert other["example"].tolist() == one["example"].tolist()
    assert other.tables["topics"]["tokens"].tolist() == one.tables["topics"]["tokens"].tolist()


def test_a_constant_by_position_changes_no_count():
    """Exact numbers, so that nothing is rounded: a multiple of 1/64 everywhere."""
    generator = torch.Generator().manual_seed(0)
    base, change = (torch.randint(-200, 200, (20, 60), generator=generator) / 64 for _ in range(2))
    weights, numbers = torch.full((20,), 1 / 20), torch.arange(20)
    found = []
    for constant in (torch.zeros(20, 1), torch.randint(-300, 300, (20, 1), generator=generator)):
        counts = TokenCounts(60, 3)
        sizes, tokens = counts.update(base, base + change + constant, weights, numbers)
        found.append((counts, sizes, tokens))
    (one, sizes, tokens), (other, shifted_sizes, shifted_tokens) = found
    assert torch.equal(one.shares[0], other.shares[0])
    assert torch.equal(one.shares[1], other.shares[1])
    assert torch.equal(one.likelier, other.likelier)
    assert torch.equal(one.seen_at, other.seen_at)
    assert torch.equal(tokens, shifted_tokens)
    torch.testing.assert_close(sizes, shifted_sizes, rtol=0, atol=1e-4)
    torch.testing.assert_close(one.gain, other.gain, rtol=0, atol=1e-4)


def test_batches_and_padding_change_nothing():
    one = DiffMining(rows=ALL_ROWS)(trained_study())
    for size in (1, 3):
        base, tuned = trained_study().pair.base.module, trained_study().pair.tuned.module
        other = DiffMining(rows=ALL_ROWS)(study_of(tuned, base, batch_size=size))
        assert other["token_id"].tolist() == one["token_id"].tolist()
        for name in ("score", "likelier"):
            np.testing.assert_allclose(other[name], one[name], atol=1e-12)
        np.testing.assert_allclose(other["gain"], one["gain"], atol=1e-5)
        # two texts begin alike, and rounding decides between them
        before = [[text.split("«")[0] for text in table["example"]] for table in (one, other)]
        assert before[0] == before[1]
        topics = [table.tables["topics"] for table in (one, other)]
        assert topics[0]["tokens"].tolist() == topics[1]["tokens"].tolist()
        np.testing.assert_allclose(topics[0]["mass"], topics[1]["mass"], atol=1e-4)


def test_the_order_of_the_texts_changes_no_score():
    base, tuned = trained_study().pair.base.module, trained_study().pair.tuned.module
    one, other = (
        by_token(DiffMining(rows=ALL_ROWS)(study_of(tuned, base, given)))
        for given in (TEXTS, TEXTS[::-1])
    )
    assert one == pytest.approx(other, abs=1e-12)


# ------------------------------------------------------------------------------- the definition, stored


def stored(tuned, base, given, k):
    """Net shares, likelier shares, gains and KL with all logits kept, in float64, text by text."""
    net, likelier, gain, kl, n_positions = 0.0, 0.0, 0.0, 0.0, 0
    for one in given:
        ids = torch.tensor([tiny.tokenizer(False)(one)["input_ids"]])
        with torch.no_grad():
            after, before = (model(ids).logits[0, 1:].numpy() for model in (tuned, base))
        # of float32, so that ties are those of the arithmetic in use
        d = (after - before).astype(np.float64)
        after, before = after.astype(np.float64), before.astype(np.float64)
        log_after, log_before = (
            x
            - np.log(np.exp(x - x.max(1, keepdims=True)).sum(1, keepdims=True))
            - x.max(1, keepdims=True)
            for x in (after, before)
        )
        share = np.zeros(d.shape[1])
        for row in d:
            order = np.argsort(-row, kind="stable")
            median = np.sort(row)
            share[[v for v in order[:k] if row[v] > median[(len(row) - 1) // 2]]] += 1 / len(d)
            share[[v for v in order[-k:] if row[v] < median[len(row) // 2]]] -= 1 / len(d)
        net = net + share / len(given)
        likelier = likelier + (log_after > log_before).sum(0)
        gain = gain + (log_after - log_before).sum(0)
        kl += (np.exp(log_after) * (log_after - log_before)).sum()
        n_positions += len(d)
    return net, likelier / n_positions, gain / n_positions, kl / n_positions


def test_streamed_is_what_stored_logits_give():
    study = trained_study()
    table = DiffMining(k=8, rows=ALL_ROWS)(study)
    net, likelier, gain, kl = stored(study.pair.tuned.module, study.pair.base.module, TEXTS, 8)
    assert table.summary["kl"] == pytest.approx(kl, rel=1e-4)
    assert table.summary["kl_of_controls"] == []
    scores = np.zeros(len(net))
    scores[table["token_id"]] = table["score"]
    np.testing.assert_allclose(scores, net, atol=1e-9)
    np.testing.assert_allclose(table["likelier"], likelier[table["token_id"]], atol=1e-9)
    np.testing.assert_allclose(table["gain"], gain[table["token_id"]], atol=1e-5)
    assert np.abs(net).max() > 0.2


def test_short_texts_count_as_much_as_long_ones():
    base, tuned = trained_study().pair.base.module, trained_study().pair.tuned.module
    short, long = "a gate", TEXTS[-2]
    both, first, second = (
        by_token(DiffMining(rows=ALL_ROWS)(study_of(tuned, base, given)))
        for given in ([short, long], [short], [long])
    )
    assert first
    for token in first.keys() | second.keys():
        mean = (first.get(token, 0) + second.get(token, 0)) / 2
        assert both.get(token, 0) == pytest.approx(mean, abs=1e-9)


@FAST
@given(st.data())
def test_beyond_the_median_is_numpys_with_ties(data):
    n_tokens = data.draw(st.integers(1, 11))
    k = data.draw(st.integers(1, n_tokens))
    rows = data.draw(
        st.lists(
            st.lists(st.integers(-2, 2), min_size=n_tokens, max_size=n_tokens),
            min_size=1,
            max_size=4,
        )
    )
    difference = torch.tensor(rows, dtype=torch.float32)
    ordered = np.sort(np.array(rows, float), axis=1)
    for largest in (True, False):
        values, _ = difference.topk(k, dim=1, largest=largest)
        counted = beyond_median(difference, values, largest).numpy()
        if largest:
            wanted = values.numpy() > ordered[:, (n_tokens - 1) // 2, None]
        else:
            wanted = values.numpy() < ordered[:, n_tokens // 2, None]
        np.testing.assert_array_equal(counted, wanted)


def test_the_example_is_the_first_of_equally_large_positions():
    difference = torch.zeros(4, 30)
    difference[1:, 5] = torch.tensor([1.0, 2.0, 2.0])
    whole, parts = TokenCounts(30, 1), TokenCounts(30, 1)
    weights, numbers = torch.full((4,), 0.25), torch.tensor([10, 11, 13, 12])
    whole.update(torch.zeros(4, 30), difference.clone(), weights, numbers)
    for at in (2, 0, 3, 1):
        some = slice(at, at + 1)
        parts.update(torch.zeros(1, 30), difference[some].clone(), weights[some], numbers[some])
    for counts in (whole, parts):
        assert counts.seen_at[0, 5] == 12
        assert (counts.seen_at >= 0).sum() == 1
        assert counts.shares[0][5] == pytest.approx(0.75)


# ------------------------------------------------------------------------------------------------ topics


def rank_one_sample(by="positions"):
    positions, tokens = np.array([1.0, 0.5, 2.0, 0.25]), np.array([4.0, 3.0, 2.0, 1.0])
    sample = PositionSample(by)
    values = torch.tensor(np.outer(positions, tokens), dtype=torch.float32)
    ids = torch.tensor([[9, 4, 30, 12]] * 4)
    sample.add(values, ids, torch.arange(4), torch.tensor([0, 0, 1, 1]))
    return sample, tokens


@pytest.mark.parametrize("by", ["positions", "texts"])
def test_a_matrix_of_rank_one_is_one_topic(by):
    sample, tokens = rank_one_sample(by)
    table = topics_table(sample, 1, tiny.tokenizer(), 0)
    assert len(table) == 1
    assert table["mass"][0] == pytest.approx(1)
    assert table["prevalence"][0] == pytest.approx(1)
    shares = tokens / tokens.sum()
    entropy = -(shares * np.log(shares)).sum()
    assert table["concentration"][0] == pytest.approx(1 - entropy / np.log(4), abs=1e-3)
    words = [repr(tiny.tokenizer().decode([token])) for token in (9, 4, 30, 12)]
    assert table["tokens"][0] == " ".join(words)


def test_two_blocks_are_two_topics():
    """Tokens that rise at different positions are apart, the larger topic first."""
    sample = PositionSample("positions")
    sample.add(
        torch.tensor([[3.0, 2.0]] * 4 + [[1.0, 0.5]] * 2),
        torch.tensor([[10, 11]] * 4 + [[20, 21]] * 2),
        torch.arange(6),
        torch.zeros(6, dtype=torch.int64),
    )
    table = topics_table(sample, 2, tiny.tokenizer(), 0)
    words = [[repr(tiny.tokenizer().decode([t])) for t in part] for part in ((10, 11), (20, 21))]
    for row, (first, second) in enumerate(words):
        assert table["tokens"][row].startswith(f"{first} {second}")
    np.testing.assert_allclose(table["prevalence"], [4 / 6, 2 / 6])
    np.testing.assert_allclose(table["mass"], [20 / 23, 3 / 23], atol=0.01)


def test_positions_are_sampled_by_their_number_not_by_their_batch(monkeypatch):
    monkeypatch.setattr(topics_module, "MOST_POSITIONS", 7)
    values, ids = torch.rand(40, 3, generator=torch.Generator().manual_seed(0)), torch.arange(120)
    ids = ids.reshape(40, 3)
    kept = []
    for order in (range(40), reversed(range(40))):
        sample = PositionSample("positions")
        for at in order:
            part = slice(at, at + 1)
            sample.add(values[part], ids[part], torch.tensor([at]), torch.tensor([0]))
        matrix, tokens = sample.matrix()
        assert matrix.shape[0] == 7
        kept.append((matrix.toarray(), tokens))
    np.testing.assert_array_equal(kept[0][0], kept[1][0])
    np.testing.assert_array_equal(kept[0][1], kept[1][1])


# --------------------------------------------------------------------------------------------- bad input


def test_a_control_of_another_base_is_refused():
    other = tiny.llama(4)
    control = pair_of(tiny.perturbed(other, 0.02), other)
    with pytest.raises(PairError, match="another base"):
        DiffMining([control])(trained_study())


def test_bad_input_is_one_clear_line():
    base = tiny.llama(3)
    with pytest.raises(OptionError, match="needs a base"):
        DiffMining()(study_of(base, None))
    with pytest.raises(PromptError, match=r"text 1 has 1 token"):
        DiffMining()(study_of(tiny.perturbed(base), base, ["open the door", "a"]))
    for options in ({"k": 0}, {"rows": 0}, {"topics": -1}, {"topics_by": "rows"}):
        with pytest.raises(OptionError):
            DiffMining(**options)
