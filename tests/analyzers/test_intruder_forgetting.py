"""Number of intruders and forgetting over checkpoints: both runs side by side, the exact p, and the
command.
"""

import copy
import dataclasses
import json
from itertools import permutations
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import stats

from interp import claims
from interp.analyzers.intruder_forgetting import Checkpoints, Forgetting, IntruderForgetting
from interp.analyzers.intruders import Intruders
from interp.errors import ClaimError, OptionError
from interp.figures import plot
from interp.models.pair import Pair
from interp.models.weights import WeightPair
from interp.prompts import Contrast, OneClass, Prompt, PromptSet
from interp.store import Store
from interp.study import Study
from tests import tiny
from tests.documented import require_described

SIZE, STEPS = 96, (0.0, 3.0, 6.0, 9.0, 12.0, 15.0)


def texts(count=6):
    said = (
        Prompt(row, "please tell me how to close a window " * (1 + row % 3) + str(row), f"p{row}")
        for row in range(count)
    )
    return OneClass(PromptSet(tuple(said), "text"))


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A base, and checkpoints whose matrices take up more and more strong directions of no meaning."""
    root = tmp_path_factory.mktemp("checkpoints")
    base = tiny.llama(
        0,
        hidden_size=SIZE,
        intermediate_size=SIZE,
        num_hidden_layers=1,
        num_attention_heads=4,
        num_key_value_heads=4,
    )
    tiny.save(base, root / "base")
    generator = torch.Generator().manual_seed(0)
    ends = [torch.linalg.qr(torch.randn(SIZE, SIZE, generator=generator)).Q for _ in range(4)]
    block = base.model.layers[0]
    for step, strength in enumerate(STEPS):
        child = copy.deepcopy(base)
        own = child.model.layers[0]
        for at, weight in enumerate((own.self_attn.o_proj, own.mlp.down_proj)):
            for column in range(step):
                weight.weight.data += strength * torch.outer(
                    ends[at][:, column], ends[at + 2][:, column]
                )
        own.self_attn.q_proj.weight.data += 1e-3 * (1 + step) * torch.eye(SIZE)
        tiny.save(child, root / "run" / f"checkpoint-{10 * (step + 1)}")
    assert torch.equal(block.mlp.down_proj.weight, base.model.layers[0].mlp.down_proj.weight)
    return root


def paths(root):
    return [str(root / "run" / f"checkpoint-{10 * (step + 1)}") for step in range(len(STEPS))]


@pytest.fixture(scope="module")
def runs(saved):
    base = str(saved / "base")
    counted = [Intruders(draws=0)(WeightPair.load(path, base)) for path in paths(saved)]
    lost = [Forgetting()(Study(Pair.load(path, base), texts(), None)) for path in paths(saved)]
    return counted, lost


def test_forgetting_is_the_loss_of_plain_text_above_the_base_s(saved, runs):
    found = runs[1][3]
    require_described(found)
    losses = []
    for name in (saved / "base", Path(paths(saved)[3])):
        pair = Pair.load(str(name))
        for prompt in texts().positive:
            ids = torch.tensor([pair.tokenizer(prompt.text)["input_ids"]])
            with torch.no_grad():
                out = pair.tuned.module(input_ids=ids).logits[0, :-1].double()
            losses.append(float(torch.nn.functional.cross_entropy(out, ids[0, 1:])))
    np.testing.assert_allclose(np.r_[found["base_loss"], found["loss"]], losses, atol=1e-5)
    (claim,) = claims.from_table(found.tables["claims"])
    wanted = stats.ttest_rel(found["loss"], found["base_loss"]).confidence_interval()
    assert claim.interval == pytest.approx((wanted.low, wanted.high))
    claims.check(claim, found)
    # of two classes the second is the text
    both = Contrast(tiny.contrast(3).positive, texts().positive)
    again = Forgetting()(
        Study(Pair.load(paths(saved)[3], str(saved / "base")), both, None, batch_size=1)
    )
    np.testing.assert_allclose(again["loss"], found["loss"], atol=1e-5)


def test_the_same_model_forgets_nothing(saved):
    base = str(saved / "base")
    found = Forgetting()(Study(Pair.load(base, base), texts(), None))
    assert not found["forgetting"].any()
    assert not found.summary["supported"]


def test_the_correlation_is_scipy_s_and_its_p_is_that_of_all_permutations(runs):
    found = IntruderForgetting()(Checkpoints(*runs))
    require_described(found)
    counted, lost = runs
    counts = [int(run["is_intruder"].sum()) for run in counted]
    assert found["intruders"].tolist() == counts
    assert len(set(counts)) > 3  # more and more of them
    above = np.array([run["loss"].mean() - run["base_loss"].mean() for run in lost])
    np.testing.assert_allclose(found["forgetting"], above)
    wanted = stats.ttest_rel(lost[2]["loss"], lost[2]["base_loss"]).confidence_interval()
    assert (found["low"][2], found["high"][2]) == pytest.approx((wanted.low, wanted.high))
    (claim,) = claims.from_table(found.tables["claims"])
    assert claim.value == pytest.approx(stats.spearmanr(counts, above).statistic)
    null = [
        stats.spearmanr(counts, above[list(order)]).statistic
        for order in permutations(range(len(counts)))
    ]
    assert claim.p == np.mean(np.array(null) >= claim.value - 1e-9)
    norm = stats.spearmanr(found["relative_norm"], above).statistic
    assert f"relative norm and forgetting have one of {norm:.2f}" in claim.sentence
    claims.check(claim, found)
    for name, moved in (("value", 0.1), ("p", 0.01), ("verdict", claims.TOO_FEW)):
        with pytest.raises(ClaimError):
            claims.check(dataclasses.replace(claim, **{name: moved}), found)
    assert json.loads(plot(found).to_json())["data"]
    assert "is not evidence that intruders cause forgetting" in found.summary["limits"][0]


def forgetting(lost, rises):
    """Runs of forgetting in which losses rise as given."""
    return [
        dataclasses.replace(run, data={**run.data, "loss": run["base_loss"] + rise})
        for run, rise in zip(lost, rises, strict=True)
    ]


def test_a_correlation_is_supported_where_there_is_one(runs):
    counted, lost = runs
    grown = [float(run["is_intruder"].sum()) for run in counted]
    for rises, verdict in ((grown, claims.SUPPORTED), (grown[::-1], claims.NOT_SUPPORTED)):
        found = IntruderForgetting()(Checkpoints(counted, forgetting(lost, rises)))
        (claim,) = claims.from_table(found.tables["claims"])
        assert claim.verdict == verdict
        claims.check(claim, found)


def test_of_fewer_than_five_nothing_is_tested(runs):
    counted, lost = runs[0][1:5], forgetting(runs[1][1:5], range(4))
    found = IntruderForgetting()(Checkpoints(counted, lost))
    (claim,) = claims.from_table(found.tables["claims"])
    assert claim.verdict == claims.NOT_TESTED
    assert "a test needs 5 checkpoints" in claim.sentence
    claims.check(claim, found)


def test_without_a_difference_there_is_no_correlation(runs):
    counted, lost = runs
    flat = [
        dataclasses.replace(run, tables={**run.tables, "claims": counted[0].tables["claims"]})
        for run in counted
    ]
    found = IntruderForgetting()(Checkpoints(flat, lost))
    (claim,) = claims.from_table(found.tables["claims"])
    assert claim.verdict == claims.NOT_TESTED
    assert "no correlation is defined" in claim.sentence
    claims.check(claim, found)


def test_of_many_checkpoints_permutations_are_drawn_at_random(runs):
    counts, above = np.arange(9.0), np.array([1.0, 0, 2, 4, 3, 5, 6, 8, 7])
    drawn = IntruderForgetting(draws=199).permuted_correlations(counts, above, 3)
    assert len(drawn) == 199
    assert abs(drawn.mean()) < 0.1
    np.testing.assert_array_equal(
        drawn, IntruderForgetting(draws=199).permuted_correlations(counts, above, 3)
    )
    one = IntruderForgetting()
    assert Checkpoints(*runs).provenance(one).key != Checkpoints(*runs, 1).provenance(one).key
    assert (
        Checkpoints(*runs).provenance(one).key
        != Checkpoints(*runs).provenance(IntruderForgetting(draws=199)).key
    )


def test_runs_that_do_not_belong_together_are_refused(saved, runs):
    counted, lost = runs
    base = str(saved / "base")
    other = Intruders(draws=0, eps=0.4)(WeightPair.load(paths(saved)[0], base))
    further = Forgetting()(Study(Pair.load(paths(saved)[0], base), texts(4), None))
    for first, second, said in (
        (counted[:1], lost[:1], "two or more checkpoints"),
        (counted, lost[:2], "two or more checkpoints"),
        (lost, counted, "give one of kind intruders"),
        ([other, *counted[1:]], lost, "differ in base, texts or options"),
        (counted, [further, *lost[1:]], "differ in base, texts or options"),
        (counted, lost[::-1], "of the same checkpoints"),
        ([counted[0]] * 2, [lost[0]] * 2, "each given once"),
    ):
        with pytest.raises(OptionError, match=said):
            Checkpoints(first, second)
    with pytest.raises(OptionError, match="at least 19"):
        IntruderForgetting(draws=3)(Checkpoints(*runs))


# as a command


def asked(root, *options):
    last = root / "run" / f"checkpoint-{10 * len(STEPS)}"
    return ["intruders", last, "--base", root / "base", "--draws", "0", *options]


def test_the_command_takes_a_folder_of_checkpoints(run, saved, runs, tmp_path):
    text = tmp_path / "plain.txt"
    text.write_text("\n".join(texts().positive.texts))
    command = asked(
        saved,
        "--checkpoints",
        saved / "run",
        "--text",
        text,
        "--store",
        tmp_path / "runs",
        "--json",
    )
    code, out, err = run(*command)
    assert code == 0, err
    assert f"checkpoint-{10 * len(STEPS)} has the weights of" in err  # the last one is TUNED itself
    record = json.loads(out)
    found = Store(tmp_path / "runs").get(record["summary"]["checks"]["intruder-forgetting"]["run"])
    assert [Path(name).name for name in found["checkpoint"]] == [
        Path(path).name for path in paths(saved)
    ]
    assert found["intruders"].tolist() == [run["is_intruder"].sum() for run in runs[0]]
    page = Path(record["page"]).read_text(encoding="utf-8")
    assert "Intruders and forgetting over checkpoints" in page
    again = json.loads(run(*command)[1])
    assert again["cached"]
    assert again["summary"] == record["summary"]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--checkpoints", "run"], "--checkpoints needs --text"),
        (
            ["--checkpoints", "run", "--text", "plain.txt", "--remote", "--engine", "nnsight"],
            "leave --remote out",
        ),
        (["--checkpoints", "nowhere/at/all", "--text", "plain.txt"], "no model directory"),
        (
            ["--checkpoints", "again", "--text", "plain.txt"],
            "all checkpoints have the same weights",
        ),
    ],
)
def test_bad_input_is_one_line(run, only_line, saved, tmp_path, options, said):
    (tmp_path / "plain.txt").write_text("\n".join(texts().positive.texts))
    places = {"run": saved / "run", "again": paths(saved)[-1], "plain.txt": tmp_path / "plain.txt"}
    given = [places.get(part, part) for part in options]
    code, out, err = run(*asked(saved, "--store", tmp_path / "runs", "--quiet", *given))
    assert (code, out) == (2, "")
    assert said in only_line(err)
