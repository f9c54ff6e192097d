"""Intruders: what is planted is found and claimed beside random updates, and what is not is not."""

import copy
import dataclasses
import json

import numpy as np
import pytest
import torch

from interp import claims
from interp.analyzers.intruders import Intruders
from interp.claims import from_table
from interp.errors import ClaimError, OutOfMemory
from interp.figures import plot
from interp.models.model import Model
from interp.models.weights import WeightPair
from interp.store import Store
from tests import tiny
from tests.documented import require_described
from tests.planted_intruders import PUSH, examine, planted, turn, wide


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return tmp_path_factory.mktemp("weights")


@pytest.fixture(scope="module")
def pair(root):
    return planted(root)


def same(one, other, tolerance=1e-5):
    for name in ("sigma", "max_cosine", "subspace_cosine"):
        np.testing.assert_allclose(one[name], other[name], atol=tolerance)
    assert (one["subspace_intruder"] == other["subspace_intruder"]).all()
    assert one["part"].tolist() == other["part"].tolist()


def test_a_planted_intruder_is_found_and_claimed_beyond_random_updates(pair):
    base, child, _ = pair
    found = examine(child, base, analyzer=Intruders(top_k=1))
    require_described(found)
    (row,) = np.flatnonzero(found["subspace_intruder"])
    assert (found["part"][row], found["rank"][row]) == ("mlp.out", 1)
    assert found["sigma"][row] == pytest.approx((1 + PUSH**2) ** 0.5, abs=1e-2)
    assert found["max_cosine"][row] == pytest.approx(1 / (1 + PUSH**2) ** 0.5, abs=1e-2)
    assert found["nearest"][row] == 2
    assert found["beyond_null"][row]
    for claim in from_table(found.tables["claims"]):
        assert claim.supported
        assert (claim.value, claim.p, claim.control_high) == (1, 1 / 21, 0)
        claims.check(claim, found)
        moved = dataclasses.replace(claim, control_value=0.5)
        with pytest.raises(ClaimError, match="control_value"):
            claims.check(moved, found)
    assert found.summary["sentence"].startswith(
        "1 of 7 leading left singular vectors in 7 matrices are intruders (largest |cosine| with a"
        " base vector below 0.5); random updates of equal rank, norm and singular values give 0.0"
        " (0), p = 0.048."
    )
    for part in (found, found.tables["image"]):
        assert json.loads(plot(part).to_json())["data"]
    # the image is of the matrix with the most
    assert set(found.tables["image"]["part"]) == {"mlp.out"}


def test_a_random_update_of_its_size_is_not_claimed(root, pair):
    """A strong direction of no meaning is an intruder too: what makes it one is its size, and the
    null says so.
    """
    base = wide()
    child = copy.deepcopy(base)
    strong = 40 * torch.outer(turn(5)[:, 0], turn(6)[:, 0]).float()
    child.model.layers[0].self_attn.o_proj.weight.data += strong
    found = examine(
        tiny.save(child, root / "strong"), tiny.save(base, root / "wide"), analyzer=Intruders()
    )
    assert found["subspace_intruder"].sum() == 1
    plain, apart = from_table(found.tables["claims"])
    null, totals = found.tables["null"], found.tables["totals"]
    for claim, column in ((plain, "intruders"), (apart, "subspace_intruders")):
        assert claim.verdict == claims.NOT_SUPPORTED
        assert claim.p > 0.5
        draws = [null[column][null["draw"] == draw].sum() for draw in range(20)]
        assert totals[f"{column}_total"].tolist() == draws
        assert claim.p == (1 + sum(draw >= claim.value for draw in draws)) / 21
        assert claim.control_value == np.mean(draws)
    matrix = found.tables["matrices"]
    changed = np.flatnonzero(matrix["changed"])
    assert matrix["part"][changed].tolist() == ["attn.o"]
    assert matrix["norm"][changed[0]] == pytest.approx(40, rel=1e-4)
    assert matrix["effective_rank"][changed[0]] == pytest.approx(1, abs=1e-3)


def test_nothing_in_nothing_out(pair):
    base, _, _ = pair
    found = examine(base, base, analyzer=Intruders())
    assert (found["max_cosine"] == 1).all()
    assert not found["is_intruder"].any()
    assert not found.tables["null"]["intruders"].any()
    assert not found.summary["supported"]
    assert any("every difference is zero" in limit for limit in found.summary["limits"])
    assert found.summary["mean_relative_norm"] == 0


def test_columns_that_others_rely_on(pair):
    found = examine(pair[1], pair[0])
    assert list(found.data)[:6] == ["layer", "part", "rank", "sigma", "max_cosine", "is_intruder"]
    assert found.kind == found.provenance.analyzer == "intruders"
    assert len(found) == 7 * 10
    assert found.summary["sentence"].endswith(".")


def test_small_matrices_are_flagged_and_not_claimed(tmp_path):
    base = tiny.save(tiny.llama(), tmp_path / "base")
    child = tiny.llama()
    child.model.layers[1].self_attn.o_proj.weight.data += (
        30 * torch.eye(32)[0][:, None] @ torch.ones(1, 32)
    )
    found = examine(
        tiny.save(child, tmp_path / "child"), base, analyzer=Intruders(eps=0.9, draws=20)
    )
    assert found["small"].all()
    assert not found.summary["supported"]
    assert "a side of 64 or less" in found.summary["sentence"]
    for claim in from_table(found.tables["claims"]):
        assert claim.verdict == claims.NOT_TESTED
        claims.check(claim, found)


def test_an_adapter_is_what_its_merged_checkpoint_is(tmp_path):
    model = wide()
    base = tiny.save(model, tmp_path / "base")
    wrapped = tiny.lora("llama", model, tmp_path / "adapter", base, fill=0.3)
    merged = tiny.save(copy.deepcopy(wrapped).merge_and_unload(), tmp_path / "merged")
    one, other = (
        examine(tmp_path / "adapter", analyzer=Intruders(draws=0)),
        examine(merged, base, analyzer=Intruders(draws=0)),
    )
    same(one, other, 1e-4)
    for name in ("effective_rank", "relative_norm"):
        np.testing.assert_allclose(
            one.tables["matrices"][name], other.tables["matrices"][name], rtol=1e-3
        )
    assert (one.tables["matrices"]["effective_rank"] <= 4 + 1e-6).all()


def test_shards_jobs_and_what_is_kept_change_nothing(root, pair, tmp_path):
    base, child, _ = pair
    # beyond these the base's values are one cluster, whose vectors are arbitrary
    two = Intruders(top_k=2)
    first = examine(child, base, tmp_path, two)
    kept = sorted((tmp_path / ".svd").iterdir())
    assert len(kept) == 1  # only the matrix that changed was compared
    again, parallel = (
        examine(child, base, tmp_path, two),
        examine(child, base, analyzer=two, jobs=3),
    )
    for other in (again, parallel):
        same(first, other)
        assert first.tables["totals"].equals(other.tables["totals"])
        assert first.provenance.key == other.provenance.key
    pieces = tmp_path / "pieces"
    tiny.save(Model.wrap("child", _loaded(child)).module, pieces, max_shard_size="100KB")
    assert len(list(pieces.glob("*.safetensors"))) > 2
    undrawn = Intruders(top_k=2, draws=0)
    same(first, examine(pieces, base, analyzer=undrawn))
    # a damaged file is as if it were not there
    kept[0].write_bytes(kept[0].read_bytes()[:-9])
    same(first, examine(child, base, tmp_path, undrawn))


def _loaded(path):
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(path)


def test_the_second_child_does_not_decompose_the_base_again(pair, tmp_path, monkeypatch):
    from interp.maths import subspaces

    base, child, _ = pair
    examine(child, base, tmp_path)
    called = []
    monkeypatch.setattr(subspaces, "left_basis", lambda matrix: called.append(matrix.shape))
    examine(child, base, tmp_path, analyzer=Intruders(top_k=4, draws=0))
    assert not called


def test_store_keeps_and_finds_it(pair, tmp_path):
    base, child, _ = pair
    store, weights = Store(tmp_path), WeightPair.load(str(child), str(base))
    first = store.run(Intruders(draws=0), weights)
    again = store.run(Intruders(draws=0), weights)
    assert (first.cached, again.cached) == (False, True)
    assert first.table.equals(again.table)
    assert store.run(Intruders(eps=0.4, draws=0), weights).key != first.key
    found = store.sql(
        "select part, count(*) as n from intruders where subspace_intruder group by part"
    )
    assert set(found["part"]) == {"mlp.out"}


def test_memory_that_runs_out_is_said(pair, monkeypatch):
    weights = WeightPair.load(str(pair[1]), str(pair[0]))
    monkeypatch.setattr(
        WeightPair, "read", lambda *_: (_ for _ in ()).throw(MemoryError("none left"))
    )
    with pytest.raises(OutOfMemory, match="--jobs 1"):
        Intruders()(weights)
