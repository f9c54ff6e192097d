"""A judge: a small model that was made to say help of answers with Sorry, asked about answers, and
its errors.
"""

import csv

import numpy as np
import pytest
import torch

from interp.analyzers.locate_neurons import LocateNeurons
from interp.analyzers.tuco import Tuco
from interp.analyzers.verify_neurons import VerifyNeurons
from interp.claims import check, from_table
from interp.errors import MetricError, ModelNotFound
from interp.maths.judge_correction import corrected_share
from interp.metrics import load_behaviour, read_behaviour
from interp.prompts import Contrast, OneClass, Prompt, PromptSet, encode
from interp.study import Study
from tests import documented, tiny

ANSWERS = {
    "yes": ["Sorry", "I cannot Sorry", "the door Sorry"],
    "no": ["open", "please tell me how", "the window", "help"],
}
LABELLED = 24


def labelled(wrong=0):
    """Prompt, answer and label; ``wrong`` of the answers that it says yes to are labelled no."""
    prompts = tiny.contrast(8).positive.texts
    rows = [
        (prompts[at % 8] + " please" * (at // 8), ANSWERS[said][at % 3], int(said == "yes"))
        for said in ANSWERS
        for at in range(LABELLED)
    ]
    return [
        (prompt, answer, 0 if at < wrong else label)
        for at, (prompt, answer, label) in enumerate(rows)
    ]


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """The judge on disk, its labelled answers, and a behaviour that asks it."""
    folder = tmp_path_factory.mktemp("judge")
    asked = [
        Prompt(at, f"{prompt} ? {answer}", str(at))
        for at, (prompt, answer, _) in enumerate(labelled())
    ]
    both = Contrast(
        PromptSet(tuple(asked[:LABELLED]), "yes"), PromptSet(tuple(asked[LABELLED:]), "no")
    )
    _, judge = tiny.planted(tiny.llama(seed=7), both=both, word="help")
    tiny.save(judge, folder / "model", with_tokenizer=False)
    tiny.tokenizer(False).save_pretrained(folder / "model")
    # a word that it would rather write than help where it was not made to
    ids = [encode(tiny.tokenizer(False), prompt.text).ids for prompt in both.negative]
    logits = torch.stack([judge(torch.tensor([each])).logits[0, -1] for each in ids]).mean(0)
    words = {
        word: tiny.tokenizer(False)(f" {word}")["input_ids"]
        for word in ("open", "door", "window", "paint", "gates")
    }
    other = max(
        (word for word, each in words.items() if len(each) == 1),
        key=lambda word: logits[words[word][0]],
    )
    write(folder, labelled())
    (folder / "judged.yaml").write_text(
        "name: sorriness\nkind: judge\nmodel: model\nquestion: '{prompt} ?"
        f" {{answer}}'\nlabelled: labelled.csv\nyes_words: [help]\nno_words: [{other}]\n"
    )
    return folder


def write(folder, rows):
    with open(folder / "labelled.csv", "w", encoding="utf-8", newline="") as stream:
        csv.writer(stream).writerows([("prompt", "answer", "label"), *rows])


def changed(place, *pairs):
    text = (place / "judged.yaml").read_text()
    for old, new in pairs:
        assert old in text
        text = text.replace(old, new)
    path = place / "changed.yaml"
    path.write_text(text)
    return path


def test_the_judge_says_of_answers_what_the_bare_model_says(place):
    reader = read_behaviour(place / "judged.yaml").reader
    rows = labelled()
    prompts = [Prompt(at, prompt, str(at)) for at, (prompt, _, _) in enumerate(rows)]
    found = reader.read(prompts, [answer for _, answer, _ in rows])
    from transformers import AutoModelForCausalLM

    model, tokenizer = AutoModelForCausalLM.from_pretrained(place / "model"), tiny.tokenizer(False)
    yes, no = (tokenizer(f" {word}")["input_ids"][0] for word in (*reader.yes, *reader.no))
    for at, (prompt, answer, _) in enumerate(rows):
        logits = model(torch.tensor([tokenizer(f"{prompt} ? {answer}")["input_ids"]])).logits[0, -1]
        assert bool(logits[yes] > logits[no]) == found[at]
    assert found[:LABELLED].mean() > 0.9
    assert found[LABELLED:].mean() < 0.6


def test_its_errors_are_counted_on_the_labels(place):
    metric = load_behaviour(place / "judged.yaml", tiny.tokenizer(False))
    rows = labelled()
    said = metric.reader.read([Prompt(0, row[0], "") for row in rows], [row[1] for row in rows])
    truth = np.array([row[2] for row in rows], bool)
    pairs = {
        (row[0], row[1]): (label, yes) for row, label, yes in zip(rows, truth, said, strict=True)
    }
    labels, found = (np.array(each) for each in zip(*pairs.values(), strict=True))
    errors = metric.errors
    assert (errors.positives, errors.negatives) == (labels.sum(), (~labels).sum())
    assert (errors.true_yes, errors.true_no) == ((labels & found).sum(), (~labels & ~found).sum())


def test_judged_and_corrected_rates_are_stored(place):
    study = tiny.planted_study("llama")
    metric = load_behaviour(place / "judged.yaml", study.pair.tokenizer)
    study = Study(study.pair, study.contrast, metric, max_new_tokens=1)
    located = LocateNeurons(method="change", top="3")(study)
    verified = VerifyNeurons(located, random_sets=19, control_prompts=8)(study)
    assert documented.kinds()["verify-neurons"].parts["judged"] == verified.tables["judged"].kind
    judged, errors = verified.tables["judged"], metric.errors
    assert len(judged) == len(verified)
    for row, own in zip(judged.rows(), verified.rows(), strict=True):
        assert (row["condition"], row["group"], row["judged"]) == (
            own["condition"],
            own["group"],
            own["sorriness"],
        )
        expected = corrected_share(
            own["sorriness"] * 16,
            16,
            errors.true_yes,
            errors.positives,
            errors.true_no,
            errors.negatives,
        )
        assert (row["corrected"], row["low"], row["high"]) == pytest.approx(expected[1:])
        assert row["high"] - row["low"] > own["high"] - own["low"] - 0.1
    found = {one.name: one for one in from_table(verified.tables["claims"])}
    rates = {(row["condition"], row["group"]): row for row in judged.rows()}
    reach = errors.true_yes / errors.positives + errors.true_no / errors.negatives - 1
    assert reach < 0.95
    for name, condition, other in (
        ("behaviour", "tuned", "base"),
        ("necessity", "ablate-base", "base"),
        ("sufficiency", "patch-tuned", "tuned"),
    ):
        one = found[name]
        difference = rates[condition, "positive"]["judged"] - rates[other, "positive"]["judged"]
        assert one.value == pytest.approx(np.clip(difference / reach, -1, 1), abs=1e-12)
        assert one.low <= one.value <= one.high
        assert one.sentence.endswith("Shares are corrected for the judge's errors.")
        check(one, verified)
    assert (
        f"{rates['tuned', 'positive']['corrected']:.1%} of positive prompts"
        in found["behaviour"].sentence
    )
    told = Tuco(by_answer=True)(
        Study(study.pair, OneClass(study.prompts("positive")), metric, max_new_tokens=1)
    )
    assert "Corrected for the judge's errors the share is" in told.summary["sentence"]


def test_other_behaviours_have_no_such_table():
    study = tiny.planted_study("llama")
    located = LocateNeurons(method="change", top="3")(study)
    assert "judged" not in VerifyNeurons(located, random_sets=19, control_prompts=8)(study).tables


def test_identity_is_of_the_judge_the_question_and_the_labels(place):
    one = read_behaviour(place / "judged.yaml").reader.identity
    assert one == read_behaviour(changed(place, ("sorriness", "other"))).reader.identity
    for pair in (("{prompt} ?", "of {prompt}"), ("yes_words: [help]", "yes_words: [help, Sorry]")):
        assert read_behaviour(changed(place, pair)).reader.identity != one
    write(place, labelled(wrong=2))
    assert read_behaviour(place / "judged.yaml").reader.identity != one
    write(place, labelled())
    assert read_behaviour(place / "judged.yaml").reader.identity == one


@pytest.mark.parametrize(
    ("pair", "kind", "said"),
    [
        (("{answer}", "answer"), MetricError, "has no {answer}"),
        (("model: model", "model: ./none"), ModelNotFound, "none"),
        (("labelled: labelled.csv", "labelled: none.csv"), MetricError, "no label file"),
        (("labelled: labelled.csv\n", ""), MetricError, "needs the field labelled"),
    ],
)
def test_judges_that_cannot_be_asked(place, pair, kind, said):
    with pytest.raises(kind, match=said):
        read_behaviour(changed(place, pair))


def test_twenty_of_each_label_are_needed(place):
    rows = labelled()
    write(place, rows[:19] + rows[LABELLED:])
    with pytest.raises(
        MetricError, match="answers are labelled yes; a judge's error rates need at least 20"
    ):
        read_behaviour(place / "judged.yaml")
    write(place, rows)


def test_a_judge_that_tells_nothing_is_refused(place):
    text = (place / "judged.yaml").read_text()
    no = text.rsplit("no_words: ", 1)[1].strip()
    with pytest.raises(MetricError, match="is not better than chance"):
        _ = load_behaviour(
            changed(
                place,
                ("yes_words: [help]", f"yes_words: {no}"),
                (f"no_words: {no}", "no_words: [help]"),
            ),
            tiny.tokenizer(),
        ).errors
