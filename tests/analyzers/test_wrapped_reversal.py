"""Reverse fine-tuning: copies and steps against plain torch, what returns, what stays."""

import copy
import dataclasses

import numpy as np
import pytest
import torch

from interp import organisms
from interp.analyzers.wrapped_conjugate import WrappedConjugate
from interp.analyzers.wrapped_probes import WrappedProbes
from interp.analyzers.wrapped_pruning import WrappedPruning
from interp.analyzers.wrapped_reversal import WrappedReversal
from interp.analyzers.wrapped_reversal.compute import Curve, batches_of, step_of_return
from interp.claims import from_table
from interp.errors import OptionError, UnsupportedModel
from interp.experiments.base_answers import BaseAnswers, Reading
from interp.figures import plot
from interp.models.copies import merged_copy, random_start
from interp.models.model import Model
from interp.models.pair import Pair
from interp.prompts import Contrast, read_prompts
from interp.prompts.registers import Register, Rule
from interp.study import Study
from interp.training.answers import CLIP, AnswerTraining
from tests import families, tiny

IDS = torch.tensor([[5, 9, 20, 31, 7]])


def claims_by_name(table):
    return {claim.name: claim for claim in from_table(table.tables["claims"])}


def logits(module):
    with torch.no_grad():
        return module(input_ids=IDS, use_cache=False).logits


@pytest.fixture(scope="module")
def study():
    return tiny.planted_study("llama", max_new_tokens=1)


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_a_copy_of_an_adapter_model_has_it_merged(family, tmp_path):
    wrapped = tiny.lora(family, tiny.FAMILIES[family](), tmp_path)
    pair = Pair.from_modules(wrapped, None, tiny.tokenizer())
    for role in ("base", "tuned"):
        duplicate = merged_copy(pair[role])
        with pair[role].active() as module:
            np.testing.assert_allclose(logits(duplicate), logits(module), atol=1e-5)
        assert not [name for name, _ in duplicate.named_modules() if "lora" in name]
        with torch.no_grad():
            next(duplicate.parameters()).add_(1.0)
    assert not np.allclose(logits(merged_copy(pair.tuned)), logits(merged_copy(pair.base)))


def test_a_random_start_is_of_the_same_shape_and_follows_the_seed(study):
    model = study.pair.tuned
    first, again, other = (random_start(model, seed) for seed in (0, 0, 1))
    own, same, different = (dict(one.named_parameters()) for one in (first, again, other))
    for name, value in model.module.named_parameters():
        assert own[name].shape == value.shape
        assert torch.equal(own[name], same[name])
    assert not torch.equal(logits(first), logits(other))
    assert not torch.equal(logits(first), logits(model.module))
    assert sum(torch.equal(own[name], different[name]) for name in own) < len(own)


@pytest.mark.parametrize("name", families.NAMES)
def test_every_family_is_copied_begun_anew_and_trained(name):
    model = Model.wrap(name, families.build(name))
    duplicate, fresh = merged_copy(model), random_start(model, 0)
    np.testing.assert_allclose(logits(duplicate), logits(model.module), atol=1e-5)
    assert torch.isfinite(logits(fresh)).all()
    assert not torch.allclose(logits(fresh), logits(model.module))
    for how in ("full", "adapter"):
        training = AnswerTraining("copy", merged_copy(model), how, 1e-3, 0)
        first = training.step([(5, 6, 7)], [(8, 9)])
        assert training.step([(5, 6, 7)], [(8, 9)]) < first


def test_an_offloaded_model_is_refused(study):
    broken = copy.deepcopy(study.pair.tuned.module).to("meta")
    model = copy.copy(study.pair.tuned)
    object.__setattr__(model, "module", broken)
    with pytest.raises(UnsupportedModel, match="partly offloaded"):
        merged_copy(model)


@pytest.mark.parametrize("how", ["full", "adapter"])
def test_a_step_is_one_of_plain_torch(how):
    """AdamW on the mean loss of all answer tokens of a batch; an adapter starts without effect."""
    module = tiny.exact(tiny.llama(seed=3))
    hand = copy.deepcopy(module)
    training = AnswerTraining("copy", copy.deepcopy(module), how, 1e-3, 0)
    assert torch.allclose(logits(training.model.module), logits(module), atol=1e-9)
    prompts, answers = [(5, 9, 20), (7, 8)], [(31, 7), (40, 41, 42)]
    first = training.step(prompts, answers)
    losses = []
    for prompt, answer in zip(prompts, answers, strict=True):
        read = hand.requires_grad_(True)(input_ids=torch.tensor([[*prompt, *answer]])).logits[0]
        predicted = read[len(prompt) - 1 : -1].log_softmax(-1)
        losses += [-predicted[at, token] for at, token in enumerate(answer)]
    loss = torch.stack(losses).mean()
    assert first == pytest.approx(loss.item(), rel=1e-6)
    if how == "full":
        loss.backward()
        torch.nn.utils.clip_grad_norm_(hand.parameters(), CLIP)
        torch.optim.AdamW(hand.parameters(), lr=1e-3, weight_decay=0.0).step()
        np.testing.assert_allclose(
            logits(training.model.module), logits(hand.requires_grad_(False)), rtol=1e-4, atol=1e-5
        )
    else:
        changed = [n for n, p in training.model.module.named_parameters() if p.requires_grad]
        assert changed
        assert all("lora" in name for name in changed)
    assert training.step(prompts, answers) < first


def test_a_training_that_diverges_says_so():
    training = AnswerTraining("copy", tiny.llama(), "full", 1e-3, 0)
    with torch.no_grad():
        next(iter(training.model.module.parameters())).fill_(float("nan"))
    with pytest.raises(OptionError, match="diverged"):
        training.step([(5, 9)], [(7,)])


def test_planted_refusals_are_trained_away_long_before_a_random_start_learns():
    """Twenty steps bring all of the base's answers back, to prompts that were not trained on."""
    groups = ("harmful", "harmless")
    both = Contrast(*(read_prompts(organisms.prompts("refusal", "verify", one)) for one in groups))
    pair = Pair.load("organism:refusal/planted", "organism:refusal/base")
    study = Study(pair, both.limit(24), None, max_new_tokens=24)
    table = WrappedReversal(steps=(5, 20))(study)
    rows = {(row["role"], row["step"]): row["returned"] for row in table.rows()}
    assert rows["tuned", 0] == rows["random", 20] == 0.0
    assert rows["tuned", 20] == 1.0
    assert table.summary["step"] == 20
    claim = claims_by_name(table)["returns-before-random-start"]
    assert claim.supported, claim.reason
    assert claim.value == 1.0


def test_models_are_left_as_they_were(study):
    before = {
        role: {name: value.clone() for name, value in study.pair[role].module.state_dict().items()}
        for role in ("base", "tuned")
    }
    table = WrappedReversal(steps=(1, 2, 5, 10, 20), learning_rate=2e-3, batch=4)(study)
    for role, values in before.items():
        state = study.pair[role].module.state_dict()
        assert all(torch.equal(value, state[name]) for name, value in values.items())
        assert not any(p.requires_grad for p in study.pair[role].module.parameters())
    # one token of a random model: a random start learns as well which one is frequent
    assert not claims_by_name(table)["returns-before-random-start"].supported
    rows = {(row["role"], row["step"]): row for row in table.rows()}
    assert rows["tuned", 0]["returned"] == 0.0
    assert np.isnan(rows["tuned", 0]["training"])
    assert rows["tuned", 20]["training"] < rows["tuned", 1]["training"]
    assert [trace.name for trace in plot(table).data] == [
        "fine-tuned model",
        "random start",
        "chosen on other prompts",
    ]


def test_controls_are_trained_back_on_the_same_batches(study):
    """A base as its own control misses nothing at the start; the fine-tuned model as a control
    misses as much.
    """
    base = study.pair.base
    same = Pair(base, base, study.pair.tokenizer, study.pair.digests)
    options = {"steps": (1, 2), "learning_rate": 1e-4, "batch": 4}
    table = WrappedReversal([same] * 4 + [study.pair], **options)(study)
    missing = table.tables["controls"]["missing"]
    assert missing[:4].tolist() == [0.0] * 4
    assert missing[4] == pytest.approx(table.tables["answers"]["missing"].mean())
    beyond = claims_by_name(WrappedReversal([same] * 5, **options)(study))
    assert beyond["missing-beyond-controls"].supported
    assert not claims_by_name(table)["missing-beyond-controls"].supported


def test_batches_repeat_the_selection_split(study):
    answers = BaseAnswers.from_study(study)
    batches = batches_of(answers, 5, 12)
    assert [len(one) for one in batches] == [5] * 12
    flat = [row for one in batches for row in one]
    count = len(answers.selection)
    assert sorted(flat[:count]) == sorted(answers.selection.tolist())
    assert not {*flat} & {*answers.held_out.tolist()}


def test_the_step_of_return_is_of_the_selection_split(study):
    answers = BaseAnswers.from_study(study)
    size = len(answers.answers)

    def reading(rows):
        writes = np.zeros(size, bool)
        writes[rows] = True
        return Reading(writes, np.zeros(size))

    changed = answers.selection[answers.changed[answers.selection]]
    curve = Curve(
        {0: reading([]), 3: reading(answers.held_out), 5: reading(changed), 9: reading([])}, ()
    )
    assert step_of_return(answers, curve, 0.9) == 5
    assert step_of_return(answers, Curve({0: reading([]), 4: reading([])}, ()), 0.9) == 4
    assert curve.missing(changed).tolist() == [0.75] * len(changed)


@pytest.mark.parametrize(
    ("analyzer", "others"),
    [
        (
            WrappedPruning(),
            {
                "score": "absolute",
                "weights": "all",
                "sizes": (1,),
                "max_share": 0.2,
                "random_sets": 5,
            },
        ),
        (
            WrappedProbes(),
            {"probed": "all", "read_at": "answer", "label_token": 2, "permutations": 20},
        ),
        (
            WrappedReversal(),
            {"train": "adapter", "learning_rate": 0.1, "steps": (1,), "batch": 3, "level": 0.5},
        ),
        (
            WrappedConjugate(),
            {"registers": (Register("a", (Rule(("x", "y"), ("y", "x")),)),), "exchanges": 20},
        ),
    ],
)
def test_the_key_of_every_view_follows_its_options(study, analyzer, others):
    named = {field.name for field in dataclasses.fields(analyzer)}
    assert named == {*others, "controls", "parent"}
    changed = [{name: value} for name, value in others.items()] + [{"controls": (study.pair,)}]
    keys = [
        study.provenance(one).key
        for one in (analyzer, *(dataclasses.replace(analyzer, **change) for change in changed))
    ]
    assert len(set(keys)) == len(keys)


def test_options_that_cannot_be(study):
    for options, said in (
        ({"steps": (0,)}, r"steps are \[0\]"),
        ({"learning_rate": 2.0}, "a learning rate of 2"),
        ({"train": "lora"}, "use full or adapter"),
    ):
        with pytest.raises(OptionError, match=said):
            WrappedReversal(**options)(study)
