"""Behaviours that their user names: phrases and continuations, their numbers against arithmetic,
their words.
"""

import json

import numpy as np
import pytest
import torch
from scipy.special import logsumexp

from interp.analyzers.locate_neurons import METHODS, LocateNeurons
from interp.analyzers.tuco import Tuco
from interp.analyzers.verify_neurons import VerifyNeurons
from interp.capture import make_batch
from interp.errors import MetricError
from interp.experiments.ablated_metric import AblatedMetric
from interp.experiments.conditions import PatchSource, evaluate_condition
from interp.experiments.warnings import behaviour_warnings
from interp.figures import plot
from interp.metrics import Behaviour, Refusal, load_behaviour, read_behaviour
from interp.metrics.continuations import Continuations
from interp.metrics.first_tokens import FirstTokens
from interp.metrics.metric_labels import RESERVED_COLUMNS, behaviour_column
from interp.metrics.phrases import Phrases
from interp.prompts import OneClass, Prompt, PromptSet
from interp.report.page import render_page
from interp.studies import load_study
from interp.study import Study
from tests import tiny


def written(folder, text, name="behaviour.yaml"):
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


# ------------------------------------------------------------------------------------------- phrases


@pytest.mark.parametrize(
    ("where", "answer", "yes"),
    [
        ("anywhere", "Well. BIEN S\u00dbR, d\u2019accord", True),
        ("anywhere", "Of course", False),
        ("first-sentence", "Well. Bien s\u00fbr", False),
        ("first-sentence", "Well, bien s\u00fbr. Yes", True),
        ("first-sentence", "At 3.5 bien s\u00fbr", True),
        ("first-sentence", "Well\nbien s\u00fbr", False),
        ("start", " bien s\u00fbr !", True),
        ("start", "bien s\u00fbrement", False),
        ("start", "Oh bien s\u00fbr", False),
        ("start", "D\u2019Accord", True),
        ("start", "", False),
    ],
)
def test_phrases_are_sought_where_asked(where, answer, yes):
    assert Phrases(("Bien s\u00fbr", "d'accord"), where=where).matches(answer) is yes


@pytest.mark.parametrize(
    ("where", "answer", "yes"),
    [
        ("anywhere", "Oui, LE chat", True),
        ("anywhere", "apple", False),
        ("start", "le chat", True),
        ("start", "Oui le", False),
        ("anywhere", "l\u2019eau", True),
    ],
)
def test_expressions_too(where, answer, yes):
    assert Phrases((), (r"\ble\b", r"\bl'\w"), where).matches(answer) is yes


@pytest.mark.parametrize(
    ("given", "begun", "settled"),
    [
        (dict(where="anywhere"), "Well, I am sorry", True),
        (dict(where="anywhere"), "Well.", False),
        (dict(where="anywhere", patterns=("we$",)), "we", False),
        (dict(where="first-sentence"), "Well. S", True),
        (dict(where="first-sentence"), "Well, s", False),
        (dict(where="first-sentence", patterns=("we$",)), "we", False),
        (dict(where="first-sentence", patterns=("we$",)), "we. A", True),
        (dict(where="start"), "S", False),
        (dict(where="start"), "Sorry", False),
        (dict(where="start"), "Sorry,", True),
        (dict(where="start"), "We are", True),
    ],
)
def test_what_follows_changes_nothing_once_it_is_settled(given, begun, settled):
    reader = Phrases(("sorry",), **given)
    assert reader.is_decided(begun) is settled
    if settled:
        assert {reader.matches(begun + more) for more in (" sorry", ". We", "rry", " we")} == {
            reader.matches(begun)
        }


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (dict(), "no phrase and no regex"),
        (dict(phrases=(" ",)), "blank"),
        (dict(patterns=("(",)), "is invalid"),
        (dict(patterns=("a*",)), "matches an empty answer"),
        (dict(phrases=("a",), where="end"), "where is 'end'"),
    ],
)
def test_phrases_that_say_nothing_are_refused(given, said):
    with pytest.raises(MetricError, match=said):
        Phrases(**given)


# ------------------------------------------------------------------------------------------- continuations

SETS = {
    "single": ([(3,), (7,)], []),
    "single against single": ([(3,), (7,)], [(4,)]),
    "one long": ([(3, 4, 5)], []),
    "tree": ([(3, 4), (3, 5, 6), (7,)], []),
    "trees": ([(3, 4), (3, 5, 6), (7,)], [(3, 6), (1, 2)]),
}


def probabilities(seed=0, vocabulary=9):
    """A language: the distribution of the next token after any beginning."""

    def after(ids):
        logits = np.random.default_rng([seed, len(ids), *ids]).normal(size=vocabulary) * 3
        return logits - logsumexp(logits)

    return after


def rows_of(number, after, keep):
    """Logits at the last columns of every suffix, as a batch would have them: columns before the
    prompt's are noise.
    """
    rows = np.random.default_rng(5).normal(size=(len(number.suffixes), keep, 9))
    for row, suffix in enumerate(number.suffixes):
        for end in range(len(suffix) + 1):
            # a shift that cancels
            rows[row, keep - 1 - len(suffix) + end] = after(suffix[:end]) + 2.5
    return rows


@pytest.mark.parametrize("name", SETS)
def test_log_odds_of_continuations_are_those_of_their_probabilities(name):
    wanted, against = (tuple(found) for found in SETS[name])
    number, after = Continuations(wanted, against), probabilities()
    joint = {
        ids: sum(after(ids[:end])[token] for end, token in enumerate(ids))
        for ids in (*wanted, *against)
    }
    inside = logsumexp([joint[ids] for ids in wanted])
    outside = logsumexp([joint[ids] for ids in against]) if against else np.log1p(-np.exp(inside))
    keep = number.objective.keep
    logits = torch.tensor(
        np.concatenate([rows_of(number, after, keep), rows_of(number, probabilities(1), keep)])
    )
    found = number.objective.function(logits)
    assert found.shape == (2,)
    assert float(found[0]) == pytest.approx(inside - outside, abs=1e-9)
    logits.requires_grad_(True)
    assert torch.autograd.gradcheck(number.objective.function, logits)


def test_single_tokens_are_first_tokens():
    logits = torch.randn(6, 1, 20)
    torch.testing.assert_close(
        Continuations(((3,), (7,))).objective.function(logits),
        FirstTokens((3, 7)).objective.function(logits),
    )


def test_what_leaves_the_tree_does_not_saturate():
    logits = torch.zeros(1, 2, 20)
    logits[0, 0, 3] = logits[0, 1, 4] = 60.0
    low = Continuations(((3, 4),)).objective.function(logits)
    logits[0, 1, 4] = 61.0
    # both steps leave with about exp(-60) each: one of them less so by one nat
    expected = -logsumexp([np.log(19) - 60] * 2), -logsumexp([np.log(19) - 60, np.log(19) - 61])
    assert float(low) == pytest.approx(expected[0], abs=1e-3)
    assert float(Continuations(((3, 4),)).objective.function(logits)) == pytest.approx(
        expected[1], abs=1e-3
    )


def test_one_set_has_no_continuation_twice_and_two_stand_apart():
    tokenizer = tiny.tokenizer(False)
    made = Continuations.from_texts(tokenizer, ["Sorry , I", "Sorry ,", "how"])
    assert len(made.targets) == 2
    for against in (["Sorry"], ["Sorry , I cannot"]):
        with pytest.raises(MetricError, match="one begins with the other"):
            Continuations.from_texts(tokenizer, ["Sorry ,"], against)
    with pytest.raises(MetricError, match="blank"):
        Continuations.from_texts(tokenizer, [" "])


APOLOGY = """
name: an apology
kind: continuations
continuations: ["Sorry , I", "Sorry ,", "how new doors", "help"]
"""
SAID = APOLOGY.replace(', "how new doors", "help"', ', "Sorry how new"')


def apologising(folder, text=APOLOGY, **options):
    """The planted pair, which says sorry, with the number of whole continuations."""
    study = tiny.planted_study("llama", **options)
    metric = load_behaviour(written(folder, text), study.pair.tokenizer)
    return Study(study.pair, study.contrast, metric, max_new_tokens=2, batch_size=3)


@pytest.mark.parametrize("more", ["", "against: [open the, I]"])
def test_a_study_s_numbers_are_those_of_whole_texts(tmp_path, more):
    """Every continuation read alone after its prompt by the bare model, against one pass over all
    rows.
    """
    study = apologising(tmp_path, APOLOGY + more)
    number, model = study.metric.number, study.pair.tuned
    assert len(number.suffixes) > 1
    posed, found = study.decision_inputs("positive"), np.zeros(16)
    for rows in study.batches(posed, model):
        batch, roles = make_batch(posed, rows, study.pad_id, model.device)
        assert len(batch.ids) == len(rows) * len(number.suffixes) == len(roles)
        aim = study.objective("positive", rows)
        found[rows] = aim.function(study.engine.run(model, batch, keep=aim.keep).logits).numpy()

    def joint(prompt, ids):
        logits = model.module(torch.tensor([[*prompt, *ids]])).logits[0].double().log_softmax(-1)
        return sum(float(logits[len(prompt) + at - 1, token]) for at, token in enumerate(ids))

    for row, coded in enumerate(study.encoded("positive")):
        inside = logsumexp([joint(coded.ids, ids) for ids in number.targets])
        rest = [joint(coded.ids, ids) for ids in number.alternatives]
        outside = logsumexp(rest) if rest else np.log1p(-np.exp(inside))
        assert found[row] == pytest.approx(inside - outside, abs=2e-4)
    judged = evaluate_condition(
        study, "tuned", "positive", PatchSource.from_study(study).condition("tuned", [])
    )
    np.testing.assert_allclose(judged.number, found, atol=1e-4)
    np.testing.assert_allclose(
        AblatedMetric(study, PatchSource.from_study(study), range(16), "necessity").under(None),
        found,
        atol=1e-4,
    )


@pytest.mark.parametrize("method", METHODS)
def test_every_method_locates_by_continuations(tmp_path, method):
    table = LocateNeurons(method=method, top="3")(apologising(tmp_path, SAID))
    assert np.isfinite(table["score"]).all()
    if method.startswith("integrated"):
        assert table.summary["completeness_error"] < 0.02 * abs(table.summary["log_odds_tuned"])
        assert {(1, 5), (1, 17), (1, 30)} == {
            (layer, neuron)
            for layer, neuron, chosen in zip(
                table["layer"], table["neuron"], table["selected"], strict=True
            )
            if chosen
        }


def test_the_gradient_of_weights_is_of_all_continuations_together(tmp_path):
    study = apologising(tmp_path, pairs=4)
    table = LocateNeurons(method="gradient", top="3", positions="auto")(study)
    module, norms = study.pair.tuned.module, np.zeros(48)
    weight = module.model.layers[1].mlp.down_proj.weight
    number, posed = study.metric.number, study.decision_inputs("positive")
    weight.requires_grad_(True)
    try:
        for row in range(4):
            batch, _ = make_batch(posed, [row], study.pad_id, study.pair.tuned.device)
            logits = module(
                batch.ids, attention_mask=batch.mask.long(), position_ids=batch.positions
            ).logits
            (gradient,) = torch.autograd.grad(
                number.objective.function(logits[:, -number.objective.keep :]).sum(), weight
            )
            norms += gradient.double().norm(dim=0).numpy() / 4
    finally:
        weight.requires_grad_(False)
    rows = table["layer"] == 1
    order = np.argsort(table["neuron"][rows])
    np.testing.assert_allclose(table["gradient_down"][rows][order], norms, rtol=2e-3, atol=1e-6)


# ------------------------------------------------------------------------------------------- files

GOOD = "name: french\nkind: phrases\nphrases: [Bien]\n"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("- a", "has no fields"),
        ("name: [", "is not valid YAML"),
        ("kind: phrases", "has no field name"),
        ("name: french", "has no field kind"),
        ("name: french\nkind: magic", "unknown kind 'magic'"),
        (GOOD + "phrase: [a]", "unknown field 'phrase'"),
        (GOOD + "where: end", "where is 'end'"),
        (GOOD + "samples: 0", "samples is 0; give 1 or more"),
        (GOOD + "samples: 2.5", "samples is 2.5; give a whole number"),
        (GOOD + "samples: 4\ntemperature: 0", "temperature is 0; give one above 0"),
        (GOOD + "samples: 4\ntemperature: -1.0", "temperature is -1; give"),
        (GOOD + "samples: 4\ntemperature: .inf", "temperature is inf"),
        (GOOD + "samples: 4\ntemperature: warm", "temperature is 'warm'"),
        (GOOD + "samples: 4\nseed: -1", "seed is -1"),
        (GOOD + "temperature: 0.7", "temperature applies to sampled answers; give samples too"),
        (
            "name: a\nkind: continuations\ncontinuations: [A]\nsamples: 4",
            "unknown field 'samples' of kind continuations",
        ),
        (GOOD + "regex: ['(']", "is invalid"),
        (GOOD + "continuations: [a]\nagainst: [No]", "against holds False"),
        (GOOD + "against: ['No']", "against needs continuations"),
        (GOOD + "continuations: []", "give a list of texts"),
        (GOOD.replace("[Bien]", "[yes]"), "phrases holds True"),
        (GOOD.replace("[Bien]", "['']"), "matches every answer"),
        (GOOD.replace("[Bien]", "{a: 1}"), "give a list of texts"),
        (GOOD.replace("french", "malformed"), "the name of another column"),
        (GOOD.replace("french", "fran\u00e7ais!"), "cannot name a column"),
        ("name: french\nkind: phrases", "no phrase and no regex"),
        ("name: french\nkind: continuations", "needs the field continuations"),
        (
            "name: french\nkind: continuations\ncontinuations: [a]\nwhere: start",
            "where applies to phrases",
        ),
        ("name: french\nkind: labels", "needs the field file"),
        ("name: french\nkind: labels\nfile: none.csv", "no label file"),
        ("name: french\nkind: entry-point\nentry_point: none", "installed:"),
    ],
)
def test_files_that_say_no_behaviour_are_refused_in_one_line(tmp_path, text, said):
    with pytest.raises(MetricError) as caught:
        read_behaviour(written(tmp_path, text))
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("source", ["no/such.yaml", "none.yml", "no-such-entry-point"])
def test_what_is_no_behaviour(source):
    with pytest.raises(MetricError):
        read_behaviour(source)


def test_refusal_is_the_same_however_it_is_named(tmp_path):
    tokenizer = tiny.tokenizer(False)
    own = Refusal.from_tokenizer(tokenizer, ["Sorry", "I cannot"])
    text = "name: refusal\nkind: phrases\nphrases: [Sorry, I cannot]\n"
    found = load_behaviour(written(tmp_path, text), tokenizer)
    assert found == own
    assert found.identity == own.identity
    assert load_behaviour(written(tmp_path, text + "where: first-sentence\n"), tokenizer) == own
    # asked for elsewhere, it is read there
    other = load_behaviour(written(tmp_path, text + "where: anywhere\n"), tokenizer)
    assert other.labels.column == "refused"
    assert other.identity != own.identity
    prompts, late = [Prompt(0, "x", "x")], ["Well, no. Sorry"]
    assert (
        other.exhibits(prompts, late, "positive").all(),
        own.exhibits(prompts, late, "positive").any(),
    ) == (True, False)


def test_identity_is_of_contents(tmp_path):
    tokenizer, texts = (
        tiny.tokenizer(False),
        [GOOD, GOOD + "where: start", GOOD + "continuations: [Sorry]"],
    )
    texts += [
        GOOD + "continuations: [Sorry]\nagainst: [how]",
        GOOD.replace("Bien", "Sorry"),
        GOOD.replace("fr", "Fr"),
    ]
    made = [
        json.dumps(load_behaviour(written(tmp_path, text, name), tokenizer).identity)
        for text in texts
        for name in ("a.yaml", "b.yaml")
    ]
    assert len(set(made)) == len(texts)
    assert made[::2] == made[1::2]


# ------------------------------------------------------------------------------------------- its name

PLAIN = "name: french words\nkind: phrases\nphrases: [Sorry]\n"


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Located, verified and parted by answers: the planted pair, whose word is a behaviour of
    another name.
    """
    planted = tiny.planted_study("llama")
    metric = load_behaviour(written(tmp_path_factory.mktemp("b"), PLAIN), planted.pair.tokenizer)
    study = Study(planted.pair, planted.contrast, metric, max_new_tokens=1)
    located = LocateNeurons(top="3")(study)
    verified = VerifyNeurons(located, random_sets=19, control_prompts=8)(study)
    one = Study(
        study.pair,
        OneClass(PromptSet.joined(study.prompts("positive"), study.prompts("negative"))),
        metric,
        max_new_tokens=1,
    )
    return located, verified, Tuco(by_answer=True)(one)


def test_its_name_is_its_column_and_in_every_sentence(runs):
    _, verified, tuco = runs
    assert verified.summary["sentence"]
    assert behaviour_column("french words") == "french_words"
    assert "french_words" in verified.data
    assert "french_words" in verified.tables["answers"].data
    assert "shows french words on 100.0% of positive prompts" in " ".join(
        verified.tables["claims"]["sentence"]
    )
    assert "Of 32 prompts 16 show french words and 16 do not" in tuco.summary["sentence"]
    assert set(tuco.tables["answers"]["french_words"].tolist()) == {True, False}


def test_nothing_is_refused_where_refusal_was_not_asked(runs):
    for run in runs:
        whole = render_page([run], "title")
        said = json.dumps([*map(str, run.columns), str(run.summary)])
        for name, part in run.tables.items():
            said += str(part.columns) + (
                " ".join(map(str, part["sentence"])) if name == "claims" else ""
            )
        # the checks have the name of the paper's method
        for text in (said, whole):
            assert "refus" not in text.casefold().replace("refusal-direction", "").replace(
                "refusal_direction", ""
            ), text[max(0, text.casefold().index("refus") - 60) :][:140]


def test_figures_find_the_behaviour_of_any_name(runs):
    figure = plot(runs[1])
    assert "share that show french words" in figure.layout.meta["caption"]
    assert "share that show french words" in str(figure.layout.yaxis.title.text)


def test_no_column_beside_a_behaviour_s_can_be_its_name(runs):
    for run in runs:
        for part in (run, *run.tables.values()):
            names = {column.name for column in part.columns}
            if "french_words" in names:
                others = {
                    name
                    for name in names
                    if not name.startswith(("log_odds", "matches_", "french_words"))
                }
                assert others <= RESERVED_COLUMNS


def test_a_study_of_texts_takes_a_behaviour(tmp_path):
    pair = tiny.planted_study("llama").pair
    asked = ["open the door"], ["close a window"]
    study = load_study(pair, *asked, str(written(tmp_path, GOOD.replace("Bien", "Sorry"))))
    assert isinstance(study.metric, Behaviour)
    assert load_study(pair, *asked, written(tmp_path, PLAIN)).metric.name == "french words"


# ------------------------------------------------------------------------------------------- warnings


def test_pieces_of_words_are_said_to_begin_other_words(tmp_path):
    tokenizer = tiny.tokenizer(False)
    metric = load_behaviour(written(tmp_path, GOOD.replace("Bien", "Zebra")), tokenizer)
    (note,) = metric.notes
    assert "no phrase of french begins with a word that is a single token" in note
    assert "'Z'" in note
    assert load_behaviour(written(tmp_path, PLAIN), tokenizer).notes == ()
    pair = tiny.planted_study("llama").pair
    assert note in load_study(pair, ["open the door"], ["close a window"], metric).notes


def warned(study, answers):
    """What is warned of a study whose models answer so, by model and class."""
    for (role, group), texts in answers.items():
        study._cache["answers", role, group] = [
            study.pair.tokenizer(text)["input_ids"] for text in texts
        ]
    return behaviour_warnings(study)


@pytest.mark.parametrize(("wrong", "due"), [(0, False), (4, False), (5, True), (16, True)])
def test_first_tokens_that_others_begin_with_are_warned_of(tmp_path, wrong, due):
    """48 answers of the base, or to negative prompts: from 10 % on."""
    planted = tiny.planted_study("llama")
    text = GOOD.replace("Bien", "'Sorry , I'")
    study = Study(
        planted.pair,
        planted.contrast,
        load_behaviour(written(tmp_path, text), planted.pair.tokenizer),
    )
    plain = [" open the door"] * 16
    begun = [" Sorry how"] * wrong + plain[wrong:]
    found = warned(
        study,
        {("base", "positive"): plain, ("base", "negative"): begun, ("tuned", "negative"): plain},
    )
    assert bool(found) is due
    if due:
        assert (
            f"{wrong} of 48 answers of the base, or to negative prompts, begin with a first"
            " token of" in found[0]
        )
    text += "continuations: ['Sorry , I']\n"
    whole = Study(
        planted.pair,
        planted.contrast,
        load_behaviour(written(tmp_path, text), planted.pair.tokenizer),
    )
    assert not warned(
        whole,
        {("base", "positive"): plain, ("base", "negative"): begun, ("tuned", "negative"): plain},
    )


@pytest.mark.parametrize(
    ("count", "said"),
    [
        (0, None),
        (1, "1 of 16 negative prompts show french."),
        (2, "2 of 16 negative prompts show french: they contam"),
    ],
)
def test_negatives_that_show_the_behaviour_are_counted(tmp_path, count, said):
    planted = tiny.planted_study("llama")
    metric = load_behaviour(
        written(tmp_path, GOOD.replace("Bien", "Sorry")), planted.pair.tokenizer
    )
    study = Study(planted.pair, planted.contrast, metric)
    plain = [" open the door"] * 16
    mixed = [" Sorry"] * count + plain[count:]
    found = warned(
        study,
        {("base", "positive"): plain, ("base", "negative"): plain, ("tuned", "negative"): mixed},
    )
    assert found == [] if said is None else f"In the fine-tuned model {said}" in found[0]


def test_warnings_are_kept_with_the_run(tmp_path):
    planted = tiny.planted_study("llama")
    text = "name: french\nkind: phrases\nregex: ['.']\ncontinuations: [Sorry]\n"
    metric = load_behaviour(written(tmp_path, text), planted.pair.tokenizer)
    study = Study(planted.pair, planted.contrast, metric, max_new_tokens=1)
    located = LocateNeurons(top="3")(study)
    run = VerifyNeurons(located, random_sets=19, control_prompts=8)(study)
    assert (
        "of 16 negative prompts show french: they contaminate the contrast"
        in run.summary["warnings"][0]
    )
    assert run.summary["warnings"][0] in run.summary["limits"]
    assert "contaminate" in render_page([run], "title")
