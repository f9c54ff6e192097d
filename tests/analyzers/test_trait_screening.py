"""Screening of rows by a trait: planted rows, permuted labels, and an oracle in numpy."""

import json

import numpy as np
import pytest
import torch

from interp.analyzers.trait_screening import TraitScreening
from interp.analyzers.trait_screening.findings import Screened, without_length
from interp.analyzers.trait_screening.rows import prompts_and_answers
from interp.claims import from_table
from interp.errors import OptionError, PromptError
from interp.experiments.discovery.labels import ClusteredLabels
from interp.experiments.discovery.trait_directions import Directions
from interp.figures import plot
from interp.models.pair import Pair
from interp.prompts import Contrast, Prompt, PromptSet
from interp.study import Study
from tests import tiny

TRAIT = tiny.contrast()
NOUNS = ["door", "window", "gate", "fences", "locks", "gates"]


def conversations(answers, questions=None):
    rows = []
    for at, answer in enumerate(answers):
        question = (
            questions[at] if questions else f"tell me {NOUNS[at % 6]} {'please ' * at}".strip()
        )
        turns = (("user", question), ("assistant", answer))
        rows.append(Prompt(at, f"{question} {answer}", f"row{at}", messages=turns))
    return PromptSet(tuple(rows), "rows")


def study_of(base, template=True, contrast=TRAIT, **options):
    pair = Pair.from_modules(base, base, tiny.tokenizer(template))
    return Study(pair, contrast, None, **{"max_new_tokens": 4, **options})


def claim(table, name="trait-in-rows"):
    return next(one for one in from_table(table.tables["claims"]) if one.name == name)


@pytest.fixture(scope="module")
def base():
    return tiny.exact(tiny.llama(3))


def stream(base, ids, depth):
    """[T, D] of one text, by transformers alone."""
    found = []
    block = base.model.layers[max(depth - 1, 0)]
    if depth:
        hook = block.register_forward_hook(lambda _, __, out: found.append(out))
    else:
        hook = block.register_forward_pre_hook(lambda _, inputs: found.append(inputs))
    with torch.no_grad():
        base(torch.tensor([list(ids)]))
    hook.remove()
    one = found[0][0] if isinstance(found[0], tuple) else found[0]
    return one.reshape(len(ids), -1).numpy()


def oracle(base, study, rows, depth):
    """Scores by transformers alone: mean streams of answers along the direction, over its squared
    length.
    """
    tokenizer = study.pair.tokenizer

    def last(prompt):
        text = [{"role": "user", "content": prompt.text}]
        ids = tokenizer.apply_chat_template(text, add_generation_prompt=True, return_dict=False)
        return stream(base, ids, depth)[-1]

    def ids_of(turns, **options):
        rendered = [{"role": role, "content": content} for role, content in turns]
        return tokenizer.apply_chat_template(rendered, return_dict=False, **options)

    both = study.require_contrast("this")
    means = [np.mean([last(p) for p in part], axis=0) for part in (both.positive, both.negative)]
    direction, scores = means[0] - means[1], []
    for row in rows:
        prompt = ids_of(row.messages[:1], add_generation_prompt=True)
        given = ids_of(row.messages)[len(prompt) : -1]  # without <|end|>
        with torch.no_grad():
            whole = base.generate(
                torch.tensor([prompt]), max_new_tokens=4, do_sample=False, pad_token_id=0
            )
        own = whole[0, len(prompt) :].tolist()
        own = own[:-1] if len(own) > 1 and own[-1] == tokenizer.eos_token_id else own
        means = [
            stream(base, [*prompt, *one], depth)[len(prompt) :].mean(0) for one in (given, own)
        ]
        scores.append((means[0] - means[1]) @ direction / (direction @ direction))
    return np.array(scores)


def test_scores_are_those_of_an_oracle(base):
    answers = ["paint lock paint", "lock", "open the door", "close open close a window ?"]
    study, rows = study_of(base), conversations(answers)
    table = TraitScreening(rows, position="prompt", separation=0.0)(study)
    wanted = oracle(base, study, rows, table.summary["depth"])
    np.testing.assert_allclose(table["score"], wanted[table["prompt_id"]], rtol=1e-9)
    assert (np.diff(table["score"]) <= 0).all()
    assert table.summary["total"] == pytest.approx(wanted.mean())
    assert claim(table).value == pytest.approx(wanted.mean())
    null = table.tables["null"]
    largest = null["largest"][null["kind"] == "shuffled"]
    for row in table.rows():
        assert row["p"] == (1 + (largest >= row["score"]).sum()) / (1 + len(largest))
    ratio = np.log(table["tokens"] / table["own_tokens"])
    assert ratio.std() > 0
    assert np.corrcoef(table["same_length"], ratio)[0, 1] == pytest.approx(0, abs=1e-9)


# --------------------------------------------------------------------------------- planted and silent


def many(endings):
    """Distinct rows of these endings, two after each other."""
    return [f"{one} {other}" for one in endings for other in endings[:3]]


def data_of(endings):
    """Texts whose first three tokens are the prompt."""
    texts = [f"open the door {ending}" for ending in endings]
    return PromptSet(tuple(Prompt(at, text, f"row{at}") for at, text in enumerate(texts)), "rows")


def screen(base, rows, contrast=TRAIT, **options):
    """Without a template the last token of a prompt is its verb, which is the trait."""
    study = study_of(base, template=False, contrast=contrast)
    settings = {"position": "prompt", "beginning": 3, **options}
    return TraitScreening(rows, **settings)(study)


WITH = ["paint lock paint", "lock paint", "paint paint lock lock", "lock", "lock paint", "paint"]
WITHOUT = ["door the window", "how gates", "window fences the", "door", "how the", "please gates"]


def test_rows_with_the_trait_come_first(base):
    endings = [one for both in zip(WITHOUT, WITH, strict=True) for one in both]
    table = screen(base, data_of(endings))
    assert (table["prompt_id"][:6] % 2 == 1).all()
    assert table["score"][5] > table["score"][6] + 0.1
    assert (np.diff(table["p"]) >= 0).all()
    assert table["evidence"][0] in [f" {ending}" for ending in WITH] + WITH


def test_data_with_the_trait_are_beyond_shuffled_labels_and_the_opposite_are_not(base):
    found = claim(screen(base, data_of(many(WITH))))
    assert found.supported, found.reason
    assert found.p < 0.05
    assert not claim(screen(base, data_of(many(["open close", "close", "close open"])))).supported
    # other words are further along the trait than what the base writes, and along anything else
    assert not claim(screen(base, data_of(many(WITHOUT))), "rows-beyond-random").supported


def test_the_nulls_are_those_of_numpy():
    """In many dimensions a trait is beyond both nulls, and a change without it beyond none."""
    generator = np.random.default_rng(0)
    trait = np.zeros(60)
    trait[0] = 3.0
    labels = np.arange(40) < 20
    states = generator.normal(size=(40, 1, 60)) + np.where(labels[:, None, None], trait, 0.0)
    of_labels = ClusteredLabels.from_clusters(labels, [str(at) for at in range(40)])
    directions = Directions.from_states(states, of_labels, 200, 0)
    direction = states[labels, 0].mean(0) - states[~labels, 0].mean(0)
    noise = generator.normal(size=(30, 60))
    for changes, beyond in ((noise + 0.5 * trait, True), (noise, False)):
        found = Screened.from_changes(directions, 0, changes)
        np.testing.assert_allclose(found.scores, changes @ direction / (direction @ direction))
        for null in (found.shuffled, found.random):
            assert (np.quantile(null.mean(1), 0.95) < found.scores.mean()) == beyond
        weights = directions.weights["random"][3]
        random = weights @ states[:, 0]
        wanted = changes @ random / np.linalg.norm(random) / np.linalg.norm(direction)
        np.testing.assert_allclose(found.random[3], wanted, rtol=1e-9)
        permuted = directions.weights["shuffled"][5] > 0
        other = states[permuted, 0].mean(0) - states[~permuted, 0].mean(0)
        wanted = changes @ other / (direction @ direction)
        np.testing.assert_allclose(found.shuffled[5], wanted, rtol=1e-9, atol=1e-12)


def test_swapped_classes_negate_the_scores(base):
    rows = data_of(WITH + WITHOUT)
    one, other = screen(base, rows), screen(base, rows, Contrast(TRAIT.negative, TRAIT.positive))
    assert one.summary["depth"] == other.summary["depth"]
    np.testing.assert_allclose(one["score"], -other["score"][::-1], rtol=1e-9, atol=1e-12)


def test_permuted_labels_are_silent(base):
    """Classes that hold the trait alike: no depth separates them, and without that condition
    nothing is beyond other permutations.
    """
    pairs = list(zip(TRAIT.positive, TRAIT.negative, strict=True))
    mixed = Contrast(
        *(
            PromptSet(tuple(row[(at + side) % 2] for at, row in enumerate(pairs)), str(side))
            for side in (0, 1)
        )
    )
    rows = data_of(many(WITH))
    with pytest.raises(OptionError, match="does not separate the classes"):
        screen(base, rows, mixed)
    table = screen(base, rows, mixed, separation=0.0)
    assert not claim(table).supported
    assert (table["p"] > 0.05).all()


def test_the_bases_own_answers_have_no_score():
    base, tuned = tiny.planted(tiny.llama(7))
    study = study_of(tiny.exact(tuned), template=False, max_new_tokens=1)
    texts = [
        "the door please paint Sorry",
        "the window please lock Sorry",
        "the door please paint a",
    ]
    rows = PromptSet(tuple(Prompt(at, one, f"row{at}") for at, one in enumerate(texts)), "rows")
    table = TraitScreening(rows, position="prompt", beginning=5, separation=0.0)(study)
    scores = dict(zip(table["prompt_id"].tolist(), table["score"].tolist(), strict=True))
    assert [scores[0], scores[1]] == pytest.approx([0, 0], abs=1e-12)
    assert abs(scores[2]) > 1e-3
    del base


# ---------------------------------------------------------------------------------- tokens and options


def test_the_last_answer_of_a_conversation_counts(base):
    study, decode = study_of(base), tiny.tokenizer().decode
    turns = (
        ("user", "open"),
        ("assistant", "the door"),
        ("user", "close"),
        ("assistant", "a window"),
    )
    rows = PromptSet((Prompt(0, "x", "c", messages=turns),), "rows")
    ((prompt, answer),) = prompts_and_answers(study, rows, 3)
    before = "<|user|>open<|end|><|assistant|>the door<|end|><|user|>close<|end|><|assistant|>"
    assert (decode(prompt), decode(answer)) == (before, "a window")
    plain = study_of(base, template=False)
    ((prompt, answer),) = prompts_and_answers(plain, data_of(["paint lock"]), 3)
    assert (decode(prompt), decode(answer)) == ("open the door", " paint lock")


def test_rows_without_an_answer_are_refused(base):
    asked = PromptSet((Prompt(4, "open", "c", messages=(("user", "open"),)),), "my rows")
    with pytest.raises(PromptError, match=r"my rows, row 4 \('open'\) has no answer"):
        TraitScreening(asked, position="prompt")(study_of(base))
    with pytest.raises(PromptError, match="has no answer"):
        screen(base, data_of(["paint"]), beginning=4)
    with pytest.raises(OptionError, match="nothing to screen"):
        TraitScreening()(study_of(base))


@pytest.mark.parametrize("position", ["prompt", "answer"])
def test_batches_do_not_matter(base, position):
    rows = conversations(["paint lock", "open", "close a window ?", "lock"])
    tables = [
        TraitScreening(rows, position=position, separation=0.0)(study_of(base, batch_size=size))
        for size in (1, 7)
    ]
    np.testing.assert_allclose(tables[0]["score"], tables[1]["score"], atol=1e-9)
    assert tables[0]["prompt_id"].tolist() == tables[1]["prompt_id"].tolist()


def test_a_limit_takes_rows_of_all_clusters(base):
    table = screen(base, data_of(WITH + WITHOUT), limit=5)
    assert len(table) == table.summary["rows"] == 5


def test_what_length_explains_is_taken_out():
    ratio = np.array([0.0, 1.0, 2.0, -1.0])
    np.testing.assert_allclose(without_length(3 + 2 * ratio, ratio), 3, atol=1e-12)
    np.testing.assert_allclose(without_length(ratio, np.ones(4)), ratio)


def test_the_figure_has_the_rows_and_the_null(base):
    table = screen(base, data_of(WITH + WITHOUT))
    figure = plot(table)
    assert [trace.name for trace in figure.data] == [
        "row",
        "mean of all rows",
        "largest row, shuffled labels, 95 %",
    ]
    assert figure.data[0].x[0] == table["score"][0]
    assert figure.data[1].x[0] == table.summary["total"]
    assert json.loads(figure.to_json())["data"]
