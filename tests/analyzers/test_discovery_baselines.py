"""Baselines of discovery: the context-free share, roles of tokens, and where the divergence is."""

import copy
import functools

import numpy as np
import pytest
import torch
from scipy.optimize import minimize

from interp.analyzers.discovery_baselines import DiscoveryBaselines
from interp.analyzers.discovery_baselines.compute import FIT, REST, Change, Halves
from interp.analyzers.discovery_baselines.roles import BREAK, END, MARK, SEEN, Roles
from interp.errors import OptionError, PairError, PromptError
from interp.models.pair import Pair
from interp.prompts import OneClass, Prompt, PromptSet
from interp.study import Study
from tests import tiny

TEXTS = [
    *tiny.PROMPTS,
    "a gate",
    "new locks\n\n- open the door\n- close a window",
    "please please lock the gate . please paint the gate .",
    "open the door . close a window ? please tell me how to paint old fences and lock new gates "
    "Sorry , I cannot help open the door .",
]


def pair_of(tuned, base):
    return Pair.from_modules(tuned, base, tiny.tokenizer(False))


def study_of(tuned, base, given=TEXTS, **options):
    return tiny.text_study(tuned, base, given, **options)


@functools.cache
def models():
    base = tiny.llama(3)
    with torch.no_grad():
        base.lm_head.weight *= 3  # distributions that are not flat
    return tiny.perturbed(base, 0.02), base


def with_bias(model, values):
    """A child whose logits are the model's plus the same numbers at every position."""
    child = copy.deepcopy(model)
    head = torch.nn.Linear(*reversed(model.lm_head.weight.shape), bias=True)
    with torch.no_grad():
        head.weight.copy_(model.lm_head.weight)
        head.bias.copy_(values)
    child.lm_head = head
    return child.eval()


def log_softmax(x):
    x = x - x.max(-1, keepdims=True)
    return x - np.log(np.exp(x).sum(-1, keepdims=True))


def all_log_probabilities(model, coded):
    """Text by text, float64, without the first position."""
    with torch.no_grad():
        logits = [model(torch.tensor([one.ids])).logits[0, 1:] for one in coded]
    return [log_softmax(part.double().numpy()) for part in logits]


def divergence(p, q):
    return (np.exp(p) * (p - q)).sum(-1)


def roles_of(table):
    keys = zip(table["role"].tolist(), table["where"].tolist(), strict=True)
    return dict(zip(keys, table["change"].tolist(), strict=True))


# ---------------------------------------------------------------------------------- planted and silent


def test_a_change_without_context_is_explained_by_its_bias():
    """One vector added to all logits: the mean of e is that vector, up to a constant that changes
    nothing.
    """
    _, base = models()
    values = 2 * torch.randn(len(tiny.tokenizer()), generator=torch.Generator().manual_seed(0))
    table = DiscoveryBaselines()(study_of(with_bias(base, values), base))
    assert table.summary["kl"] > 0.3
    assert table.summary["context_free_share_of_mean"] == pytest.approx(1, abs=1e-3)
    assert table.summary["context_free_share"] == pytest.approx(1, abs=1e-3)


def test_a_change_that_depends_on_the_context_is_not():
    """Every other text's change is the opposite of the rest's: no one bias explains anything."""
    generator = np.random.default_rng(0)
    base = log_softmax(generator.normal(0, 2, (400, 30)))
    bias = 2 * generator.normal(0, 1, 30) * np.where(np.arange(400) % 2, 1, -1)[:, None]
    roles = Roles(np.zeros((3, 30), bool), np.zeros(30, bool))
    change, texts_given = Change(30, 3), [[1, 2]] * 400
    model, before = (torch.tensor(log_softmax(x), dtype=torch.float32) for x in (base + bias, base))
    change.update(before, model, texts_given, range(400), np.arange(400) // 200, roles)
    mean = change.gain[FIT] / change.count[FIT]
    after = divergence(log_softmax(base + bias), log_softmax(base + mean))[200:].mean()
    assert change.divergence[REST] / 200 == pytest.approx(
        divergence(log_softmax(base + bias), base)[200:].mean(), rel=1e-4
    )
    assert 1 - after / (change.divergence[REST] / 200) < 0.3


def test_of_the_identical_pair_every_table_is_empty():
    tuned, base = models()
    controls = [pair_of(tuned, base)]
    for given in ((), controls):
        table = DiscoveryBaselines(given)(study_of(copy.deepcopy(base), base))
        assert len(table) == 0
        assert len(table.tables["tokens"]) == 0
        assert len(table.tables["positions"]) == 0
        assert table.summary["kl"] == 0
        assert table.summary["context_free_share"] is None
    assert table.tables["controls"]["divergence"][1] > 0
    assert table.tables["controls"]["context_free_share"][1] < 1


@pytest.mark.parametrize("size", [1.5, -0.5])
def test_the_log_odds_of_a_role_change_by_what_was_added_to_its_logits(size):
    """Exactly, at every position, whatever else is likely there: here for the end of the text."""
    _, base = models()
    values = torch.zeros(len(tiny.tokenizer()))
    values[1] = size  # <|end|>
    found = roles_of(DiscoveryBaselines()(study_of(with_bias(base, values), base)))
    ends = {where: change for (role, where), change in found.items() if role == END}
    assert set(ends) == {"all", "positions 1 to 15", "positions 16 to 31"}
    assert all(change == pytest.approx(size, abs=1e-4) for change in ends.values())
    assert np.sign(found[SEEN, "all"]) == -np.sign(size)


def test_tokens_that_were_read_are_counted_up_to_each_position():
    """A bias on one word: the log odds of what was read rise where it was read and fall elsewhere."""
    _, base = models()
    word = tiny.tokenizer(False)(" gate")["input_ids"][-1]
    values = torch.zeros(len(tiny.tokenizer()))
    values[word] = 1.0
    tuned = with_bias(base, values)
    table = DiscoveryBaselines()(study_of(tuned, base, TEXTS[-2:]))
    coded = Halves.split(study_of(tuned, base, TEXTS[-2:])).texts
    changes = []
    for one, after, before in zip(
        coded, *(all_log_probabilities(model, coded) for model in (tuned, base)), strict=True
    ):
        for at in range(1, len(one.ids)):
            read = sorted({*one.ids[: at + 1]} - {0, 1, 2, 3})
            inside = [np.exp(logs[at - 1][read]).sum() for logs in (after, before)]
            odds = [np.log(share / (1 - share)) for share in inside]
            changes.append(odds[0] - odds[1])
            assert (changes[-1] > 0) == (word in read)
    assert roles_of(table)[SEEN, "all"] == pytest.approx(np.mean(changes), abs=1e-4)


def test_roles_are_read_off_the_tokenizer():
    tokenizer = tiny.tokenizer(False)
    roles = Roles.from_tokenizer(tokenizer, len(tokenizer), [1, 10**6])
    labels = [[tokenizer.decode([v]) for v in np.flatnonzero(part)] for part in roles.sets]
    assert np.flatnonzero(roles.sets[0]).tolist() == [1]
    assert labels[1] == ["\n"]
    assert sorted(labels[2]) == ["#", "*", "+", "-"]
    assert np.flatnonzero(roles.special).tolist() == [0, 1, 2, 3]
    assert roles.present.tolist() == [True] * 4
    assert (END, BREAK, MARK, SEEN) == ("end of the text", "line break", "list mark", SEEN)


# ------------------------------------------------------------------------------- the definition, stored


def test_all_numbers_are_those_of_stored_logits():
    tuned, base = models()
    study = study_of(tuned, base)
    table = DiscoveryBaselines(fit_steps=15, rows=7)(study)
    halves = Halves.split(study)
    assert sorted(halves.prompt_ids) == list(range(len(TEXTS)))
    after, before = (all_log_probabilities(model, halves.texts) for model in (tuned, base))
    kl = [divergence(*both) for both in zip(after, before, strict=True)]
    total = np.concatenate(kl)
    assert table.summary["kl"] == pytest.approx(total.mean(), rel=1e-4)
    # shares, of the mean change and of the best bias there is
    p, q = (
        [np.concatenate([logs[row] for row in halves.rows(half)]) for half in (FIT, REST)]
        for logs in (after, before)
    )

    def loss(bias, half):
        return divergence(p[half], log_softmax(q[half] + bias)).mean()

    def gradient(bias, half):
        return (np.exp(log_softmax(q[half] + bias)) - np.exp(p[half])).mean(0)

    mean = (p[FIT] - q[FIT]).mean(0)
    share = 1 - loss(mean, REST) / loss(0, REST)
    assert table.summary["context_free_share_of_mean"] == pytest.approx(share, abs=1e-4)
    best = minimize(loss, mean, (FIT,), "L-BFGS-B", gradient, tol=1e-12).x
    share = 1 - loss(best, REST) / loss(0, REST)
    assert table.summary["context_free_share"] == pytest.approx(share, abs=2e-3)
    # tokens and positions
    product = sum((np.exp(a) * (a - b)).sum(0) for a, b in zip(after, before, strict=True))
    tokens = table.tables["tokens"]
    order = np.argsort(-np.abs(product))[:7]
    assert tokens["token_id"].tolist() == order.tolist()
    np.testing.assert_allclose(tokens["contribution"], product[order] / len(total), rtol=1e-3)
    positions = table.tables["positions"]
    np.testing.assert_allclose(positions["divergence"], np.sort(total)[::-1][:7], rtol=1e-3)
    for row, prompt in enumerate(positions["prompt_id"]):
        at = halves.prompt_ids.index(prompt)
        ids, position = halves.texts[at].ids, positions["position"][row]
        assert kl[at][position - 1] == pytest.approx(positions["divergence"][row], rel=1e-3)
        read = positions["example"][row].split("«»")[0]
        assert tiny.tokenizer().decode(list(ids[: position + 1])).endswith(read)
    assert table.summary["share_of_listed_positions"] == pytest.approx(
        np.sort(total)[-7:].sum() / total.sum(), rel=1e-3
    )


def test_contributions_of_all_tokens_are_the_divergence():
    tuned, base = models()
    table = DiscoveryBaselines(rows=1000)(study_of(tuned, base))
    assert table.tables["tokens"]["contribution"].sum() == pytest.approx(table.summary["kl"])
    assert table.tables["tokens"]["share"].sum() == pytest.approx(1)
    assert table.tables["positions"]["share"].sum() == pytest.approx(1)


def test_every_step_of_the_fit_explains_more_of_the_half_it_is_fitted_on():
    """Judged on the same texts in both halves, so that the fitted and the judged half agree."""
    tuned, base = models()
    twice = PromptSet(tuple(Prompt(at, text, f"c{at}") for at, text in enumerate(TEXTS)), "texts")
    study = Study(pair_of(tuned, base), OneClass(twice), None)
    halves = Halves.split(study)
    rows = halves.rows(FIT)
    same = Halves([*(halves.texts[r] for r in rows)] * 2, [*rows] * 2, np.repeat([0, 1], len(rows)))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Halves, "split", classmethod(lambda cls, study: same))
        shares = [
            DiscoveryBaselines(fit_steps=steps)(study).summary["context_free_share"]
            for steps in (0, 1, 2, 4, 8)
        ]
    assert (np.diff(shares) > 0).all()


# ------------------------------------------------------------------------------------------ invariance


def test_batches_and_padding_change_nothing():
    tuned, base = models()
    one = DiscoveryBaselines()(study_of(tuned, base))
    for size in (1, 4):
        other = DiscoveryBaselines()(study_of(tuned, base, batch_size=size))
        for name, tables in (
            ("change", (one, other)),
            *(
                (column, (one.tables[part], other.tables[part]))
                for part, column in (
                    ("tokens", "contribution"),
                    ("positions", "divergence"),
                    ("controls", "context_free_share"),
                )
            ),
        ):
            np.testing.assert_allclose(tables[1][name], tables[0][name], rtol=1e-3, atol=1e-5)


def test_controls_are_measured_as_the_fine_tuned_model_is():
    """Each control's numbers are those of a run in which it is the fine-tuned model."""
    tuned, base = models()
    others = [tiny.perturbed(base, 0.02, seed) for seed in (5, 6)]
    table = DiscoveryBaselines([pair_of(other, base) for other in others], rows=1000)(
        study_of(tuned, base)
    )
    alone = [DiscoveryBaselines(rows=1000)(study_of(other, base)) for other in others]
    by_model = table.tables["controls"]
    assert by_model["model_number"].tolist() == [0, 1, 2]
    np.testing.assert_allclose(
        by_model["context_free_share"][1:],
        [one.summary["context_free_share"] for one in alone],
        atol=1e-5,
    )
    assert table.summary["kl_of_controls"] == pytest.approx([one.summary["kl"] for one in alone])
    changes = np.stack([one["change"] for one in alone])
    np.testing.assert_allclose(table["control_low"], changes.min(0), atol=1e-6)
    np.testing.assert_allclose(table["control_high"], changes.max(0), atol=1e-6)
    np.testing.assert_allclose(table["control_mean"], changes.mean(0), atol=1e-6)


def test_no_number_enters_the_test_over_methods():
    tuned, base = models()
    table = DiscoveryBaselines()(study_of(tuned, base))
    assert "maximum" not in table.tables["controls"].columns
    assert "claims" not in table.tables


# --------------------------------------------------------------------------------------------- bad input


def test_bad_input_is_one_clear_line():
    tuned, base = models()
    with pytest.raises(OptionError, match="needs a base"):
        DiscoveryBaselines()(study_of(base, None))
    with pytest.raises(PromptError, match="two clusters or more"):
        DiscoveryBaselines()(study_of(tuned, base, TEXTS[:1]))
    other = tiny.llama(4)
    with pytest.raises(PairError, match="another base"):
        DiscoveryBaselines([pair_of(tiny.perturbed(other), other)])(study_of(tuned, base))
    for options in ({"fit_steps": -1}, {"rows": 0}):
        with pytest.raises(OptionError):
            DiscoveryBaselines(**options)
