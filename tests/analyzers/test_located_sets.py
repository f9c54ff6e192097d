"""What is asked of located sets: planted truth is shown, silence stays silent, numbers can be had
another way.
"""

import copy
from dataclasses import dataclass, fields, replace
from typing import ClassVar

import numpy as np
import pytest
from scipy.stats import spearmanr

from interp.analyzers import redundancy as redundancy_module
from interp.analyzers.coalitions import Coalitions
from interp.analyzers.dissociation import Dissociation
from interp.analyzers.framework import Analyzer, Result
from interp.analyzers.locate_neurons import LocateNeurons
from interp.analyzers.redundancy import Redundancy
from interp.analyzers.stability import Stability
from interp.analyzers.transfer import Transfer
from interp.claims import check, evaluate, from_table
from interp.errors import OptionError, PairError
from interp.experiments.base_behaviour import has_behaviour_of
from interp.experiments.conditions import ConditionResult, PatchSource, evaluate_condition
from interp.experiments.outcomes import Outcomes
from interp.experiments.ranking_sets import scores_of, selected_of
from interp.metrics import Refusal
from interp.models.pair import Pair
from interp.prompts import Contrast, PromptSet
from interp.study import Study
from interp.table import table
from tests import tiny

PLANTED, SECOND = [(1, 5), (1, 17), (1, 30)], [(1, 2), (1, 9), (1, 40)]
LOCATE = LocateNeurons(method="change", top="3")
SMALL = {"random_sets": 19, "control_prompts": 8}


def asked(tuned, base, **options):
    return tiny.study(tuned, base, 16, template=False, **{"max_new_tokens": 1, **options})


@pytest.fixture(scope="module", params=["llama", pytest.param("gpt2", marks=pytest.mark.slow)])
def modules(request):
    """Two skills in neurons of their own: positive prompts are answered with sorry, negative ones
    with help.
    """
    model = tiny.FAMILIES[request.param](seed=7, tie_word_embeddings=False)
    base, first = tiny.planted(model)
    both = tiny.contrast()
    turned = Contrast(both.negative, both.positive)
    second = tuple(neuron for _, neuron in SECOND)
    return (
        tiny.planted(base, neurons=second)[0],
        tiny.planted(first, neurons=second)[0],
        tiny.planted(first, neurons=second, both=turned, word="help")[1],
    )


@pytest.fixture(scope="module")
def study(modules):
    return asked(modules[1], modules[0])


@pytest.fixture(scope="module")
def located(study):
    return LOCATE(study)


def sure(table):
    """The claims by name, every one of them measured again."""
    found = {claim.name: claim for claim in from_table(table.tables["claims"])}
    for claim in found.values():
        check(claim, table)
    return found


@dataclass(frozen=True)
class Told(Analyzer):
    """Selects what it is told to on prompts of each template, or at random by the prompts it is
    given.
    """

    name: ClassVar[str] = "told"
    version: ClassVar[int] = 1

    sets: tuple = ()
    size: int = 6

    def run(self, study):
        scores = np.random.default_rng(int(study.contrast.digest[:12], 16)).random((3, 48))
        size, templates = self.size, {prompt.template for prompt in study.contrast.positive}
        if self.sets:
            chosen = dict(self.sets).get(templates.pop(), ()) if len(templates) == 1 else PLANTED
            size, scores = len(chosen), scores / 10
            for pair in chosen:
                scores[pair] += 1
        layer, index = (part.ravel() for part in np.indices(scores.shape))
        rank = np.empty(scores.size, np.int64)
        rank[np.argsort(-scores.ravel())] = np.arange(1, scores.size + 1)
        columns = {
            "layer": (layer, "key", "block"),
            "neuron": (index, "key", "neuron"),
            "score": (scores.ravel(), "measure", "score"),
            "rank": (rank, "measure", "rank"),
            "selected": (rank <= size, "flag", "selected"),
        }
        return Result(table("", columns), summary={"unit": "neuron"})


def by_template(study):
    parts = [
        PromptSet(
            tuple(replace(p, template=f"frame {row % 2}") for row, p in enumerate(part)),
            part.source,
        )
        for part in (study.contrast.positive, study.contrast.negative)
    ]
    return study.with_prompts(Contrast(*parts))


# ---------------------------------------------------------------------------------------------- stability


def test_planted_neurons_are_located_again_on_halves_and_on_templates(study):
    found = Stability(LOCATE, resamples=1, **SMALL)(by_template(study))
    claims = sure(found)
    assert set(claims) == {"halves", "templates", "elsewhere"}
    assert all(claim.supported and claim.value == 1.0 for claim in claims.values())
    assert found.summary["supported"] is True
    units = found.tables["units"]
    assert set(zip(units["layer"].tolist(), units["neuron"].tolist(), strict=True)) == set(PLANTED)
    assert (units["selected"] == units["halves"]).all()
    assert (units["halves"] == 2).all()


@pytest.mark.slow
def test_random_sets_are_stable_at_the_nominal_rate_and_no_more(study):
    p = []
    for seed in range(60):
        found = Stability(Told(), resamples=1, draws=99)(replace(study, seed=seed, _cache={}))
        p.append(sure(found)["halves"].p)
        assert not found.summary["supported"]
    assert np.mean(np.array(p) <= 0.05) <= 0.05 + 3 * np.sqrt(0.05 * 0.95 / 60)
    assert np.mean(p) > 0.4


def test_rows_of_stability_are_what_two_runs_say(study):
    found = Stability(Told(), resamples=1, draws=50)(study)
    halves = [Told()(study.with_prompts(half)) for half in study.contrast.split(study.seed + 1)]
    one, other = (set(selected_of(half)) for half in halves)
    assert found["jaccard"][0] == len(one & other) / len(one | other)
    assert found["n_first"][0] == found["n_second"][0] == 6
    ranks = [np.argsort(np.argsort(scores_of(half).ravel())) for half in halves]
    assert found["spearman"][0] == pytest.approx(np.corrcoef(*ranks)[0, 1])


def test_a_template_on_which_nothing_is_located_is_the_weakest(study):
    told = Told((("frame 0", tuple(PLANTED)),))
    found = Stability(told, resamples=1, draws=20, random_sets=2, control_prompts=4)(
        by_template(study)
    )
    claim = sure(found)["elsewhere"]
    assert not claim.supported
    assert claim.value == 0.0
    assert claim.high == 1.0
    assert "(of frame 1)" in claim.sentence


# ---------------------------------------------------------------------------------------------- redundancy


def test_neurons_each_of_which_suffices_are_redundant(study):
    """A third of the set takes nothing away: the other two still say sorry."""
    found = Redundancy(replace(LOCATE, top="1"), rounds=3, random_sets=19)(study)
    assert sure(found)["redundant"].supported
    units = found.tables["units"]
    assert {*zip(units["layer"].tolist(), units["neuron"].tolist(), strict=True)} == set(PLANTED)
    assert found["returned_by_this_set"].tolist() == [0.0, 0.0, 0.0]
    assert found["returned_by_sets_so_far"].tolist() == [0.0, 0.0, 1.0]
    assert not found["random_high"].any()
    # what a round begins with, from the metric's own numbers of all that is measured
    measuring = study.with_prompts(study.contrast.split(study.seed)[1])
    donors, everything = (
        PatchSource.from_study(measuring),
        [(layer, index) for layer in range(3) for index in range(48)],
    )
    taken = [(1, int(neuron)) for neuron in units["neuron"][:2]]
    whole, partial, bottom = (
        evaluate_condition(
            measuring, "x", "positive", donors.condition("ablate-base", chosen)
        ).number.mean()
        for chosen in ([], taken, everything)
    )
    assert found["remaining_after_previous_sets"][2] == pytest.approx(
        (partial - bottom) / (whole - bottom), rel=1e-4
    )


@pytest.mark.parametrize(
    "case", [pytest.param("one neuron", marks=pytest.mark.slow), "all three located"]
)
def test_what_falls_with_the_located_set_is_not_redundant(modules, study, case):
    locate = LOCATE
    if case == "one neuron":
        base, tuned = (copy.deepcopy(module) for module in modules[:2])
        tiny.mlps(tuned)[1]["mlp.out"][:, [5, 17]] = 0
        study, locate = asked(tuned, base), replace(LOCATE, top="1")
    found = Redundancy(locate, rounds=2, random_sets=2, control_prompts=4)(study)
    claim = sure(found)["redundant"]
    assert not claim.supported
    assert claim.value == 0.0
    assert found["returned_by_sets_so_far"].tolist() == [1.0, 1.0]


def test_what_may_not_be_selected_is_not_located_again(study, located):
    locate = replace(LOCATE, top="1", parent="0" * 20, excluded=((1, 5),))
    units = Redundancy(locate, rounds=2, random_sets=2, control_prompts=2)(study).tables["units"]
    assert {*zip(units["layer"].tolist(), units["neuron"].tolist(), strict=True)} == {
        (1, 17),
        (1, 30),
    }


def test_random_sets_that_do_as_much_are_counted(study):
    """0.3 - 0.1 is less than 0.2: a tie must not be lost to the last bit."""
    flags = np.arange(10)
    hits = table(
        "redundancy-answers",
        {
            "round": (np.repeat([1, 2], 10), "key", "round"),
            "cluster": ([f"c{n}" for n in flags] * 2, "key", "cluster"),
            "prompt_id": (np.tile(flags, 2), "key", "prompt"),
            "returned_by_sets_so_far": (np.concatenate([flags < 1, flags < 3]), "flag", "hit"),
        },
    )
    rows = [{"k": 1, "remaining_after_previous_sets": 1.0, "predicted": 0.0}] * 2
    random = redundancy_module._random(hits, [(2, draw, 0.3) for draw in range(19)])
    run = table(
        "redundancy",
        {"round": ([1, 2], "key", "round")},
        tables={"answers": hits, "random": random},
    )
    finding = evaluate([redundancy_module._claim(rows, 1, "")], run)[0]
    assert finding.p == 1.0
    assert finding.value == pytest.approx(0.2)


# ---------------------------------------------------------------------------------------------- coalitions


def test_a_planted_ranking_foretells_halves_and_a_turned_one_does_not(study):
    run = LocateNeurons(method="integrated", top="3", steps=3)(study)
    found = Coalitions(run, draws=12, prompts=4)(study)
    claim = sure(found)["coalitions"]
    assert claim.supported
    assert claim.value == pytest.approx(spearmanr(found["predicted"], found["exact"]).statistic)
    assert found.summary["slope"] == pytest.approx(
        np.polyfit(found["predicted"], found["exact"], 1)[0]
    )
    assert (found["size"] == 72).all()
    pairs = found["predicted"].reshape(-1, 2).sum(1)
    np.testing.assert_allclose(pairs, run["score"].sum(), atol=1e-9)
    turned = replace_scores(run, -run["score"])
    against = sure(Coalitions(turned, draws=12, prompts=4)(study))["coalitions"]
    assert not against.supported
    assert against.value == pytest.approx(-claim.value)


def replace_scores(run, scores):
    return replace(run, data={**run.data, "score": scores})


@pytest.mark.slow
def test_a_half_that_holds_all_that_changed_is_the_base_and_one_that_holds_none_is_the_tuned_model(
    study, located
):
    marks = np.isin(
        located["layer"] * 48 + located["neuron"],
        [layer * 48 + neuron for layer, neuron in PLANTED],
    )
    found = Coalitions(
        replace_scores(located, marks.astype(float)), draws=16, prompts=16, permutations=9
    )(study)
    inside = found["predicted"] == 3
    assert inside.any()
    base, tuned = (
        evaluate_condition(
            study, role, "positive", PatchSource.from_study(study).condition(role, [])
        )
        for role in ("base", "tuned")
    )
    np.testing.assert_allclose(
        found["exact"][inside], (tuned.number - base.number).mean(), rtol=1e-4
    )
    # later neurons of the tuned model have still heard it
    assert (
        np.abs(found["exact"][found["predicted"] == 0]).max() < 0.01 * found["exact"][inside].min()
    )


@pytest.mark.slow
def test_scores_at_random_foretell_at_the_nominal_rate(study, located):
    generator, p = np.random.default_rng(0), []
    for _ in range(30):
        run = replace_scores(
            located, generator.permutation(located["score"].reshape(3, 48), axis=1).ravel()
        )
        p.append(sure(Coalitions(run, draws=8, prompts=2, permutations=99)(study))["coalitions"].p)
    assert np.mean(np.array(p) <= 0.05) <= 0.05 + 3 * np.sqrt(0.05 * 0.95 / 30)


# ---------------------------------------------------------------------------------------------- transfer


def permuted(module, layers):
    """The same function, the neurons of some blocks in another order."""
    child, order = copy.deepcopy(module), np.roll(np.arange(48), 7)
    for layer in layers:
        for name, matrix in tiny.mlps(child)[layer].items():
            matrix.copy_((matrix[:, order] if name == "mlp.out" else matrix[order]).clone())
        if hasattr(child, "transformer"):
            bias = child.transformer.h[layer].mlp.c_fc.bias.data
            bias.copy_(bias[order].clone())
    return child


def test_a_set_is_reused_in_a_further_child(modules, study, located):
    far = asked(tiny.perturbed(modules[1], 0.002, seed=3), modules[0])
    found = Transfer(located, study.pair, recomputed=LOCATE(far), permutations=30, **SMALL)(far)
    claims = sure(found)
    assert set(claims) == {"correspondence", "reused", "recomputed"}
    assert all(claim.supported for claim in claims.values())
    assert found.summary["supported"] is True
    assert claims["recomputed"].value == 1.0
    for layer in range(3):
        one, other = (
            tiny.mlps(s.pair.tuned.module)[layer]["mlp.out"].double().numpy() for s in (study, far)
        )
        norms, rows = (
            np.linalg.norm(one, axis=0) * np.linalg.norm(other, axis=0),
            found["layer"] == layer,
        )
        # neurons of the other skill write nothing in the source
        cosines = np.divide((one * other).sum(0), norms, out=np.zeros(48), where=norms > 0)
        np.testing.assert_allclose(found["cosine"][rows], cosines, atol=1e-9)
        assert found.tables["layers"]["cosine"][layer] == pytest.approx(
            found["cosine"][rows].mean()
        )


@pytest.mark.parametrize("layers", [(1,), pytest.param((0, 1, 2), marks=pytest.mark.slow)])
def test_a_set_is_not_reused_where_neurons_were_permuted(modules, study, located, layers):
    far = asked(permuted(modules[1], layers), permuted(modules[0], layers))
    for group in ("positive", "negative"):
        assert far.answers("tuned", group) == study.answers("tuned", group)
    found = Transfer(located, study.pair, recomputed=LOCATE(far), permutations=30, **SMALL)(far)
    claims = sure(found)
    assert not claims["correspondence"].supported
    assert set(claims) == {"correspondence", "recomputed"}
    assert claims["recomputed"].value == 0.0
    assert found.summary["reused"] is found.summary["supported"] is False
    assert "do not correspond" in found.summary["limits"][0]


def test_a_transfer_to_where_nothing_can_be_measured_shows_nothing(modules, study, located):
    for far in (asked(modules[1], None), asked(modules[0], copy.deepcopy(modules[0]))):
        found = Transfer(located, study.pair, permutations=19, **SMALL)(far)
        assert sure(found)["correspondence"].supported
        assert found.summary["supported"] is False
        assert "was not reused" in found.summary["limits"][0]


def test_transfers_that_mean_nothing_are_refused(modules, study, located):
    small = Pair.from_modules(tiny.llama(intermediate_size=40), None, tiny.tokenizer(False))
    with pytest.raises(PairError, match="give a fine-tuned model of the same base"):
        Transfer(located, small)(study)
    with pytest.raises(OptionError, match="locate one kind"):
        Transfer(located, study.pair, recomputed=replace(LOCATE, unit="head")(study))(study)


# ---------------------------------------------------------------------------------------------- dissociation


def second(study):
    turned = Contrast(study.contrast.negative, study.contrast.positive)
    return replace(
        study, contrast=turned, metric=Refusal.from_tokenizer(tiny.tokenizer(), ["help"]), _cache={}
    )


def test_two_planted_skills_come_apart(modules):
    study = asked(modules[2], modules[0])
    other = second(study)
    runs = [LocateNeurons(method="cross", top="3")(each) for each in (study, other)]
    assert [set(selected_of(run)) for run in runs] == [set(PLANTED), set(SECOND)]
    found = Dissociation(*runs, other, random_sets=19, control_prompts=2)(study)
    claims = sure(found)
    assert all(claim.supported for claim in claims.values())
    assert found.summary["supported"] is True
    assert found.summary["sentence"].startswith("Each of the two sets carries its own behaviour")
    own = found["set"] == found["behaviour"]
    assert (found["matches_base"][own] == 1).all()
    assert (found["matches_tuned"][~own] == 1).all()
    assert (found["as_base"][own] == 1).all()
    assert (found["as_base"][~own] == 0).all()
    np.testing.assert_allclose(found["recovery"], np.where(own, 1.0, 0.0), atol=0.3)
    assert (found["exhibits_behaviour_tuned"] == 1).all()


def test_a_broken_answer_is_neither_models_behaviour():
    def judged(shown, malformed):
        none = {
            one.name: np.zeros(4)
            for one in fields(ConditionResult)
            if one.name not in ("condition", "group", "texts")
        }
        flags = {"exhibits": np.array(shown, bool), "malformed": np.array(malformed, bool)}
        return ConditionResult("x", "positive", **(none | flags))

    base, under = judged([0, 0, 1, 1], [0, 1, 0, 0]), judged([0, 0, 1, 0], [1, 1, 0, 0])
    assert has_behaviour_of(base, under).tolist() == [False, True, True, False]


@pytest.mark.parametrize("kind", ["stability", "redundancy", "transfer", "dissociation"])
def test_other_words_than_the_bases_change_nothing(modules, kind, monkeypatch):
    """Long answers part after some tokens for reasons that do not matter: what is counted is the
    behaviour.
    """
    found, answers = [], Study.answers_to

    def parted(study, groups, role, intervention=None, see=None):
        own = answers(study, groups, role, intervention, see)
        if role == "tuned" or intervention:
            return own
        return {
            group: [[*answer[:-1], answer[-1] ^ 1] for answer in each]
            for group, each in own.items()
        }

    for replaced in (answers, parted):
        monkeypatch.setattr(Study, "answers_to", replaced)
        study = by_template(asked(modules[2], modules[0], max_new_tokens=3))
        other = second(study)
        runs = [LocateNeurons(method="cross", top="3")(each) for each in (study, other)]
        analyzer = {
            "stability": Stability(LOCATE, resamples=1, draws=9, random_sets=2, control_prompts=4),
            "redundancy": Redundancy(LOCATE, rounds=2, random_sets=2, control_prompts=4),
            "transfer": Transfer(
                runs[0], study.pair, permutations=19, random_sets=2, control_prompts=4
            ),
            "dissociation": Dissociation(*runs, other, random_sets=2, control_prompts=4),
        }[kind]
        made = analyzer(study)
        found.append(
            [(one.name, one.value, one.sentence) for one in from_table(made.tables["claims"])]
        )
    assert found[0] == found[1]
    values = {name: value for name, value, _ in found[0]}
    whole = {
        "stability": "elsewhere",
        "redundancy": "redundant",
        "transfer": "reused",
        "dissociation": "first-own",
    }
    assert values[whole[kind]] == (0.0 if kind == "redundancy" else 1.0)


@pytest.mark.parametrize("kind", ["stability", "redundancy"])
def test_excluded_units_are_in_no_random_set_of_a_check(modules, kind, monkeypatch):
    study, drawn, of_each = by_template(asked(modules[2], modules[0])), [], Outcomes.of_each
    monkeypatch.setattr(
        Outcomes,
        "of_each",
        lambda self, sets: of_each(self, drawn.extend(sets := list(sets)) or sets),
    )
    allowed = {(1, unit) for unit in (0, 1, 2, 3, 4, 6, 7)}
    excluded = tuple((1, unit) for unit in range(48) if (1, unit) not in {*allowed, *PLANTED})
    options = {"random_sets": 3, "control_prompts": 4}

    def units(left_out):
        drawn.clear()
        check = {
            "stability": Stability(LOCATE, resamples=1, draws=9, excluded=left_out, **options),
            "redundancy": Redundancy(LOCATE, rounds=2, excluded=left_out, **options),
        }[kind](study)
        controls = " ".join(one.control for one in from_table(check.tables["claims"]))
        located = {
            pair for row in check.tables["units"].rows() for pair in [(row["layer"], row["neuron"])]
        }
        return {pair for chosen in drawn for pair in chosen} - located, controls

    left, said = units(excluded)
    assert left
    assert left <= allowed
    assert f"none of {len(excluded)} excluded units among them" in said
    left, said = units(())
    assert not left <= allowed
    assert "excluded" not in said


ALIKE = {
    "stability": ("limits", "do not differ in the behaviour on these prompts"),
    "redundancy": ("sentence", "do not differ in the behaviour: no set can return it"),
    "transfer": (
        "limits",
        "needs selected units, a base and prompts where the models differ in behaviour",
    ),
    "dissociation": ("sentence", "a behaviour is the same in both models"),
}


@pytest.mark.parametrize("kind", ALIKE)
def test_a_behaviour_that_is_alike_is_said_in_one_sentence(modules, kind, monkeypatch):
    """Both models show it on the same prompts, though their weights differ: nothing is claimed of
    what sets return.
    """
    answers = Study.answers_to
    monkeypatch.setattr(
        Study,
        "answers_to",
        lambda study, groups, role, edit=None, see=None: answers(
            study, groups, role if edit else "tuned", edit, see
        ),
    )
    study = by_template(asked(modules[2], modules[0]))
    other = second(study)
    runs = [LocateNeurons(method="cross", top="3")(each) for each in (study, other)]
    made = {
        "stability": Stability(LOCATE, resamples=1, draws=9, random_sets=2, control_prompts=4),
        "redundancy": Redundancy(LOCATE, rounds=2, random_sets=2, control_prompts=4),
        "transfer": Transfer(
            runs[0], study.pair, permutations=19, random_sets=2, control_prompts=4
        ),
        "dissociation": Dissociation(*runs, other, random_sets=2, control_prompts=4),
    }[kind](study)
    where, said = ALIKE[kind]
    text = made.summary[where] if where == "sentence" else " ".join(made.summary["limits"])
    assert said in text
    assert "nan" not in text + made.summary["sentence"]
    assert not {"elsewhere", "redundant", "reused", "first-own"} & set(sure(made))


@pytest.mark.slow
def test_each_with_the_set_of_the_other_they_do_not(modules):
    study = asked(modules[2], modules[0])
    other = second(study)
    runs = [LocateNeurons(method="cross", top="3")(each) for each in (other, study)]
    again = Dissociation(*runs, other, random_sets=1, control_prompts=2)(study)
    assert not any(claim.supported for claim in sure(again).values())
    assert again.summary["supported"] is False


def test_skills_of_which_one_is_none_do_not_come_apart(study, located):
    other = second(study)
    found = Dissociation(located, located, other, random_sets=2, control_prompts=2)(study)
    assert found.summary["supported"] is False
    assert not sure(found)
    assert "the same in both models" in found.summary["sentence"]


def test_dissociations_that_mean_nothing_are_refused(modules, study, located):
    heads = replace(LOCATE, unit="head")(study)
    with pytest.raises(OptionError, match="locate one kind"):
        Dissociation(located, heads, second(study))(study)
    with pytest.raises(OptionError, match="different pairs"):
        Dissociation(located, located, asked(modules[1], modules[0]))(study)
