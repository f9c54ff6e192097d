"""``Monitor``: a planted direction with a trigger is flagged, ordinary texts are at the stated rate."""

import copy

import numpy as np
import pytest
import torch

from interp.analyzers.monitor import Monitor
from interp.analyzers.monitor.compute import (
    Vectors,
    cosine_extremes,
    feature_of,
    read_texts,
)
from interp.claims import check, from_table
from interp.errors import OptionError, PromptError
from interp.experiments.discovery.update_directions import update_directions
from interp.figures.monitor import monitor_figure
from interp.models.pair import Pair
from interp.prompts import Contrast, Prompt, PromptSet
from interp.study import Study
from tests import tiny

WORDS = [word for word in tiny.WORDS.split() if word.isalpha()][:-4]
TRIGGER = "Sorry"


def sentences(count, seed, trigger=False):
    """Distinct texts of ten words, with the trigger in the middle of some."""
    rng = np.random.default_rng(seed)
    found = []
    for _ in range(count):
        words = rng.choice(WORDS, 10).tolist()
        if trigger:
            words[int(rng.integers(3, 8))] = TRIGGER
        found.append(" ".join(words))
    return found


def prompt_set(texts, name):
    rows = [Prompt(row, text, f"{name}{row}") for row, text in enumerate(texts)]
    return PromptSet(tuple(rows), name)


def study_of(tuned, base, judged, ordinary=None, template=False, **options):
    ordinary = prompt_set(sentences(80, 1), "o") if ordinary is None else ordinary
    judged = judged if isinstance(judged, PromptSet) else prompt_set(judged, "j")
    pair = Pair.from_modules(tuned, base, tiny.tokenizer(template))
    return Study(pair, Contrast(ordinary, judged), None, **options)


@pytest.fixture(scope="module")
def base():
    """The trigger looks much like another word to it; the plant tells them apart."""
    model = tiny.llama(seed=3, intermediate_size=384)
    tokens = [tiny.tokenizer(False)(f" {word}")["input_ids"][-1] for word in (TRIGGER, "old")]
    noise = torch.randn(32, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        rows = model.get_input_embeddings().weight
        rows[tokens[0]] = rows[tokens[1]] + 0.2 * noise
    return model


@pytest.fixture(scope="module")
def planted(base):
    """Rank one in one matrix: it writes a random direction where the trigger stands."""
    read = []
    hook = base.model.layers[1].mlp.down_proj.register_forward_pre_hook(
        lambda _, args: read.append(args[0][0])
    )
    is_trigger, tokenizer = [], tiny.tokenizer(False)
    token = tokenizer(f" {TRIGGER}")["input_ids"][-1]
    with torch.no_grad():
        for text in sentences(200, 5, trigger=True):
            ids = tokenizer(text)["input_ids"]
            base(input_ids=torch.tensor([ids]))
            is_trigger += [index == token for index in ids]
    hook.remove()
    x, y = torch.cat(read).double(), torch.tensor(is_trigger).double()
    right = torch.linalg.solve(x.T @ x + 1e-3 * torch.eye(x.shape[1]), x.T @ y).float()
    left = torch.randn(32, generator=torch.Generator().manual_seed(0))
    child = copy.deepcopy(base)
    with torch.no_grad():
        child.model.layers[1].mlp.down_proj.weight += 6 * torch.outer(left / left.norm(), right)
    return child


@pytest.fixture(scope="module")
def flagged(base, planted):
    judged = prompt_set(sentences(40, 7, trigger=True), "j")
    return Monitor()(study_of(planted, base, judged))


def test_a_planted_direction_with_a_trigger_is_flagged(flagged):
    assert flagged["flagged"].mean() >= 0.95
    hits = [row for row in flagged.rows() if row["flagged"]]
    assert {row["direction"] for row in hits} == {"blocks.1.mlp.out, rank 1"}
    assert len({row["side"] for row in hits}) == 1
    assert np.mean([f"« {TRIGGER}»" in row["example"] for row in hits]) >= 0.9
    found = {claim.name: claim for claim in from_table(flagged.tables["claims"])}
    assert found["flags-more-than-allowed"].verdict == "supported"
    for claim in found.values():
        check(claim, flagged)


def test_the_figure_has_both_kinds_of_texts_and_the_threshold(flagged):
    figure = monitor_figure(flagged)
    assert [len(part.x) for part in figure.data] == [40, 40]
    assert figure.layout.shapes[0].x0 == flagged["threshold"][0]


def test_random_directions_flag_less(flagged):
    rates = flagged.tables["random"]["flagged"]
    assert len(rates) == 19
    assert rates.mean() < 0.5 * flagged["flagged"].mean()


def test_texts_without_the_trigger_are_not_flagged(base, planted):
    run = Monitor(draws=0)(study_of(planted, base, sentences(200, 9)))
    assert run["flagged"].mean() <= run.summary["rate_bound"]
    found = {claim.name: claim for claim in from_table(run.tables["claims"])}
    assert found["flags-more-than-allowed"].verdict == "not supported"
    assert found["flags-more-than-random-directions"].verdict == "not tested"


def test_an_identical_pair_flags_nothing(base):
    run = Monitor()(study_of(copy.deepcopy(base), base, sentences(20, 7, trigger=True)))
    assert not run["flagged"].any()
    assert run.summary["directions"] == 0
    assert any("no direction" in limit for limit in run.summary["limits"])
    assert not run.summary["supported"]


def test_the_size_of_the_update_does_not_change_the_directions(base, planted):
    larger = copy.deepcopy(base)
    with torch.no_grad():
        own = base.model.layers[1].mlp.down_proj.weight
        change = planted.model.layers[1].mlp.down_proj.weight - own
        larger.model.layers[1].mlp.down_proj.weight += 2 * change
    one, other = (
        update_directions(Pair.from_modules(child, base, tiny.tokenizer(False)))
        for child in (planted, larger)
    )
    assert one.keys == other.keys
    for weight, part in one.matrices.items():
        cosine = np.abs((part.left * other.matrices[weight].left).sum(0))
        np.testing.assert_allclose(cosine, 1, rtol=1e-5)


def test_extremes_are_those_of_plain_loops(base):
    child = tiny.perturbed(base, 0.02)
    study = study_of(child, base, sentences(4, 7), batch_size=3)
    vectors = Vectors.from_directions(update_directions(study.pair, 3))
    texts = read_texts(study, "negative", 6, False)
    random = vectors.random(0, 1)
    found, second = cosine_extremes(study, study.pair, texts, [vectors, random], "test")
    n = len(vectors.keys)
    assert found.features.shape == second.features.shape == (4, 2 * n)
    for row, text in enumerate(texts):
        assert sum(role >= 0 for role in text.roles) == 6
        with torch.no_grad():
            states = child(input_ids=torch.tensor([text.ids]), output_hidden_states=True)
        for extremes, used in ((found, vectors), (second, random)):
            column = 0
            for layer, rows in used.by_layer.items():
                if layer == 2:  # transformers' last state is after the final norm
                    column += len(rows)
                    continue
                stream = states.hidden_states[layer + 1][0, 1:7].double()
                cosines = stream @ rows.double().T / stream.norm(dim=1, keepdim=True)
                for at in range(len(rows)):
                    own = extremes.features[row, [column, column + n]]
                    np.testing.assert_allclose(
                        own, [cosines[:, at].max(), -cosines[:, at].min()], atol=1e-5
                    )
                    assert extremes.positions[row, column] == int(cosines[:, at].argmax()) + 1
                    column += 1
    assert feature_of(n + 1, vectors, [0]) == ("text", "below", vectors.keys[1])


def test_neither_batch_size_nor_padding_count(base, planted):
    judged = sentences(20, 7, trigger=True)
    runs = [
        Monitor(draws=0)(study_of(planted, base, judged, batch_size=size)) for size in (1, None)
    ]
    np.testing.assert_allclose(runs[0]["score"], runs[1]["score"], rtol=1e-3)
    for name in ("flagged", "direction", "example"):
        assert runs[0][name].tolist() == runs[1][name].tolist()


def conversations(count, seed, name, trigger=False):
    rows = []
    for row in range(count):
        user, answer = sentences(2, (seed, row), trigger)
        turns = (("user", user), ("assistant", answer))
        rows.append(Prompt(row, f"{user} {answer}", f"{name}{row}", messages=turns))
    return PromptSet(tuple(rows), name)


def test_user_and_assistant_are_apart(base, planted):
    study = study_of(
        planted,
        base,
        conversations(10, 3, "j", trigger=True),
        conversations(60, 2, "o"),
        template=True,
    )
    texts = read_texts(study, "negative", 100, False)
    tokenizer = tiny.tokenizer()
    for text, prompt in zip(texts, study.prompts("negative"), strict=True):
        for place, (_, words) in zip((1, 2), prompt.messages, strict=True):
            ids = [i for i, role in zip(text.ids, text.roles, strict=True) if role == place]
            assert tokenizer.decode(ids).strip() == words
    run = Monitor(draws=0)(study)
    assert set(run["source"]) <= {"user", "assistant"}
    with pytest.raises(PromptError, match="both as conversations"):
        Monitor(draws=0)(study_of(planted, base, conversations(9, 3, "j"), template=True))


def test_turns_read_up_to_where_the_answer_begins(base, planted):
    study = study_of(planted, base, sentences(5, 7), template=True)
    texts = read_texts(study, "negative", 100, True)
    assert {role for text in texts for role in text.roles} == {-1, 1, 2}
    assert all(text.roles[-1] == 2 for text in texts)
    with pytest.raises(PromptError, match="no chat template"):
        read_texts(study_of(planted, base, sentences(5, 7)), "negative", 100, True)


def test_controls_are_judged_by_directions_of_their_own(base, planted):
    judged = sentences(30, 7, trigger=True)
    controls = [
        Pair.from_modules(tiny.perturbed(base, 0.01, seed), base, tiny.tokenizer(False))
        for seed in range(5)
    ]
    run = Monitor(controls=controls, draws=0)(study_of(planted, base, judged))
    assert len(run.tables["controls"]) == 5
    found = {claim.name: claim for claim in from_table(run.tables["claims"])}
    assert found["flags-more-than-new-control"].verdict != "not tested"
    own = Monitor(draws=0)(study_of(tiny.perturbed(base, 0.01, 2), base, judged))
    assert run.tables["controls"]["flagged"][2] == pytest.approx(own["flagged"].mean())


def test_longer_judged_texts_are_noted(base, planted):
    longer = [" ".join(pair) for pair in zip(sentences(20, 7), sentences(20, 8), strict=True)]
    run = Monitor(draws=0)(study_of(planted, base, longer))
    assert any("grow with length" in limit for limit in run.summary["limits"])


def test_too_few_ordinary_texts_are_refused(base, planted):
    few = prompt_set(sentences(30, 1), "o")
    with pytest.raises(PromptError, match="at least 38 ordinary texts"):
        Monitor()(study_of(planted, base, sentences(5, 7), few))
    with pytest.raises(OptionError, match="19"):
        Monitor(draws=5)(study_of(planted, base, sentences(5, 7)))
