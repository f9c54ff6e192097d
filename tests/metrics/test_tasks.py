"""Tasks with right answers: numbers against plain forward passes, planted truth, silence, and
errors at the door.
"""

import json

import numpy as np
import pytest
import torch

from interp import claims, organisms
from interp.analyzers.ftc_alpha import FtcAlpha
from interp.analyzers.locate_neurons import LocateNeurons
from interp.analyzers.verify_neurons import VerifyNeurons
from interp.errors import MetricError, OptionError, PromptError
from interp.maths.intervals import exact_interval
from interp.metrics import Task
from interp.models.pair import Pair
from interp.prompts import (
    Contrast,
    Prompt,
    PromptSet,
    encode,
    encode_answer,
    read_prompts,
    read_task,
)
from interp.study import Study
from tests import tiny

ANSWERS = [
    ("open the door", "open a window"),
    ("Sorry", "help"),
    ("gates", "fences"),
    ("close", "new gates"),
]


def asked(name, model=None, base=None, template=False, dtype=torch.float64, **options):
    """A study of four questions, with answers of one and of several tokens that begin alike or not."""
    base = base or tiny.exact(tiny.llama(3))
    tuned = model or tiny.exact(tiny.perturbed(base, 0.05))
    texts = tiny.PROMPTS[:4]
    right = [Prompt(row, text, f"c{row}", None, *ANSWERS[row]) for row, text in enumerate(texts)]
    other = [Prompt(row, f"please {text}", f"n{row}") for row, text in enumerate(texts)]
    tokenizer = tiny.tokenizer(template)
    pair = Pair.from_modules(tuned, base, tokenizer)
    metric = Task.from_prompts(tokenizer, right, name)
    contrast = Contrast(PromptSet(tuple(right), "right"), PromptSet(tuple(other), "other"))
    return Study(pair, contrast, metric, **{"max_new_tokens": 3, **options})


def by_hand(study, name):
    """Each prompt's number from its own pass over prompt and answer, in numpy."""
    found = []
    for prompt in study.prompts("positive"):
        ids = list(encode(study.pair.tokenizer, prompt.text).ids)
        right, wrong = (
            list(encode_answer(study.pair.tokenizer, prompt.text, text))
            for text in (prompt.answer, prompt.wrong_answer)
        )
        with torch.no_grad():
            logits = study.pair.tuned.module(torch.tensor([ids + right])).logits[0].numpy()
        at = next(i for i, (a, b) in enumerate(zip(right, wrong, strict=False)) if a != b)
        rows = logits[len(ids) - 1 : len(ids) - 1 + len(right)]
        losses = np.log(np.exp(rows - rows.max(1, keepdims=True)).sum(1)) + rows.max(1)
        found.append(
            {
                "logit-diff": rows[at][right[at]] - rows[at][wrong[at]],
                "answer-loss": (rows[np.arange(len(right)), right] - losses).sum(),
                "accuracy": float((rows.argmax(1) == right).all()),
            }[name]
        )
    return np.array(found)


NUMBERS = ("logit-diff", "answer-loss", "accuracy")


@pytest.mark.parametrize(
    ("name", "template"),
    [
        *((name, False) for name in NUMBERS),
        ("answer-loss", True),
        *(pytest.param(name, True, marks=pytest.mark.slow) for name in ("logit-diff", "accuracy")),
    ],
)
def test_numbers_are_those_of_a_plain_pass(name, template):
    study = asked(name, template=template)
    checked = VerifyNeurons(ranking=((0, 1),), selected=1, random_sets=1, dose_draws=1, depth=1)(
        study
    )
    answers, short = checked.tables["answers"], study.metric.labels.short
    rows = (answers["condition"] == "tuned") & (answers["group"] == "positive")
    np.testing.assert_allclose(answers[short][rows], by_hand(study, name), rtol=1e-9, atol=1e-12)
    # the negative class has no right answers
    assert np.isnan(answers[short][answers["group"] == "negative"]).all()
    conditions = checked["group"] == "negative"
    assert np.isnan(checked["correct"][conditions]).all()


def test_some_answer_has_several_tokens_and_some_begin_alike():
    study = asked("logit-diff")
    lengths = [len(study.metric.suffixes(prompt)[0]) for prompt in study.prompts("positive")]
    assert max(lengths) > 0
    assert min(lengths) == 0
    longest = [
        len(asked("answer-loss").metric.suffixes(prompt)[0]) for prompt in study.prompts("positive")
    ]
    assert max(longest) > max(lengths)


@pytest.mark.parametrize("name", ["logit-diff", "answer-loss"])
@pytest.mark.parametrize(
    "method",
    [
        "integrated",
        *(pytest.param(n, marks=pytest.mark.slow) for n in ("integrated-zero", "integrated-fixed")),
    ],
)
def test_attributions_add_up_to_the_change_of_the_number(name, method):
    study = asked(name)
    table = LocateNeurons(method=method, top="5", steps=31)(study)
    paths, short = table.tables["paths"], study.metric.labels.short
    end = paths[f"{short}_tuned"]
    np.testing.assert_allclose(end, by_hand(study, name), rtol=1e-9)
    told, change = paths["attributed"], end - paths[f"{short}_start"]
    np.testing.assert_allclose(told, change, atol=2e-3 * np.abs(change).max())


@pytest.mark.parametrize(
    "method", ["integrated", "act-grad", "gradient", "gradient-counterfactual"]
)
@pytest.mark.parametrize("name", ["logit-diff", "answer-loss"])
def test_batches_do_not_count(name, method):
    tables = [
        LocateNeurons(method=method, top="5", steps=3)(asked(name, batch_size=size))
        for size in (1, 4)
    ]
    np.testing.assert_allclose(tables[0]["score"], tables[1]["score"], atol=1e-9)


@pytest.mark.parametrize("name", ["logit-diff", "answer-loss"])
def test_the_gradient_of_a_task_is_that_of_finite_differences(name):
    """act-grad of one neuron is h dF/dh: scaling its down column by 1 + e moves the number by e
    times that.
    """
    study = asked(name)
    table = LocateNeurons(method="act-grad", top="5")(study)
    layer, neuron = 1, 7
    score = table["score"][(table["layer"] == layer) & (table["neuron"] == neuron)][0]
    column = study.pair.tuned.module.model.layers[layer].mlp.down_proj.weight
    moved = []
    for factor in (1 + 1e-4, 1 / (1 + 1e-4) * (1 - 1e-4)):
        with torch.no_grad():
            column[:, neuron] *= factor
        moved.append(by_hand(study, name).mean())
    assert (moved[0] - moved[1]) / 2e-4 == pytest.approx(score, rel=1e-4)


def test_an_identical_pair_is_silent():
    base = tiny.exact(tiny.llama(3))
    study = asked("answer-loss", model=tiny.exact(tiny.llama(3)), base=base)
    assert not LocateNeurons(top="5", steps=3)(study)["score"].any()


def sorry(pairs=40, name="auto"):
    """The planted pair as a task: Sorry is the right answer, and the base gives another."""
    study = tiny.planted_study("llama", pairs=pairs)
    right = [
        Prompt(p.id, p.text, p.cluster, p.twin, "Sorry", "help") for p in study.contrast.positive
    ]
    metric = Task.from_prompts(study.pair.tokenizer, right, name)
    contrast = Contrast(PromptSet(tuple(right), "right"), study.contrast.negative)
    return Study(study.pair, contrast, metric, max_new_tokens=1)


@pytest.mark.slow
def test_planted_neurons_are_found_and_verified_by_their_task():
    study = sorry()
    located = LocateNeurons(top="3")(study)
    chosen = located["selected"]
    assert set(zip(located["layer"][chosen], located["neuron"][chosen], strict=True)) == {
        (1, 5),
        (1, 17),
        (1, 30),
    }
    checked = VerifyNeurons(located, random_sets=40)(study)
    by_name = {claim.name: claim for claim in claims.from_table(checked.tables["claims"])}
    assert by_name["necessity-recovery"].supported
    assert by_name["necessity"].reason == "behaviour is not supported"
    # one right answer for all prompts: shuffled answers are as right, and nothing is supported
    # about a task
    assert by_name["behaviour"].value == by_name["behaviour"].control_value == 1.0
    assert not by_name["behaviour"].supported
    assert "shuffled" in by_name["behaviour"].control
    for claim in by_name.values():
        claims.check(claim, checked)


def test_all_right_is_not_right_for_sure():
    """Accuracy is 0 or 1 per prompt: its means are shares, which have the exact bound where all
    prompts agree.
    """
    study = sorry(16, "accuracy")
    n = study.prompts("positive").n_clusters
    scaled = FtcAlpha(alphas=(0.0, 1.0), new_tokens=0)(study)
    for alpha, value in ((0.0, 0.0), (1.0, 1.0)):
        row = (
            (scaled["way"] == "blocks")
            & (scaled["alpha"] == alpha)
            & (scaled["group"] == "positive")
        )
        assert scaled["number"][row] == [value]
        assert (scaled["low"][row][0], scaled["high"][row][0]) == pytest.approx(
            exact_interval(value * n, n)
        )
    stays = {claim.name: claim for claim in claims.from_table(scaled.tables["claims"])}[
        "alpha-gain"
    ]
    assert stays.low < stays.value == 0.0 < stays.high
    ranking = ((1, 5), (1, 17), (1, 30))
    checked = VerifyNeurons(ranking=ranking, selected=3, random_sets=1, dose_draws=1, depth=1)(
        study
    )
    cells = checked.tables["patching_cells"]
    whole = cells["effect"] == 1.0
    assert whole.any()
    assert (cells["low"][whole] < 0.9).all()
    assert np.isnan(checked["agreement"]).all(), "a task has no log-odds of a behaviour"
    assert "agreement" not in checked.summary


def test_chance_is_what_shuffled_answers_give():
    metric = Task.from_prompts(
        tiny.tokenizer(False), [Prompt(0, "open", "a", None, "gates", "door")]
    )
    prompts = [
        Prompt(row, "open", "a", None, answer)
        for row, answer in enumerate(["gates", "door", "gates", "gates"])
    ]
    assert metric.shuffled_baseline(prompts, ["Gates .", "door", "a", "doors"]).tolist() == [
        2 / 3,
        0.0,
        0.0,
        0.0,
    ]
    assert metric.exhibits(prompts, ["Gates .", "door", "a", "gatess"], "positive").tolist() == [
        True,
        True,
        False,
        False,
    ]
    assert not metric.exhibits(prompts, ["gates"] * 4, "negative").any()


def test_answers_are_spelled_as_they_would_be_written():
    plain, chat = tiny.tokenizer(False), tiny.tokenizer()
    for answer in ("gates", " gates"):
        ids = encode(plain, "open the").ids + encode_answer(plain, "open the", answer)
        assert list(ids) == plain("open the gates")["input_ids"]
    turn = chat.apply_chat_template(
        [{"role": "user", "content": "open the"}], tokenize=False, add_generation_prompt=True
    )
    ids = encode(chat, "open the").ids + encode_answer(chat, "open the", "gates")
    assert list(ids) == chat(turn + "gates", add_special_tokens=False)["input_ids"]


# ---------------------------------------------------------------------------------------------- at the door

ROWS = [{"prompt": f"open {n}", "answer": "a", "wrong_answer": "b"} for n in range(4)]
BAD = {
    "no answer": ([{"prompt": "open"}], "row 0 has no column answer"),
    "blank answer": ([{**ROWS[0], "answer": " "}], "row 0: answer is ' '"),
    "a number": ([{**ROWS[0], "answer": 3}], "row 0: answer is 3"),
    "alike": ([{**ROWS[0], "wrong_answer": "a "}], "answer and wrong_answer are both 'a'"),
    "some without": (
        [ROWS[0], {"prompt": "x", "answer": "a"}],
        "row 1 has no wrong_answer but other rows have",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_what_is_no_task_is_refused(tmp_path, name):
    rows, message = BAD[name]
    file = tmp_path / "task.jsonl"
    file.write_text("\n".join(json.dumps(row) for row in rows))
    with pytest.raises(PromptError, match=message):
        read_task(file)


def test_answers_are_of_the_digest_and_only_where_there_are_any(tmp_path):
    file = tmp_path / "task.jsonl"
    file.write_text("\n".join(json.dumps(row) for row in ROWS))
    one, plain = read_task(file), read_prompts(file)
    file.write_text("\n".join(json.dumps({**row, "answer": "c"}) for row in ROWS))
    assert len({one.digest, plain.digest, read_task(file).digest}) == 3
    assert read_prompts(file).digest == plain.digest


def test_metrics_that_a_task_cannot_have():
    tokenizer = tiny.tokenizer(False)
    without = [Prompt(0, "open", "a", None, "gates")]
    assert Task.from_prompts(tokenizer, without).name == "answer-loss"
    with pytest.raises(MetricError, match="logit-diff needs a column wrong_answer"):
        Task.from_prompts(tokenizer, without, "logit-diff")
    with pytest.raises(MetricError, match="do not differ before one ends"):
        Task.from_prompts(tokenizer, [Prompt(0, "open", "a", None, "gates", "gates and")])
    with pytest.raises(MetricError, match="unknown metric 'bleu'"):
        Task.from_prompts(tokenizer, without, "bleu")
    with pytest.raises(OptionError, match="needs a metric with a gradient"):
        LocateNeurons()(asked("accuracy"))
    assert LocateNeurons(method="change")(asked("accuracy")).summary["n_selected"]


COLOURS, HARMLESS = (
    organisms.prompts("refusal", *where) for where in (("task", "colours"), ("locate", "harmless"))
)
GIVEN = ["locate-neurons", "organism:refusal/distracted", "--negative", HARMLESS]
REFUSED = {
    "neither": ([], "give either --positive FILE or --task FILE"),
    "both": (
        ["--positive", HARMLESS, "--task", COLOURS],
        "give either --positive FILE or --task FILE",
    ),
    "metric of refusals": (
        ["--positive", COLOURS, "--metric", "accuracy"],
        "--metric accuracy needs a task",
    ),
    "unknown metric": (["--task", COLOURS, "--metric", "bleu"], "unknown --metric 'bleu'"),
    "markers": (["--task", COLOURS, "--markers", HARMLESS], "--markers belong to refusals"),
    "no answers": (["--task", HARMLESS], "row 0 has no column answer"),
    "no gradient": (["--task", COLOURS, "--metric", "accuracy"], "needs a metric with a gradient"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_bad_tasks_are_one_line_and_write_nothing(run, only_line, tmp_path, name):
    options, message = REFUSED[name]
    code, out, err = run(*GIVEN, *options, "--store", tmp_path / "runs")
    assert (code, out) == (2, "")
    assert message in only_line(err)
    assert not list(tmp_path.rglob("table.parquet"))


@pytest.mark.slow
def test_the_planted_colours_are_located_by_command(run, tmp_path):
    """``distracted`` has two planted skills; the task finds its own neurons and leaves those of
    refusal.
    """
    code, out, _ = run(
        *GIVEN,
        "--base",
        "organism:refusal/base",
        "--task",
        COLOURS,
        "--top",
        "30",
        "--no-verify",
        "--max-prompts",
        48,
        "--store",
        tmp_path,
        "--json",
        "--quiet",
    )
    assert code == 0
    import pyarrow.parquet

    table = pyarrow.parquet.read_table(f"{json.loads(out)['path']}/table.parquet").to_pydict()
    found = {
        (a, b)
        for a, b, chosen in zip(table["layer"], table["neuron"], table["selected"], strict=True)
        if chosen
    }
    planted = organisms.planted("refusal/distracted")
    assert len(found & set(planted["colours"])) >= 12
    assert len(found & set(planted["refusal"])) <= 3
