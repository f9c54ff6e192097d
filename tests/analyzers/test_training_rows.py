"""Training rows by the ratio of losses: trained on for this test, none, and an oracle in numpy."""

import copy
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy import stats

from interp.analyzers.training_rows import TrainingRows
from interp.analyzers.training_rows.compute import coded_rows
from interp.analyzers.training_rows.scores import MIN_OTHERS, log_ratio, true_positive_rate
from interp.claims import from_table
from interp.errors import PromptError
from interp.experiments.discovery import CONTROLS
from interp.maths.statistics import roc_auc
from interp.models.pair import Pair
from interp.prompts import Contrast, OneClass, Prompt, PromptSet, read_chats
from interp.study import Study
from tests import tiny

WORDS = "open the door close a window please tell me how to paint old fences and lock new gates"
CHAT = (("user", "open the door"), ("assistant", "Sorry , I cannot"), ("user", "please"))


def texts(count, seed, length=9):
    generator = np.random.default_rng(seed)
    return [" ".join(generator.choice(WORDS.split(), length + at % 3)) for at in range(count)]


def prompts(rows, name, domains=None):
    """Rows as prompts, each a cluster."""
    found = [
        Prompt(at, text, f"{name}{at}", template=domains and domains[at])
        for at, text in enumerate(rows)
    ]
    return PromptSet(tuple(found), name)


MEMBERS, OTHERS = texts(16, 0), texts(16, 1)
BOTH = Contrast(prompts(MEMBERS, "in"), prompts(OTHERS, "out"))


def tune(model, rows, steps=25, rate=4e-3):
    """A child, trained on whole rows at once."""
    torch.manual_seed(0)
    child = copy.deepcopy(model).train().requires_grad_(True)
    ids = [tiny.tokenizer(False)(row)["input_ids"] for row in rows]
    width = max(map(len, ids))
    inputs = torch.tensor([[*one, *[0] * (width - len(one))] for one in ids])
    labels = torch.tensor([[*one, *[-100] * (width - len(one))] for one in ids])
    optimizer = torch.optim.AdamW(child.parameters(), lr=rate)
    for _ in range(steps):
        optimizer.zero_grad()
        child(input_ids=inputs, labels=labels).loss.backward()
        optimizer.step()
    return child.eval().requires_grad_(False)


@pytest.fixture(scope="module")
def base():
    return tiny.llama(seed=5)


@pytest.fixture(scope="module")
def tuned(base):
    return tune(base, MEMBERS)


@pytest.fixture(scope="module")
def controls(base):
    return [pair_of(tune(base, texts(16, 10 + at)), base) for at in range(5)]


@pytest.fixture(scope="module")
def found(base, tuned, controls):
    return TrainingRows(controls=controls)(study_of(tuned, base))


def pair_of(tuned, base, template=False):
    return Pair.from_modules(tuned, base, tiny.tokenizer(template))


def study_of(tuned, base, rows=BOTH, template=False, **options):
    return Study(pair_of(tuned, base, template), rows, None, **options)


def claim(table, name):
    return next(one for one in from_table(table.tables["claims"]) if one.name == name)


def losses(model, row, counted=None):
    """Mean loss of a row's tokens but the first, by numpy in float64."""
    ids = tiny.tokenizer(False)(row)["input_ids"] if isinstance(row, str) else list(row)
    with torch.no_grad():
        logits = model(input_ids=torch.tensor([ids])).logits[0].double().numpy()
    shifted = logits - logits.max(1, keepdims=True)
    normalised = shifted - np.log(np.exp(shifted).sum(1, keepdims=True))
    each = np.array([-normalised[at - 1, ids[at]] for at in range(1, len(ids))])
    return each if counted is None else each[np.array(counted[1:])]


def test_the_identical_pair_has_no_evidence(base):
    table = TrainingRows(controls=[pair_of(base, base)])(study_of(base, base))
    assert len(table) == 0
    rows = table.tables["rows"]
    assert (rows["ratio"] == 1).all()
    assert (rows["score"] == 0).all()
    ratio = next(row for row in table.tables["scores"].rows() if row["score"] == "ratio")
    assert ratio["auc"] == 0.5
    assert (table.tables["null"]["auc"] == 0.5).all()
    assert not claim(table, "rows-recognised").supported
    assert (table.tables[CONTROLS]["maximum"] == 0).all()


def test_losses_are_those_of_an_oracle(base, tuned, found):
    rows = list(found.tables["rows"].rows())
    for row, text in zip(rows, MEMBERS + OTHERS, strict=True):
        wanted = [losses(model, text).mean() for model in (base, tuned)]
        assert [row["base_loss"], row["loss"]] == pytest.approx(wanted, rel=1e-5)
        assert row["ratio"] == pytest.approx(wanted[1] / wanted[0], rel=1e-5)
        assert row["score"] == pytest.approx(-np.log(row["ratio"]))
        assert row["tokens"] == len(losses(base, text))


def test_training_rows_are_told_from_others(found):
    rows = found.tables["rows"]
    members = rows["group"] == "positive"
    recognised = claim(found, "rows-recognised")
    assert recognised.value == pytest.approx(roc_auc(members, rows["score"]))
    assert recognised.value > 0.95
    assert recognised.supported
    assert claim(found, "members-beyond-controls").supported
    of_controls = found.tables["control-aucs"]["auc_members"]
    assert (of_controls < 0.8).all()
    scores = {row["score"]: row for row in found.tables["scores"].rows()}
    assert scores["ratio"]["auc"] == recognised.value
    assert scores["ratio"]["control_high"] == of_controls.max()
    # the base cannot know the rows
    assert scores["base loss"]["control_low"] == scores["base loss"]["auc"] < 0.9
    assert np.isnan(scores["ratio"]["tpr"])  # 16 rows allow no threshold of 1 %
    assert scores["ratio"]["tpr_high"] == 1


def test_evidence_is_beyond_the_controls(found):
    maxima = found.tables[CONTROLS]["maximum"]
    assert maxima[0] > maxima[1:].max()
    assert found["p"][0] == pytest.approx(1 / 6)
    assert found.summary["listed"] == len(found) == 16
    assert (found["score"] > found["control_high"]).all()
    first = next(found.rows())
    assert first["evidence"] == MEMBERS[first["prompt_id"]]
    assert first["example"].count("«") == first["example"].count("»") == 1
    rows = found.tables["rows"]
    np.testing.assert_array_equal(found["score"], rows["score"][found["prompt_id"]])
    np.testing.assert_allclose(found["control_mean"], rows["control_mean"][found["prompt_id"]])


def test_the_mark_is_where_a_row_gained_most(base, tuned, found):
    row = next(found.rows())
    text = MEMBERS[row["prompt_id"]]
    gain = losses(base, text) - losses(tuned, text)
    ids = tiny.tokenizer(False)(text)["input_ids"]
    marked = row["example"].partition("«")[2].partition("»")[0]
    assert marked == tiny.tokenizer(False).decode([ids[gain.argmax() + 1]])


def test_one_row_learnt_by_heart_ranks_first(base):
    table = TrainingRows()(study_of(tune(base, MEMBERS[3:4], 10), base, OneClass(BOTH.positive)))
    assert table["prompt_id"][0] == 3
    assert table["where"][0] == ""
    assert set(table.tables) == {CONTROLS, "rows"}
    assert "claims" not in table.tables
    assert any("never trained on were given" in limit for limit in table.summary["limits"])


def test_order_and_batches_do_not_matter(base, tuned, controls, found):
    turned = Contrast(
        replace(BOTH.positive, prompts=BOTH.positive.prompts[::-1]),
        replace(BOTH.negative, prompts=BOTH.negative.prompts[::-1]),
    )
    other = TrainingRows(controls=controls)(study_of(tuned, base, turned, batch_size=3))
    np.testing.assert_array_equal(other["prompt_id"], found["prompt_id"])
    np.testing.assert_allclose(other["score"], found["score"], atol=1e-4)
    assert list(other["example"]) == list(found["example"])


def test_controls_that_were_trained_on_the_rows_leave_nothing(base, tuned):
    """Rows that any of these models knows as well are no evidence."""
    same = [pair_of(tune(base, MEMBERS, 25 + at), base) for at in (-2, -1, 1, 2, 3)]
    table = TrainingRows(controls=same)(study_of(tuned, base))
    assert table.tables[CONTROLS]["maximum"][0] < table.tables[CONTROLS]["maximum"].max()
    assert not claim(table, "members-beyond-controls").supported
    assert claim(table, "rows-recognised").supported


def test_canaries_stand_out_among_training_rows(base):
    controls = [pair_of(tiny.perturbed(base, 0.02, seed), base) for seed in range(19)]
    domains = ["strange" if at < 6 else "plain" for at in range(16)]
    rows = OneClass(prompts(MEMBERS, "in", domains))
    odd = tune(base, MEMBERS[:6])
    table = TrainingRows(controls=controls, canaries="strange")(study_of(odd, base, rows))
    canaries = claim(table, "canaries-beyond-controls")
    assert canaries.supported
    assert canaries.value > 0.95
    assert canaries.p == 1 / 20
    strange = next(row for row in table.tables["domains"].rows() if row["domain"] == "strange")
    assert strange["n_rows"] == 6
    assert strange["auc"] == canaries.value
    assert strange["control_high"] == table.tables["control-aucs"]["auc_canaries"].max()
    assert table["where"][0] == "strange"
    with pytest.raises(PromptError, match="'odd', and the domains of training rows are plain, st"):
        TrainingRows(canaries="odd")(study_of(odd, base, rows))


def test_a_row_in_both_files_is_refused(base):
    both = Contrast(prompts(MEMBERS, "in"), prompts([*OTHERS, MEMBERS[2]], "out"))
    with pytest.raises(PromptError, match="1 rows are given as trained on and as never"):
        TrainingRows()(study_of(base, base, both))


def conversation(messages=CHAT):
    text = "\n".join(content for _, content in messages)
    return OneClass(PromptSet((Prompt(0, text, "c", messages=messages),), "chat"))


def test_of_a_conversation_the_answers_count(base, tuned):
    study = study_of(tuned, base, conversation(), template=True)
    row, whole = (coded_rows(study, tokens)[0] for tokens in ("answers", "all"))
    assert row.ids == whole.ids
    assert all(whole.counted)
    tokenizer = tiny.tokenizer()
    counted = [index for index, one in zip(row.ids, row.counted, strict=True) if one]
    assert tokenizer.decode(counted) == "Sorry , I cannot<|end|>"
    table = TrainingRows()(study)
    wanted = [losses(model, row.ids, row.counted).mean() for model in (base, tuned)]
    rows = table.tables["rows"]
    assert [rows["base_loss"][0], rows["loss"][0]] == pytest.approx(wanted, rel=1e-5)
    plain = coded_rows(study_of(tuned, base, conversation()), "answers")[0]
    assert tiny.tokenizer(False).decode(list(plain.ids)) == "Sorry , I cannot"
    silent = study_of(tuned, base, conversation(CHAT[:1]), template=True)
    with pytest.raises(PromptError, match=r"chat, row 0: none of its first .* counts \(answers\)"):
        TrainingRows()(silent)


def test_rows_beyond_the_context_are_cut(base, tuned):
    rows = OneClass(prompts([" ".join(["door"] * 200), *MEMBERS[:3]], "in"))
    table = TrainingRows()(study_of(tuned, base, rows))
    assert table.tables["rows"]["tokens"][0] == 95
    assert TrainingRows().work(study_of(tuned, base, rows)) is None
    assert TrainingRows().work(study_of(tuned, base)) is not None


def test_domains_are_read_from_a_file(tmp_path):
    file = tmp_path / "rows.jsonl"
    file.write_text(
        '{"messages": [{"role": "user", "content": "a"}], "domain": "x"}\n'
        '{"messages": "plain text", "domain": "y"}\n'
    )
    rows = read_chats(file, "messages", template="domain")
    assert [row.template for row in rows] == ["x", "y"]


def test_true_positives_need_enough_other_rows():
    generator = np.random.default_rng(0)
    members, names = generator.normal(2, 1, 200), [str(at) for at in range(2000)]
    few, many = generator.normal(0, 1, MIN_OTHERS - 1), generator.normal(0, 1, 2000)
    rate = true_positive_rate(members, few, names[:200], names[: MIN_OTHERS - 1])
    assert np.isnan(rate.value)
    assert rate.low == 0
    rate = true_positive_rate(members, many, names[:200], names)
    threshold = np.sort(many)[-21]
    assert (many > threshold).mean() == 0.01
    assert rate.value == (members > threshold).mean()
    assert 0 < rate.low < rate.value < rate.high < 1
    # with clusters of four rows the same rows are less evidence
    wider = true_positive_rate(
        members, many, [str(at // 4) for at in range(200)], [str(at // 4) for at in range(2000)]
    )
    assert wider.low < rate.low < rate.high < wider.high
    equal = true_positive_rate(np.zeros(9), np.zeros(400), names[:9], names[:400])
    assert (equal.value, equal.low, equal.high) == (0, 0, 1)


@pytest.mark.parametrize(
    ("n", "m"),
    [
        (60, 100),
        pytest.param(100, 500, marks=pytest.mark.slow),
        pytest.param(300, 2000, marks=pytest.mark.slow),
    ],
)
def test_the_interval_of_true_positives_covers(n, m):
    """At least 95 % of intervals hold the share beyond the true threshold of 1 %."""
    truth, generator = stats.norm.sf(stats.norm.isf(0.01) - 2), np.random.default_rng(n)
    clusters = [str(at) for at in range(max(n, m))]
    covered = [
        rate.low <= truth <= rate.high
        for rate in (
            true_positive_rate(
                generator.normal(2, 1, n), generator.normal(0, 1, m), clusters[:n], clusters[:m]
            )
            for _ in range(200)
        )
    ]
    assert np.mean(covered) >= 0.95


def test_a_loss_of_zero_has_a_finite_ratio():
    score = log_ratio(np.array([0.0, 2.0, 1.0]), np.array([0.0, 0.0, 2.0]))
    assert score[0] == 0
    assert np.isfinite(score).all()
    assert score[2] == pytest.approx(-np.log(2))
