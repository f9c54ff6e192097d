"""Circuits: the planted heads of an organism, nothing new in identical models, and refusals."""

import copy
import json
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from interp import claims, organisms
from interp.analyzers.circuit import FindCircuit
from interp.analyzers.circuit.compute import Data, Judge
from interp.errors import OptionError, PairError, PromptError
from interp.experiments.head_groups import DEFAULT_GROUPS, HeadGroup
from interp.figures.circuit import circuit_figure, faithfulness_figure
from interp.models.pair import Pair
from interp.prompts import OneClass, read_task_file
from interp.study import Study
from tests import tasks, tiny

QUICK: dict[str, Any] = {"completeness_draws": 0, "minimality_prompts": 0}


def halves(count):
    task = read_task_file(organisms.prompts("entities", "task", "boxes"))
    by_split = [
        task.keep([at for at, p in enumerate(task.prompts) if p.split == split][:count])
        for split in ("locate", "verify")
    ]
    return by_split[0], by_split[1]


def study_of(pair, task, **options):
    return Study(pair, OneClass(task.prompts), None, **options)


@pytest.fixture(scope="module")
def entities():
    pair = Pair.load("organism:entities/lora", "organism:entities/base", device="cpu")
    task, held_out = halves(30)
    table = FindCircuit(
        task, held_out, max_prompts=8, draws=39, completeness_draws=0, minimality_prompts=10
    )(study_of(pair, task))
    return pair, task, held_out, table


def test_the_planted_heads_are_the_circuit_of_both_models(entities):
    *_, table = entities
    planted = organisms.describe("entities/base")["initial_heads"]
    for role in ("base", "tuned"):
        inside = table[f"in_{role}"]
        found = {
            (group, layer, head)
            for group, layer, head in zip(
                table["group"][inside].tolist(),
                table["layer"][inside].tolist(),
                table["head"][inside].tolist(),
                strict=True,
            )
        }
        assert found == {(group, *node) for group, node in planted.items()}
    assert not table["new"].any()


def test_the_claims_of_the_organism_are_supported_and_random_circuits_are_not_faithful(entities):
    *_, table = entities
    findings = {each.name: each for each in claims.from_table(table.tables["claims"])}
    assert {name: each.verdict for name, each in findings.items()} == dict.fromkeys(
        ("base-circuit-carries", "tuned-circuit-carries", "circuits-share-heads"), "supported"
    )
    assert findings["base-circuit-carries"].value > 0.9
    assert table.tables["random"]["faithfulness"].max() < 0.5
    for finding in findings.values():
        claims.check(finding, table)
    rows = table.tables["minimality"]
    assert rows["minimal"][rows["circuit"] == "own"].all()


def test_taking_a_head_out_of_the_model_takes_the_task_with_it(entities):
    pair, task, held_out, table = entities
    data = Data.read(study_of(pair, task), task, held_out, "probability")
    judge = Judge.of(data, pair.tuned, DEFAULT_GROUPS)
    none = {group.name: () for group in DEFAULT_GROUPS}
    assert judge.full.mean() > 0.9
    np.testing.assert_array_equal(judge.without(none), judge.full)
    for group in DEFAULT_GROUPS:
        own = (table["group"] == group.name) & table["in_tuned"]
        nodes = tuple(zip(table["layer"][own].tolist(), table["head"][own].tolist(), strict=True))
        assert judge.without({**none, group.name: nodes}).mean() < 0.5


def test_figures_have_all_groups_and_both_models(entities):
    *_, table = entities
    maps: Any = circuit_figure(table)
    assert len(maps.data) == 2 * 2 * len(DEFAULT_GROUPS)
    rows: Any = faithfulness_figure(table.tables["circuits"])
    assert len(rows.data[0].x) == 4


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    base = tasks.worded(tiny.llama(tie_word_embeddings=False))
    tuned = tiny.perturbed(base, 0.01)
    pair = Pair.from_modules(tuned, base, tiny.tokenizer(False))
    place = tmp_path_factory.mktemp("tasks")
    task = tasks.write_task(place / "task.jsonl", pair, 12)
    held_out = tasks.write_task(place / "held.jsonl", pair, 10, seed=9)
    return base, pair, task, held_out


def test_identical_models_have_one_circuit_and_equal_numbers(small):
    base, _, task, held_out = small
    pair = Pair.from_modules(copy.deepcopy(base), base, tiny.tokenizer(False))
    table = FindCircuit(task, held_out, draws=3, **QUICK)(study_of(pair, task))
    for name in ("score", "score_low", "score_high"):
        stem, _, end = name.partition("_")
        ends = [f"{stem}_{role}{'_' + end if end else ''}" for role in ("base", "tuned")]
        np.testing.assert_array_equal(table[ends[0]], table[ends[1]])
    np.testing.assert_array_equal(table["in_base"], table["in_tuned"])
    assert table.summary["heads_shared"] == table.summary["heads_base"]
    circuits = table.tables["circuits"]
    assert len(set(circuits["accuracy"].tolist())) == 1


def test_a_task_whose_corrupted_texts_are_its_prompts_gives_empty_circuits(small, tmp_path):
    _, pair, _, held_out = small
    task = tasks.write_task(tmp_path / "task.jsonl", pair, 6, corrupt=False)
    table = FindCircuit(task, held_out, draws=2, **QUICK)(study_of(pair, task))
    assert table.summary["heads_base"] == table.summary["heads_tuned"] == 0
    for role in ("base", "tuned"):
        np.testing.assert_allclose(table[f"score_{role}"], 0, atol=1e-6)


@pytest.mark.slow
def test_no_result_depends_on_the_batch_size(small):
    _, pair, task, held_out = small
    tables = [
        FindCircuit(task, held_out, draws=3, completeness_draws=2, minimality_prompts=4)(
            study_of(pair, task, batch_size=size)
        )
        for size in (1, 5, None)
    ]
    for other in tables[1:]:
        for role in ("base", "tuned"):
            np.testing.assert_allclose(
                tables[0][f"score_{role}"], other[f"score_{role}"], atol=1e-5
            )
            np.testing.assert_array_equal(tables[0][f"in_{role}"], other[f"in_{role}"])
        for name in ("circuits", "random", "completeness"):
            column = {"circuits": "accuracy", "random": "faithfulness", "completeness": "gap"}[name]
            np.testing.assert_allclose(
                tables[0].tables[name][column], other.tables[name][column], atol=1e-9
            )


def test_controls_have_circuits_of_their_own(small):
    base, pair, task, held_out = small
    control = Pair.from_modules(
        tiny.perturbed(base, 0.005, seed=4), pair.base.module, tiny.tokenizer(False)
    )
    analyzer = FindCircuit(task, held_out, [control], draws=2, **QUICK)
    other = Pair.from_modules(tiny.llama(seed=5), tiny.llama(seed=3), tiny.tokenizer(False))
    with pytest.raises(PairError, match="has another base"):
        replace(analyzer, controls=[other])(study_of(pair, task))
    same = replace(analyzer, controls=[pair])(study_of(pair, task))
    row = same.tables["controls"]
    assert float(row["shared"][0]) == pytest.approx(
        same.summary["heads_shared"] / same.summary["heads_base"]
    )
    findings = {each.name: each for each in claims.from_table(same.tables["claims"])}
    assert findings["new-heads-beyond-control"].verdict == "not tested"


def test_attribution_is_recorded_and_needs_no_pass_per_head(small):
    _, pair, task, held_out = small
    exact, estimate = (
        FindCircuit(task, held_out, draws=0, attribution=way, **QUICK)(study_of(pair, task))
        for way in (False, True)
    )
    assert (exact.summary["method"], estimate.summary["method"]) == ("exact", "attribution")
    groups, composed = len(DEFAULT_GROUPS), 3
    per_prompt = 1 + 2 * groups + 4 * composed  # right answers, both texts, receivers' gradients
    assert estimate.summary["passes"] <= 2 * len(task) * per_prompt < exact.summary["passes"]


def test_what_cannot_be_found_is_one_line(small, tmp_path):
    _, pair, task, held_out = small
    study = study_of(pair, task)
    with pytest.raises(OptionError, match="score of FindCircuit is 'x'"):
        FindCircuit(task, held_out, score="x")
    with pytest.raises(OptionError, match="which is not a group before it"):
        FindCircuit(task, held_out, groups=(HeadGroup("B", "last", "A", "q"),))(study)
    groups = (DEFAULT_GROUPS[0], HeadGroup("B", "box", "A", "v"))
    with pytest.raises(PromptError, match="the prompt has no position 'box'"):
        FindCircuit(task, held_out, groups=groups)(study)
    path = tmp_path / "bare.jsonl"
    path.write_text(json.dumps({"prompt": "open the door", "answer": "and"}) + "\n")
    with pytest.raises(PromptError, match="row 0 has no corrupt prompt"):
        FindCircuit(read_task_file(path), held_out)(study)
    wrong = read_task_file(_with_answers(task, tmp_path))
    with pytest.raises(PromptError, match=r"answers none of the 12 prompts .* rightly"):
        FindCircuit(wrong, held_out)(study_of(pair, wrong))


def _with_answers(task, place):
    """The task with an answer that no model gives."""
    path = place / "wrong.jsonl"
    rows = [
        {
            "prompt": row.prompt.text,
            "positions": dict(row.prompt.positions),
            "answer": " Sorry",
            "corrupt": {
                "prompt": row.corrupt.text,
                "positions": dict(row.corrupt.positions),
            },
        }
        for row in task.rows
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path
