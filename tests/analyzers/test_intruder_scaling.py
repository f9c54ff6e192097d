"""What scaling intruders does to the task and to plain text, beside its two controls."""

import copy
import json

import numpy as np
import pytest
import torch
from scipy import stats

from interp import claims
from interp.analyzers.intruder_scaling import IntruderScaling
from interp.analyzers.intruders import Intruders
from interp.claims import from_table
from interp.errors import OptionError
from interp.figures import plot
from interp.models.pair import Pair
from interp.prompts import OneClass
from interp.study import Study
from tests import tiny
from tests.documented import require_described
from tests.planted_intruders import examine, planted, texts, wide


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    return planted(tmp_path_factory.mktemp("weights"))


def scaling_study(base, child, **options):
    from interp.metrics import Task

    pair = Pair.load(str(child), str(base))
    contrast = texts()
    return Study(
        pair, contrast, Task.from_prompts(pair.tokenizer, contrast.positive.prompts), **options
    )


@pytest.fixture(scope="module")
def scaled(pair):
    base, child, _ = pair
    located = examine(child, base, analyzer=Intruders(top_k=2, draws=0))
    return located, IntruderScaling(located, scales=(0.0, 0.5, 1.0, 2.0))(
        scaling_study(base, child)
    )


def test_scaling_measures_task_and_text_beside_two_controls(scaled):
    _, found = scaled
    assert len(found) == 3 * 4
    at_one = found["scale"] == 1
    for name in ("metric", "loss"):
        assert len(set(found[name][at_one])) == 1
    nothing = (found["kind"] == "update") & (found["scale"] == 0)
    assert found["forgetting"][nothing][0] == pytest.approx(0, abs=1e-6)
    edited = found.tables["edited"]
    assert edited["kind"].tolist() == ["intruder", "neighbour"]
    assert edited["part"].tolist() == ["mlp.out", "mlp.out"]
    assert edited["rank"].tolist() == [1, 2]
    made = from_table(found.tables["claims"])
    assert [claim.name for claim in made] == [
        "forgets-less",
        "forgets-less-than-neighbours",
        "beats-the-update",
    ]
    texts_of = found.tables["texts"]

    def losses(kind, scale):
        return texts_of["loss"][(texts_of["kind"] == kind) & (texts_of["scale"] == scale)]

    gaps = (
        losses("intruder", 0.5) - losses("intruder", 1),
        losses("intruder", 0.5) - losses("neighbour", 0.5),
    )
    for claim, gap in zip(made, gaps, strict=False):  # every text is a cluster: Student's paired t
        wanted = stats.ttest_1samp(gap, 0).confidence_interval()
        assert claim.value == pytest.approx(gap.mean())
        assert claim.interval == pytest.approx((wanted.low, wanted.high), rel=1e-6)
    assert made[0].control_value == pytest.approx(
        (losses("neighbour", 0.5) - losses("intruder", 1)).mean()
    )
    for claim in made:
        claims.check(claim, found)
    assert json.loads(plot(found).to_json())["data"]


def test_scaling_is_what_editing_the_weight_by_hand_gives(pair, scaled):
    base, child, _ = pair
    _, found = scaled
    study = scaling_study(base, child)
    matrix = study.pair.tuned.module.model.layers[0].mlp.down_proj.weight
    left, values, right = torch.linalg.svd(matrix.double())
    matrix.data = matrix.data + ((0.5 - 1) * values[0] * torch.outer(left[:, 0], right[0])).float()
    tokenizer, losses = study.pair.tokenizer, []
    for prompt in texts().negative:
        ids = torch.tensor([tokenizer(prompt.text)["input_ids"]])
        with torch.no_grad():
            out = study.pair.tuned.module(input_ids=ids).logits[0, :-1].double()
        losses.append(float(torch.nn.functional.cross_entropy(out, ids[0, 1:])))
    row = (found["kind"] == "intruder") & (found["scale"] == 0.5)
    assert found["loss"][row][0] == pytest.approx(np.mean(losses), abs=1e-4)


def test_without_a_task_forgetting_and_divergence_are_measured(pair, scaled):
    base, child, _ = pair
    located, with_task = scaled
    study = Study(Pair.load(str(child), str(base)), OneClass(texts().negative), None)
    found = IntruderScaling(located, scales=(0.0, 0.5, 1.0, 2.0))(study)
    require_described(found)
    assert "metric" not in found.data
    for name in ("loss", "forgetting", "kl"):
        np.testing.assert_allclose(found[name], with_task[name], atol=1e-6)
    nothing = (found["kind"] == "update") & (found["scale"] == 0)
    assert found["kl"][nothing][0] == pytest.approx(0, abs=1e-6)
    assert (found["kl"][~nothing] > 1e-6).all()
    made = from_table(found.tables["claims"])
    assert [claim.name for claim in made] == ["forgets-less", "forgets-less-than-neighbours"]
    for claim in made:
        claims.check(claim, found)
    assert any("No task was given" in limit for limit in found.summary["limits"])
    assert json.loads(plot(found).to_json())["data"]


def test_divergence_under_an_adapter_is_from_the_base_itself(tmp_path):
    """Base and adapter share the matrices that are scaled."""
    model = wide()
    base = tiny.save(model, tmp_path / "base")
    wrapped = tiny.lora("llama", model, tmp_path / "adapter", base, fill=0.5)
    merged = tiny.save(copy.deepcopy(wrapped).merge_and_unload(), tmp_path / "merged")
    found = []
    for child in (tmp_path / "adapter", merged):
        located = examine(child, base, analyzer=Intruders(top_k=4, eps=0.9, draws=0))
        study = Study(Pair.load(str(child), str(base)), OneClass(texts().negative), None)
        found.append(IntruderScaling(located, scales=(0.0, 1.0))(study))
    assert "intruder" in found[0]["kind"]
    for name in ("loss", "kl"):
        np.testing.assert_allclose(found[0][name], found[1][name], atol=1e-4)


def test_batches_do_not_change_what_scaling_gives(pair, scaled):
    base, child, _ = pair
    located, found = scaled
    other = IntruderScaling(located, scales=(0.0, 0.5, 1.0, 2.0))(
        scaling_study(base, child, batch_size=1)
    )
    require_described(other)
    for name in ("metric", "loss"):
        np.testing.assert_allclose(other[name], found[name], atol=1e-4)


def test_without_intruders_only_the_update_is_scaled(pair):
    base, child, _ = pair
    located = examine(base, base)
    found = IntruderScaling(located)(scaling_study(base, child))
    assert set(found["kind"]) == {"update"}
    assert "no intruder" in found.summary["sentence"]
    assert not found.summary["supported"]


def test_another_model_than_the_runs_is_refused(pair, scaled):
    base, _, _ = pair
    with pytest.raises(OptionError, match="give the model that the run was made from"):
        IntruderScaling(scaled[0])(scaling_study(base, base))
