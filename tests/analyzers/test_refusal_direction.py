"""``RefusalDirection``: a planted direction is found, a share is what it says, and sums can be had
another way.
"""

import copy

import numpy as np
import pytest
import torch

from interp.analyzers.locate_neurons import LocateNeurons
from interp.analyzers.refusal_direction import RefusalDirection
from interp.claims import check, from_table
from interp.engines import Batch
from interp.errors import OptionError
from interp.experiments.conditions import PatchSource, evaluate_condition
from interp.experiments.divergence import divergence
from interp.experiments.refusal_directions import direction_ablation
from interp.maths.intervals import cluster_interval
from interp.sites import Site
from tests import tiny

SHARES = (0.5, 1.0)


@pytest.fixture(scope="module", params=["llama", pytest.param("gpt2", marks=pytest.mark.slow)])
def study(request):
    """Planted in the first block, so that a direction can be read before the second; said loud
    enough to be likely.
    """
    base, tuned = tiny.planted(
        tiny.FAMILIES[request.param](seed=7, tie_word_embeddings=False), layer=0
    )
    for module in (base, tuned):
        module.get_output_embeddings().weight.data *= 1.9
    return tiny.study(tiny.exact(tuned), tiny.exact(base), 16, template=False, max_new_tokens=1)


@pytest.fixture(scope="module")
def located(study):
    return LocateNeurons(method="change", top="3")(study)


@pytest.fixture(scope="module")
def found(study, located):
    return RefusalDirection(located, shares=SHARES)(study)


def test_a_planted_direction_is_chosen_and_takes_the_behaviour_away(study, found):
    assert found.summary["criteria_met"] is True
    assert (found.summary["layer"], found.summary["position"]) == (1, -1)
    column = tiny.mlps(study.pair.tuned.module)[0]["mlp.out"][:, 5].numpy()
    direction = found.arrays["direction"]
    assert np.linalg.norm(direction) == pytest.approx(1, abs=1e-12)
    assert direction @ column / np.linalg.norm(column) > 0.9
    whole = next(row for row in found.rows() if row["kind"] == "direction" and row["dose"] == 1.0)
    assert whole["lost"] == 1.0


def test_candidates_are_differences_of_mean_streams(study, found):
    choosing = study.contrast.split(study.seed)[0]
    means = []
    for part in (choosing.positive, choosing.negative):
        rows = []
        for prompt in part:
            ids = tiny.encode(study.pair.tokenizer, prompt.text).ids
            with torch.no_grad():
                run = study.pair.tuned.module(torch.tensor([ids]), output_hidden_states=True)
            rows.append(torch.stack([stream[0, -1] for stream in run.hidden_states[:2]]).numpy())
        means.append(np.mean(rows, 0))
    difference = means[0] - means[1]
    told = found.tables["candidates"]
    assert told["layer"].tolist() == [0, 1]
    np.testing.assert_allclose(told["size"], np.linalg.norm(difference, axis=1), rtol=1e-9)
    np.testing.assert_allclose(
        found.arrays["direction"], difference[1] / np.linalg.norm(difference[1]), atol=1e-9
    )


def test_every_claim_can_be_measured_again_and_is_of_equal_divergence(study, found):
    claims = from_table(found.tables["claims"])
    assert [claim.name for claim in claims] == ["beats-direction-lost", "beats-direction-as-base"]
    kinds, units = found["kind"] == "direction", (found["kind"] == "units") & (found["dose"] == 3)
    within = kinds & (found["kl"] <= found["kl"][units])
    for claim, column in zip(claims, ("lost", "as_base"), strict=True):
        check(claim, found)
        assert found[column][units][0] == 1.0
        if not within.any():  # no share is as gentle: there is nothing to compare with
            assert (claim.verdict, claim.value) == ("not tested", 1.0)
            continue
        assert claim.control_value == found[column][within].max()
        assert claim.value == pytest.approx(1.0 - claim.control_value)
        assert not claim.supported or claim.control_value < 0.5


def test_units_are_measured_as_any_ablation_is(study, found):
    measuring = study.with_prompts(study.contrast.split(study.seed)[1])
    receiver = PatchSource.from_study(measuring).condition(
        "ablate-base", [(0, 5), (0, 17), (0, 30)]
    )
    own = evaluate_condition(
        measuring, "tuned", "positive", PatchSource.from_study(measuring).condition("tuned", [])
    )
    judged = evaluate_condition(measuring, "units", "positive", receiver)
    row = next(row for row in found.rows() if row["kind"] == "units" and row["dose"] == 3)
    negative = range(len(measuring.prompts("negative")))
    assert row["kl"] == pytest.approx(divergence(measuring, receiver.intervention, negative).mean())
    assert row["lost"] == judged.lost(own)[own.exhibits].mean()
    assert row["number"] == pytest.approx(judged.number.mean())
    answers = found.tables["answers"]
    rows = (answers["kind"] == "units") & (answers["dose"] == 3)
    shown = rows & answers["exhibits_behaviour"]
    assert cluster_interval(answers["lost"][shown], answers["cluster"][shown])[0] == row["lost"]
    base = evaluate_condition(
        measuring, "base", "positive", PatchSource.from_study(measuring).condition("base", [])
    )
    changed = own.exhibits != base.exhibits
    assert changed.any()
    assert answers["changed"][rows].tolist() == changed.tolist()
    returned = (judged.exhibits == base.exhibits) & ~(judged.malformed & ~base.malformed)
    assert answers["as_base"][rows].tolist() == returned.tolist()
    assert row["as_base"] == returned[changed].mean()
    start, now, end = (one.number[changed].mean() for one in (own, judged, base))
    assert row["recovery"] == pytest.approx((now - start) / (end - start))


@pytest.mark.parametrize("share", [0.25, 1.0])
def test_a_share_is_taken_once_at_every_depth(study, share):
    """What the stream holds of the direction is what the parts, each less by the share, add up to."""
    model = study.pair.tuned
    generator = torch.Generator().manual_seed(0)
    direction = torch.randn(32, generator=generator, dtype=torch.float64)
    direction /= direction.norm()
    hooks = ("hook_resid_pre", "hook_attn_out", "hook_mlp_out", "hook_resid_post")
    sites = [Site(layer, hook) for layer in range(3) for hook in hooks]
    batch = Batch.pad([list(item.ids) for item in study.encoded("positive")], 0)
    edits = direction_ablation(model, direction, share).bind({})
    assert len({edit.site for edit in edits}) == len(edits)
    run = study.engine.run(model, batch, reads=sites, edits=edits, keep=0)
    plain = study.engine.run(model, batch, reads=sites, keep=0)
    along = {site: (value @ direction)[batch.mask] for site, value in run.values.items()}
    start = Site(0, "hook_resid_pre")
    expected = (1 - share) * (plain.values[start] @ direction)[batch.mask]
    for layer in range(3):
        torch.testing.assert_close(
            along[Site(layer, "hook_resid_pre")], expected, rtol=1e-9, atol=1e-12
        )
        expected = (
            expected + along[Site(layer, "hook_attn_out")] + along[Site(layer, "hook_mlp_out")]
        )
        torch.testing.assert_close(
            along[Site(layer, "hook_resid_post")], expected, rtol=1e-9, atol=1e-12
        )
    if share == 1:
        assert all(part.abs().max() < 1e-12 for part in along.values())


def test_where_nothing_is_shown_nothing_is_claimed(study, located):
    base = study.pair.base.module
    same = tiny.study(base, copy.deepcopy(base), 6, template=False, max_new_tokens=1)
    silent = RefusalDirection(located, shares=(1.0,))(same)
    assert not len(silent.tables["claims"])
    assert silent.summary["supported"] is False
    assert np.isnan(silent["as_base"]).all()
    assert "did not show the behaviour" in silent.summary["sentence"]
    assert (silent["matches_base"][silent["kind"] == "units"] == 1).all() or np.isnan(
        silent["matches_base"]
    ).all()
    units = silent["kind"] == "units"
    assert np.abs(silent["kl"][units]).max() < 1e-12


def test_directions_that_mean_nothing_are_refused(study, located):
    for shares in ((), (0.0, 1.0), (1.5,)):
        with pytest.raises(OptionError, match="cannot be removed"):
            RefusalDirection(located, shares=shares)(study)
    with pytest.raises(OptionError, match="needs a locating run"):
        RefusalDirection()(study)
