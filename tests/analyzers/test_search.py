"""``--top smallest``: what is left cannot spare a unit, returns the behaviour, and is what was
planted.
"""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from interp import organisms
from interp.analyzers.framework import Known
from interp.analyzers.locate_neurons import LocateNeurons, Top
from interp.analyzers.locate_neurons.search import prune, smallest_set
from interp.errors import OptionError
from interp.experiments.conditions import PatchSource
from interp.experiments.dose import dose_effect
from interp.experiments.outcomes import Outcomes
from interp.experiments.row_selection import changed_rows
from interp.models.units import NEURON
from tests import tiny


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_what_is_pruned_reaches_and_can_spare_nothing(data):
    """Effects of a rule with substitutes: every group must have a member in the set."""
    units = [(0, index) for index in range(data.draw(st.integers(1, 24)))]
    groups = data.draw(
        st.lists(st.sets(st.sampled_from(units), min_size=1), min_size=1, max_size=5)
    )

    def effect(chosen):
        return float(np.mean([bool(group & set(chosen)) for group in groups]))

    kept = prune(units, effect, 1.0)
    assert effect(kept) == 1.0
    assert set(kept) <= set(units)
    assert kept == sorted(kept), "the order of the ranking is kept"
    assert len(kept) == 1 or all(
        effect([unit for unit in kept if unit != spared]) < 1.0 for spared in kept
    )


@pytest.mark.parametrize("family", ["llama", pytest.param("gpt2", marks=pytest.mark.slow)])
def test_the_planted_set_is_found_among_others(family):
    study = tiny.planted_study(family)
    planted = [(1, 5), (1, 17), (1, 30)]
    ranking = [(0, 3), planted[0], (2, 9), planted[1], (1, 1), (0, 7), planted[2], (2, 2)]
    rows = list(range(len(study.contrast.positive)))
    assert changed_rows(study) == rows
    outcomes = Outcomes(study, PatchSource.from_study(study), "necessity", rows)
    assert dose_effect(outcomes, planted)["effect"] == 1.0
    found = smallest_set(study, NEURON, ranking)
    assert set(found.units) <= set(planted)
    assert found.effect == dose_effect(outcomes, found.units)["effect"] >= 0.95
    assert found.recovery == dose_effect(outcomes, found.units)["recovery"]
    assert found.prefix <= 7
    assert found.prompts == len(rows)
    for spared in found.units:
        fewer = [unit for unit in found.units if unit != spared]
        assert not fewer or dose_effect(outcomes, fewer)["effect"] < 0.95
    # what cannot return the behaviour is no set at all
    assert smallest_set(study, NEURON, [(0, 3), (2, 9)]).units == []


def test_answers_in_other_words_are_no_reason_to_search_on():
    """Long answers may part late for reasons that do not matter: the set is of the behaviour,
    whatever the words.
    """
    study = tiny.planted_study("llama", max_new_tokens=3)
    planted = [(1, 5), (1, 17), (1, 30)]
    found = smallest_set(study, NEURON, planted)
    other = tiny.planted_study("llama", max_new_tokens=3)
    for answer in other.answers("base", "positive"):
        answer[-1] ^= 1
    again = smallest_set(other, NEURON, planted)
    rows = changed_rows(other)
    assert (
        Outcomes(other, PatchSource.from_study(other), "necessity", rows, exact=True)
        .of(planted)
        .equal.sum()
        == 0
    )
    assert (again.units, again.effect) == (found.units, found.effect)


def test_prompts_where_the_behaviour_is_alike_are_left_out():
    study = tiny.planted_study("llama", max_new_tokens=3)
    base, tuned = (study.answers(role, "positive") for role in ("base", "tuned"))
    for row in range(len(base)):
        # other words than the fine-tuned model's, and the same behaviour
        base[row][:] = [*tuned[row][:-1], tuned[row][-1] ^ 1]
        assert base[row] != tuned[row]
        assert changed_rows(study) == list(range(row + 1, len(base)))
    nothing = smallest_set(study, NEURON, [(1, 5), (1, 17), (1, 30)])
    assert (nothing.units, nothing.prefix, nothing.prompts) == ([], None, 0)


def test_the_table_selects_it_and_says_how(tmp_path):
    study = tiny.planted_study("llama")
    table = LocateNeurons(method="integrated", top="smallest", steps=3)(study)
    chosen = {(row["layer"], row["neuron"]) for row in table.rows() if row["selected"]}
    assert chosen <= {(1, 5), (1, 17), (1, 30)}
    assert table.summary["n_selected"] == len(chosen) <= table.summary["searched_prefix"]
    assert f"and {len(chosen)} of these suffice" in table.summary["sentence"]
    same = tiny.study(
        study.pair.base.module, study.pair.base.module, template=False, max_new_tokens=1
    )
    none = LocateNeurons(method="weight", top="smallest")(same)
    assert none.summary["n_selected"] == 0
    assert "finds no MLP neuron that changed" in none.summary["sentence"]


def test_a_behaviour_that_is_alike_is_one_clear_sentence():
    """The models differ in their weights and their words, and both show the behaviour on the same
    prompts.
    """
    study = tiny.planted_study("llama")
    for at, answer in enumerate(study.answers("base", "positive")):
        answer[:] = study.answers("tuned", "positive")[at]
    table = LocateNeurons(method="integrated", top="smallest", steps=3)(study)
    assert table.summary["n_selected"] == table.summary["searched_prompts"] == 0
    assert table.summary["sentence"].startswith(
        "base and fine-tuned model show the behaviour on the same prompts of the selection split:"
        " no set can return it"
    )
    assert "nan" not in table.summary["sentence"]


def test_there_must_be_a_base_to_return_to(run, only_line, tmp_path):
    assert str(Top.parse("smallest")) == "smallest"
    with pytest.raises(OptionError, match="--top smallest needs a base model to return to"):
        LocateNeurons(method="act-grad", top="smallest").check(Known(has_base=False))
    files = [
        organisms.prompts("refusal/planted", "locate", group) for group in ("harmful", "harmless")
    ]
    code, _, err = run(
        "locate-neurons",
        "organism:refusal/planted",
        "--positive",
        files[0],
        "--negative",
        files[1],
        "--top",
        "smallest",
        "--store",
        tmp_path / "runs",
    )
    assert code == 2
    assert "--top smallest needs a base" in only_line(err)
    assert not (tmp_path / "runs").exists()
