"""Several controls: what one, three, five and nineteen allow to be said; planted truth, silence,
and the commands.
"""

import copy
import gc
import json
import shutil
import weakref
from functools import partial

import numpy as np
import pytest
import torch

from interp import claims
from interp.analyzers.compare import Compare
from interp.analyzers.tuco import Tuco
from interp.claims import conclude, mean
from interp.claims.control_fine_tunes import MIN_FOR_INTERVAL, MIN_FOR_RANK, beyond_new_control
from interp.cli import main
from interp.errors import PairError
from interp.models.pair import Pair
from interp.models.pairs_on_demand import PairsOnDemand
from interp.prompts import Contrast
from interp.study import Study
from interp.table import table
from tests import tiny


def run_of(own: np.ndarray, controls: np.ndarray):
    """A run with a number of each of many prompts, and one of each control."""
    columns = {
        "cluster": ([f"c{at}" for at in range(len(own))], "key", "cluster"),
        "kl": (own, "measure", "number"),
    }
    beside = table(
        "controls",
        {
            "control": (np.arange(len(controls)), "key", "control"),
            "kl": (controls, "measure", "its number"),
        },
    )
    claim = beyond_new_control("beyond", mean("kl"), "kl", len(controls), "the number", ".3g")
    run = conclude(table("made", columns, tables={"controls": beside}), [claim])
    (found,) = claims.from_table(run.tables["claims"])
    claims.check(found, run)
    return found


@pytest.mark.parametrize(
    ("count", "verdict"),
    [(1, "not tested"), (3, "not tested"), (5, "supported"), (19, "supported")],
)
def test_how_many_controls_allow_what(count, verdict):
    generator = np.random.default_rng(count)
    found = run_of(generator.normal(10, 1, 40), generator.normal(1, 0.5, count))
    assert found.verdict == verdict
    if count < MIN_FOR_INTERVAL:
        assert f"{count} control{'s were' if count > 1 else ' was'} given" in found.reason
        assert "5 are needed for the interval of a new one, 19 for a rank test" in found.reason
    if count >= MIN_FOR_RANK:
        assert found.p == pytest.approx(1 / (1 + count))
    controls = np.random.default_rng(count)
    controls.normal(10, 1, 40)
    values = controls.normal(1, 0.5, count)
    if MIN_FOR_INTERVAL <= count < MIN_FOR_RANK:
        # Student's t with four degrees of freedom, by its table
        assert found.control_high == pytest.approx(
            values.mean() + 2.776445 * np.sqrt(1 + 1 / count) * values.std(ddof=1), rel=1e-6
        )
    assert f"{values.max():.3g}" in found.sentence


@pytest.mark.parametrize("count", [5, 19])
def test_another_control_is_not_beyond_the_controls(count):
    """Silence: a fine-tune drawn as the controls are is claimed at most as often as the level says,
    and less.
    """
    claimed = 0
    for seed in range(60):
        generator = np.random.default_rng(seed)
        level, *others = generator.normal(5, 1, count + 1)
        claimed += run_of(level + generator.normal(0, 0.05, 20), np.array(others)).supported
    assert claimed <= 7


@pytest.fixture(scope="module")
def pairs():
    base = tiny.llama(7)
    tuned = Pair.from_modules(tiny.perturbed(base, 0.02), base, tiny.tokenizer())
    return tuned, tuple(
        Pair.from_modules(tiny.perturbed(base, 0.002, seed), base, tiny.tokenizer())
        for seed in range(10, 15)
    )


@pytest.mark.parametrize("analyzer", [Compare, Tuco])
def test_five_controls_of_a_pair(pairs, analyzer):
    pair, controls = pairs
    study = Study(pair, tiny.contrast(8), None)
    several = analyzer(controls=controls)(study)
    alone = [analyzer(controls=(one,))(study) for one in controls]
    column = "control_kl_last" if analyzer is Compare else "control_tuco"
    np.testing.assert_allclose(
        several[column], np.mean([one[column] for one in alone], 0), rtol=1e-5, atol=1e-9
    )
    of_each = "kl_last" if analyzer is Compare else "tuco"
    beside = several.tables["controls"]
    assert beside["model"].tolist() == [one.tuned.name for one in controls]
    np.testing.assert_allclose(beside[of_each], [one[column].mean() for one in alone], rtol=1e-5)
    found = {one.name: one for one in claims.from_table(several.tables["claims"])}
    for one in found.values():
        claims.check(one, several)
    assert found["beyond-control"].supported
    assert found["beyond-new-control"].supported
    assert "5 controls on average" in found["beyond-control"].sentence
    # the first sentence says what the number is compared with
    first = next(iter(found.values()))
    assert "Compared with 5 control fine-tunes on average: " in first.sentence
    assert "Compared with the control fine-tune: " in alone[0].summary["sentence"]
    assert (
        "No control fine-tune was given to compare it with (--control)."
        in analyzer()(study).summary["sentence"]
    )
    if analyzer is Tuco:
        # one AUC of controls, on average over theirs: that of their mean TuCo is none's
        (auc,) = [
            one
            for one in found.values()
            if one.name.startswith("separates-beyond-") and "base" not in one.name
        ]
        assert auc.name == "separates-beyond-new-control"
        assert auc.control_value == pytest.approx(beside["auc_near"].mean())
        own = {one.name: one for one in claims.from_table(alone[0].tables["claims"])}
        assert beside["auc_near"][0] == pytest.approx(own["separates-beyond-control"].control_value)
        assert auc.control_low <= beside["auc_near"].mean() <= auc.control_high
    else:
        assert found["drifts-beyond-new-control"].supported
        more = found["more-on-positive-beyond-control"]
        gap = several["kl_last"] - several["control_kl_last"]
        np.testing.assert_allclose(several["kl_last_beyond"], gap)
        positive = several["group"] == "positive"
        assert more.value == pytest.approx(gap[positive].mean() - gap[~positive].mean())
        differences = [
            one["kl_last"][positive].mean() - one["kl_last"][~positive].mean()
            for one in (analyzer()(Study(control, tiny.contrast(8), None)) for control in controls)
        ]
        np.testing.assert_allclose(beside["more_on_positive"], differences, rtol=1e-4, atol=1e-7)
        assert found["more-on-positive"].value - np.mean(differences) == pytest.approx(
            more.value, rel=1e-5
        )
        further = found["more-on-positive-beyond-new-control"]
        assert further.value == found["more-on-positive"].value
        assert further.control_low < np.mean(differences) < further.control_high
        np.testing.assert_allclose(
            several.tables["weights"]["control_relative"],
            np.mean([one.tables["weights"]["control_relative"] for one in alone], 0),
        )
    # the order of controls changes no claim
    turned = analyzer(controls=controls[::-1])(study)
    again = {one.name: one for one in claims.from_table(turned.tables["claims"])}
    assert again["beyond-new-control"].control_high == pytest.approx(
        found["beyond-new-control"].control_high
    )


@pytest.mark.parametrize("analyzer", [Compare, Tuco])
def test_controls_loaded_one_at_a_time_give_the_same_run(analyzer):
    """Equal tables and one key; never two of them in memory."""
    base = tiny.llama(7)
    modules = [tiny.perturbed(base, 0.002, seed) for seed in (10, 11, 12)]
    held, most = weakref.WeakSet(), []

    def load(at: int) -> Pair:
        gc.collect()
        most.append(len(held) + 1)
        pair = Pair.from_modules(copy.deepcopy(modules[at]), copy.deepcopy(base), tiny.tokenizer())
        held.add(pair)
        return pair

    on_demand = PairsOnDemand([partial(load, at) for at in range(3)])
    at_once = tuple(Pair.from_modules(module, base, tiny.tokenizer()) for module in modules)
    study = Study(
        Pair.from_modules(tiny.perturbed(base, 0.02), base, tiny.tokenizer()),
        tiny.contrast(6),
        None,
    )
    one, other = analyzer(controls=on_demand)(study), analyzer(controls=at_once)(study)
    assert one.require_provenance().key == other.require_provenance().key
    for part in ("controls", "claims"):
        for column in one.tables[part].columns:
            np.testing.assert_array_equal(
                one.tables[part][column.name], other.tables[part][column.name]
            )
    assert max(most) == 1
    with pytest.raises(TypeError, match="one at a time"):
        on_demand[:2]


def test_a_control_of_another_base_is_refused(pairs):
    pair, controls = pairs
    other = Pair.from_modules(tiny.perturbed(tiny.llama(8), 0.002), tiny.llama(8), tiny.tokenizer())
    for analyzer in (Compare, Tuco):
        with pytest.raises(PairError, match="give one that was tuned from the same base"):
            analyzer(controls=(*controls[:1], other))(Study(pair, tiny.contrast(4), None))


@pytest.mark.parametrize("command", ["compare", "tuco"])
def test_the_commands_take_several(tmp_path, capsys, command):
    base = tiny.llama(7)
    for name, model in (
        ("base", base),
        ("tuned", tiny.perturbed(base, 0.02)),
        ("one", tiny.perturbed(base, 0.002, 3)),
        ("two", tiny.perturbed(base, 0.002, 4)),
    ):
        tiny.save(model, tmp_path / name)
    (tmp_path / "prompts.txt").write_text("\n".join(tiny.contrast(8).positive.texts) + "\n")
    given = [
        command,
        str(tmp_path / "tuned"),
        "--base",
        str(tmp_path / "base"),
        "--prompts",
        str(tmp_path / "prompts.txt"),
        "--store",
        str(tmp_path / "runs"),
        "--json",
        "--quiet",
    ]
    both = ["--control", str(tmp_path / "one"), "--control", str(tmp_path / "two")]
    assert main([*given, *both]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["summary"]["controls"] == [str(tmp_path / "one"), str(tmp_path / "two")]
    assert main([*given, *both]) == 0
    assert json.loads(capsys.readouterr().out)["cached"]
    assert main([*given, *both[:2]]) == 0
    assert json.loads(capsys.readouterr().out)["run"] != told["run"]
    assert main([*given, *both[:2], *both[:2]]) == 2
    assert "is given twice" in capsys.readouterr().err
    shutil.copytree(tmp_path / "one", tmp_path / "copied")
    runs = len(list((tmp_path / "runs").iterdir()))
    for name, said in (
        ("base", "has the weights of the base"),
        ("tuned", "has the weights of the fine-tuned model"),
        ("copied", f"has the same weights as the control {tmp_path / 'one'}"),
    ):
        assert main([*given, *both[:2], "--control", str(tmp_path / name)]) == 2
        assert said in capsys.readouterr().err
    assert len(list((tmp_path / "runs").iterdir())) == runs


def test_a_topic_is_told_from_training_in_general():
    """Prompts of the first class alone are changed, by less than controls change both: beyond them
    by class only.
    """
    base = tiny.llama(7)
    tuned = tiny.perturbed(base, 0.0)
    contrast = tiny.contrast(32)
    tokenizer = tiny.tokenizer()
    words = [{*tokenizer(prompt.text).input_ids} for prompt in contrast.positive]
    others = [{*tokenizer(prompt.text).input_ids} for prompt in contrast.negative]
    only = sorted(set.union(*words) - set.union(*others))
    assert only
    with torch.no_grad():
        size = tuned.model.embed_tokens.weight.shape[1]
        tuned.model.embed_tokens.weight[only] += 0.3 * torch.randn(
            len(only), size, generator=torch.Generator().manual_seed(0)
        )
    controls = tuple(
        Pair.from_modules(tiny.perturbed(base, 0.02, seed), base, tiny.tokenizer())
        for seed in range(10, 15)
    )
    run = Compare(controls=controls)(
        Study(Pair.from_modules(tuned, base, tokenizer), contrast, None)
    )
    found = {one.name: one for one in claims.from_table(run.tables["claims"])}
    assert not found["beyond-new-control"].supported
    assert found["more-on-positive-beyond-control"].supported
    # and exchanged classes are the other way round
    turned = Contrast(contrast.negative, contrast.positive)
    run = Compare(controls=controls)(Study(Pair.from_modules(tuned, base, tokenizer), turned, None))
    found = {one.name: one for one in claims.from_table(run.tables["claims"])}
    assert not found["more-on-positive-beyond-control"].supported
