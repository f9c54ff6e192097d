"""How many steps an integral takes, and that a beginning which prompts share changes no score."""

import numpy as np
import pytest
import torch

from interp.analyzers.locate_neurons import LocateNeurons, Top
from interp.analyzers.locate_neurons.steps import AUTO, agreement, rules, sweeps
from interp.engines import TorchEngine
from interp.engines.shared_prefix import full_passes
from interp.maths.quadrature import STEPS
from interp.models.model import Model
from interp.models.pair import Pair
from interp.prompts import Contrast, Prompt, PromptSet
from interp.study import Study
from tests import tiny

BEGINNING = "tell me how the old gate and the new door please " * 2
METHODS = ("integrated", "integrated-zero", "integrated-fixed", "cross", "act-grad")


class Passes(TorchEngine):
    """The torch engine, counting the cells of passes with gradients."""

    def _pass(self, model, batch, **options):
        if options.get("live") or options.get("gradient_of"):
            seen.append(batch.ids.numel())
        return super()._pass(model, batch, **options)


seen: list = []


def pair_of(family="llama", size=0.05) -> Pair:
    base = tiny.exact(tiny.FAMILIES[family](seed=3, tie_word_embeddings=False))
    return Pair.from_modules(tiny.exact(tiny.perturbed(base, size)), base, tiny.tokenizer())


def study_of(pair: Pair, pairs=6, **options) -> Study:
    """Prompts that begin alike."""
    sets = [
        PromptSet(
            tuple(
                Prompt(row, BEGINNING + prompt.text, prompt.cluster)
                for row, prompt in enumerate(part)
            ),
            name,
        )
        for part, name in zip(
            (tiny.contrast(pairs).positive.prompts, tiny.contrast(pairs).negative.prompts),
            "+-",
            strict=True,
        )
    ]
    return Study(pair, Contrast(*sets), tiny.metric(), engine=Passes(), **options)


def both(study: Study, **options):
    """The table as it is made, and over whole prompts; how many cells each ran with gradients."""
    tables, cells = [], []
    for whole in (False, True):
        LocateNeurons(top="5", **{**options, "steps": 3})(study)  # what is proven once
        seen.clear()
        if whole:
            with full_passes(study.pair.tuned), full_passes(study.pair.base):
                tables.append(LocateNeurons(top="5", **options)(study))
        else:
            tables.append(LocateNeurons(top="5", **options)(study))
        cells.append(sum(seen))
    return tables, cells


@pytest.mark.parametrize("unit", ["neuron", "head"])
@pytest.mark.parametrize(
    "method", [METHODS[0], *(pytest.param(name, marks=pytest.mark.slow) for name in METHODS[1:])]
)
@pytest.mark.parametrize("family", ["llama", pytest.param("gpt2", marks=pytest.mark.slow)])
def test_what_prompts_share_is_read_once_and_changes_no_score(family, method, unit):
    study = study_of(pair_of(family))
    (found, expected), (some, every) = both(study, method=method, unit=unit, steps=7)
    assert some < 0.6 * every
    size = np.abs(expected["score"]).max()
    np.testing.assert_allclose(found["score"], expected["score"], atol=1e-9 * size)
    assert found["selected"].tolist() == expected["selected"].tolist()
    if method != "act-grad":
        ours, theirs = (table.tables["paths"] for table in (found, expected))
        for column in ("log_odds_start", "log_odds_tuned", "attributed"):
            np.testing.assert_allclose(ours[column], theirs[column], rtol=1e-9, atol=1e-9)
        biases = [table.summary["attributed_to_biases"] for table in (found, expected)]
        assert biases[0] == pytest.approx(biases[1], abs=1e-9)


@pytest.mark.parametrize("positions", ["content", "decision", "last"])
def test_positions_of_prompts_that_begin_alike(positions):
    (found, expected), _ = both(study_of(pair_of()), positions=positions, steps=3)
    np.testing.assert_allclose(
        found["score"], expected["score"], atol=1e-9 * np.abs(expected["score"]).max()
    )
    ours, theirs = (table.tables["paths"]["attributed"] for table in (found, expected))
    np.testing.assert_allclose(ours, theirs, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(
    "method", ["integrated", pytest.param("integrated-zero", marks=pytest.mark.slow)]
)
def test_batches_change_neither_scores_nor_steps(method):
    pair = pair_of()
    tables = [
        LocateNeurons(method=method, top="5")(study_of(pair, batch_size=size)) for size in (1, 4, 6)
    ]
    for table in tables[1:]:
        np.testing.assert_allclose(
            table["score"], tables[0]["score"], atol=1e-9 * np.abs(table["score"]).max()
        )
        for name in ("steps", "steps_at_cap", "steps_jaccard"):
            assert table.summary[name] == tables[0].summary[name]
        ours, theirs = (one.tables["paths"]["attributed"] for one in (table, tables[0]))
        np.testing.assert_allclose(ours, theirs, rtol=1e-9)


def test_what_is_the_same_in_both_models_scores_exactly_zero():
    module = tiny.llama(seed=3)
    same = Pair(
        Model.wrap("tuned", module), Model.wrap("base", tiny.llama(seed=3)), tiny.tokenizer()
    )
    table = LocateNeurons(top="5")(study_of(same))
    assert not table["score"].any()
    assert table.summary["steps"] == 7
    assert table.summary["steps_jaccard"] == table.summary["steps_spearman"] == 1.0


# ---------------------------------------------------------------------------------------------- how many


def test_each_node_is_passed_once_and_two_rules_at_least():
    found = rules(AUTO)
    assert [len(rule) for rule in found] == list(STEPS)
    made = sweeps(AUTO, found)
    assert [(len(rule), len(nodes)) for rule, nodes in made] == [(7, 7), (15, 8), (31, 16)]
    assert sorted(node for _, nodes in made for node in nodes) == list(found[-1].nodes)
    for steps in STEPS:
        fixed = rules(steps)
        assert [(len(rule), nodes) for rule, nodes in sweeps(steps, fixed)] == [
            (steps, fixed[-1].nodes)
        ]


def test_agreement_by_hand():
    generator = np.random.default_rng(0)
    score, floor = generator.normal(size=(4, 50)), np.full((4, 50), 1e-3)
    assert agreement((score, floor), (score, floor), Top.parse("20")) == (1.0, 1.0)
    other = score.copy()
    best, next_ = np.argsort(-score, axis=None)[[19, 20]]
    other.flat[best], other.flat[next_] = score.flat[next_], score.flat[best]
    found = agreement((score, floor), (other, floor), Top.parse("20"))
    assert found.jaccard == pytest.approx(19 / 21)
    assert 0.999 < found.spearman < 1
    assert not found.is_sufficient
    # order below rounding error does not count
    noise = np.where(np.abs(score) < 0.5, generator.normal(size=(4, 50)) * 1e-5, score)
    again = np.where(np.abs(score) < 0.5, generator.normal(size=(4, 50)) * 1e-5, score)
    assert agreement((noise, floor), (again, floor), Top.parse("20")).is_sufficient
    assert not agreement((noise, 0 * floor), (again, 0 * floor), Top.parse("20")).is_sufficient
    zero = np.zeros((4, 50))
    assert agreement((zero, floor), (zero, floor), Top.parse("20")) == (1.0, 1.0)
    assert agreement((zero, floor), (score, floor), Top.parse("20")) == (0.0, 0.0)


def test_steps_are_added_until_scores_agree_and_the_sentence_says_where_they_do_not():
    """A path that bends hard needs more; the scores are those of the fixed rule either way."""
    found = {}
    for name, size in (("near", 0.02), ("far", 0.4)):
        study = study_of(pair_of(size=size))
        found[name] = LocateNeurons(top="20")(study)
        fixed = LocateNeurons(top="20", steps=found[name].summary["steps"])(study)
        np.testing.assert_allclose(found[name]["score"], fixed["score"], rtol=1e-9, atol=1e-12)
    near, far = (found[name].summary for name in ("near", "far"))
    assert near["steps"] == 7
    assert near["steps_spearman"] >= 0.99
    assert near["steps_jaccard"] >= 0.95
    assert far["steps"] > 7
    assert far["steps_at_cap"] == ("the last two rules still differ" in far["sentence"])


def test_the_cap_is_said(monkeypatch):
    from interp.analyzers.locate_neurons import steps

    monkeypatch.setattr(steps, "MIN_SPEARMAN", 1.1)
    table = LocateNeurons(top="5")(study_of(pair_of()))
    assert table.summary["steps"] == 31
    assert table.summary["steps_at_cap"]
    assert "at 31 steps, the maximum, the last two rules still differ" in table.summary["sentence"]
    assert not LocateNeurons(top="5", steps=3)(study_of(pair_of())).summary["steps_at_cap"]


@pytest.mark.parametrize(
    "dtype", [torch.bfloat16, pytest.param(torch.float16, marks=pytest.mark.slow)]
)
def test_half_precision_scores_are_those_of_single(dtype):
    """Nodes near zero scale gradients down: in float16 they must not vanish."""
    tables = []
    for kind in (torch.float32, dtype):
        base = tiny.llama(seed=3, tie_word_embeddings=False)
        tuned = tiny.perturbed(base, 0.1)
        pair = Pair.from_modules(tuned.to(kind), base.to(kind), tiny.tokenizer())
        tables.append(LocateNeurons(top="5", steps=31)(study_of(pair)))
    exact, half = (table["score"] for table in tables)
    assert np.corrcoef(exact, half)[0, 1] > 0.99
    assert np.abs(half - exact).max() < 0.1 * np.abs(exact).max()
