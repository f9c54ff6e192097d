"""Weights that accelerate keeps in main memory or on disk: every number is the one of the model in
memory.
"""

import numpy as np
import pytest
import torch
import transformers.integrations.accelerate as placement
from accelerate import cpu_offload, disk_offload, dispatch_model
from safetensors.torch import load_file, save_file

from interp.analyzers.locate_neurons import LocateNeurons
from interp.engines import TorchEngine
from interp.engines.nnsight_trace import NNsightEngine
from interp.errors import NonFiniteWeights, UnsupportedModel
from interp.models.offload import is_dispatched
from interp.models.pair import Pair
from tests import families, tiny
from tests.models.test_unwrap import assert_same, everything, pair

CPU = torch.device("cpu")
BUILDERS = {
    **tiny.FAMILIES,
    "phi3": lambda: families.build("phi3"),
    "tied": lambda: families.build("gemma3", tie_word_embeddings=True),
}


def parted(module, folder):
    """Embedding and first block in memory, the rest on disk."""
    blocks = "transformer.h" if hasattr(module, "transformer") else "model.layers"
    where = {name: "cpu" for name, part in module.named_modules() if not list(part.children())}
    where = {
        name: "disk" if name.startswith((f"{blocks}.1.", f"{blocks}.2.")) else kept
        for name, kept in where.items()
    }
    return dispatch_model(module, where, main_device="cpu", offload_dir=str(folder))


WAYS = {
    "memory": lambda module, folder: cpu_offload(module, CPU),
    "disk": lambda module, folder: disk_offload(module, str(folder), CPU),
    "parted": parted,
}


def held(way, module, folder):
    return WAYS[way](module, folder)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=[pytest.mark.slow] * (name in ("phi3", "tied")))
        for name in BUILDERS
    ],
)
def test_what_is_kept_elsewhere_gives_what_is_in_memory(name, way, tmp_path):
    bare, there = pair(BUILDERS[name]()), pair(held(way, BUILDERS[name](), tmp_path))
    away = {key for key, parameter in there.tuned.module.named_parameters() if parameter.is_meta}
    assert away
    assert there.tuned.device == CPU
    assert there.digests == bare.digests
    wanted = everything(bare.tuned)
    for engine in (TorchEngine(), NNsightEngine(), TorchEngine()):
        assert_same(everything(there.tuned, engine), wanted)
    assert {
        key for key, parameter in there.tuned.module.named_parameters() if parameter.is_meta
    } == away


def test_digests_of_what_is_kept_elsewhere_follow_its_content(tmp_path):
    other = tiny.llama()
    with torch.no_grad():
        other.model.layers[2].mlp.up_proj.weight[0, 0] += 1e-3
    assert (
        pair(held("disk", other, tmp_path)).digests["tuned"] != pair(tiny.llama()).digests["tuned"]
    )


def test_a_pair_kept_in_two_ways_gives_the_same_table(tmp_path):
    base = tiny.llama()
    tuned = tiny.perturbed(base)
    tables = [LocateNeurons(top="3", steps=3)(tiny.study(tuned, base, 4))]
    models = (
        held("disk", tiny.perturbed(tiny.llama()), tmp_path / "t"),
        held("parted", tiny.llama(), tmp_path / "b"),
    )
    tables.append(LocateNeurons(top="3", steps=3)(tiny.study(*models, 4)))
    assert tables[0].provenance.key == tables[1].provenance.key
    np.testing.assert_array_equal(tables[0]["score"], tables[1]["score"])
    assert np.abs(tables[0]["score"]).max() > 0


# ---------------------------------------------------------------------------------------------- --device spread


@pytest.fixture
def little_memory(monkeypatch):
    """What accelerate is told of this machine: room for a part of the model."""
    monkeypatch.setattr(placement, "get_max_memory", lambda given=None: {"cpu": 60_000})


@pytest.mark.parametrize("family", tiny.FAMILIES)
@pytest.mark.slow
def test_a_model_is_spread_over_what_there_is(little_memory, family, tmp_path):
    base = tiny.FAMILIES[family]()
    paths = [
        str(tiny.save(tiny.perturbed(base), tmp_path / "t")),
        str(tiny.save(base, tmp_path / "b")),
    ]
    there, here = Pair.load(*paths, device="spread"), Pair.load(*paths, device="cpu")
    for role in ("tuned", "base"):
        assert is_dispatched(there[role].module)
        assert any(parameter.is_meta for parameter in there[role].module.parameters())
        assert_same(everything(there[role]), everything(here[role]))
    assert there.digests == here.digests


def test_a_model_that_fits_is_not_taken_apart(tmp_path):
    path = str(tiny.save(tiny.llama(), tmp_path / "m"))
    there = Pair.load(path, device="spread")
    assert not any(parameter.is_meta for parameter in there.tuned.module.parameters())
    assert_same(everything(there.tuned), everything(Pair.load(path, device="cpu").tuned))


def test_weights_on_disk_are_checked(little_memory, tmp_path):
    path = tiny.save(tiny.llama(), tmp_path / "m")
    weights = load_file(path / "model.safetensors")
    weights["model.layers.2.mlp.up_proj.weight"][0, 0] = float("nan")
    save_file(weights, path / "model.safetensors", {"format": "pt"})
    with pytest.raises(NonFiniteWeights, match=r"layers\.2\.mlp\.up_proj\.weight contains NaN"):
        Pair.load(str(path), device="spread")


def test_an_adapter_on_a_base_that_is_not_all_in_memory_is_refused(little_memory, tmp_path):
    path = tiny.save(tiny.llama(), tmp_path / "base")
    tiny.lora("llama", tiny.llama(), tmp_path / "adapter", path)
    with pytest.raises(
        UnsupportedModel,
        match="is partly offloaded to main memory or disk, where peft cannot attach",
    ):
        Pair.load(str(tmp_path / "adapter"), device="spread")
    assert_same(
        everything(Pair.load(str(path), device="spread").tuned),
        everything(pair(tiny.llama()).tuned),
    )
