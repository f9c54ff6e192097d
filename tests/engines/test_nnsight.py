"""The nnsight engine beside the torch engine: the same values, edits, gradients, answers and
tables, to the bit.
"""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from interp import organisms
from interp.analyzers.locate_neurons import LocateNeurons
from interp.analyzers.verify_neurons import VerifyNeurons
from interp.engines import Batch, Engine, TorchEngine, engine_named
from interp.engines.nnsight_trace import NNsightEngine, remote_key
from interp.errors import OptionError, RemoteFailure
from interp.interventions.edits import Ablate, Add, Scale
from interp.metrics import Refusal
from interp.models.model import Model
from interp.models.pair import Pair
from interp.prompts import encode, read_prompts
from interp.sites import Site, contribution, neurons
from tests import families, tiny

TORCH = TorchEngine()
METRIC = Refusal(("sorry",), (54, 86, 273, 326))
BUILDERS = {
    **tiny.FAMILIES,
    **{name: lambda name=name: families.build(name) for name in families.NAMES},
}
ORGANISMS = [
    name for name in organisms.names() if name.startswith("refusal/") and name != "refusal/base"
]
peft_warns = pytest.mark.filterwarnings(
    "ignore:.is_gradient_checkpointing. is deprecated:FutureWarning"
)


def last(logits):
    return METRIC.log_odds(logits[:, -1])


def edits(model: Model):
    """One of every kind of place: an input, a fused part, an output, a tuple's first."""
    units = torch.tensor([1, 3])
    found = [
        Scale(Site(1, "attn.hook_z"), units, 3.0),
        Add(Site(0, "hook_resid_post"), torch.full((model.anatomy.width,), 0.1)),
    ]
    if model.anatomy.n_neurons:
        found += [
            Ablate(neurons(1), units),
            Scale(contribution(0), units, -1.0),
            Scale(Site(2, "mlp.hook_pre"), units, 2.0),
        ]
    return [edit for edit in found if edit.site.hook in model.anatomy.targets]


def assert_equal(model: Model, batch: Batch, engine: Engine, reads=None):
    sites = reads or [
        Site(layer, hook)
        for layer in range(model.anatomy.n_layers)
        for hook in model.anatomy.targets
    ]
    for asked in (
        {"keep": 0},
        {"keep": None, "edits": edits(model)},
        {"keep": 2, "edits": edits(model), "gradients_at": sites, "gradient_of": last},
    ):
        ours, theirs = (one.run(model, batch, reads=sites, **asked) for one in (TORCH, engine))
        assert (ours.logits is None) == (theirs.logits is None) == (asked["keep"] == 0)
        assert ours.logits is None or torch.equal(ours.logits, theirs.logits)
        assert ours.values.keys() == theirs.values.keys() == set(sites)
        assert all(torch.equal(ours.values[site], theirs.values[site]) for site in sites)
        assert ours.gradients.keys() == theirs.gradients.keys()
        assert all(
            torch.equal(ours.gradients[site], theirs.gradients[site]) for site in ours.gradients
        )
    assert ours.gradients
    assert any(gradient.any() for gradient in ours.gradients.values())


# ---------------------------------------------------------------------------------------------- equal


@pytest.mark.parametrize(
    "dtype", [torch.float32, pytest.param(torch.bfloat16, marks=pytest.mark.slow)]
)
@pytest.mark.parametrize("name", BUILDERS)
def test_every_family_gives_what_the_torch_engine_gives(name, dtype):
    model = Model.wrap(name, BUILDERS[name]().to(dtype))
    assert_equal(model, Batch.pad([[5, 6, 7, 8, 9], [9, 8, 7]], 0), NNsightEngine())


@peft_warns
@pytest.mark.parametrize(
    "name",
    [*ORGANISMS[:3], *(pytest.param(name, marks=pytest.mark.slow) for name in ORGANISMS[3:])],
)
def test_every_organism_gives_what_the_torch_engine_gives(name):
    pair = Pair.load(f"organism:{name}", "organism:refusal/base")
    prompts = read_prompts(organisms.prompts(name, "verify", "harmful")).prompts[:3]
    batch = Batch.pad([encode(pair.tokenizer, prompt.text).ids for prompt in prompts], 0)
    engine, reads = (
        NNsightEngine(),
        [neurons(1), contribution(2), Site(3, "hook_resid_post"), Site(0, "attn.hook_z")],
    )
    for model in (pair.base, pair.tuned, pair.base):  # adapters are switched between passes
        assert_equal(model, batch, engine, reads)


@pytest.mark.parametrize("family", ["llama", pytest.param("gpt2", marks=pytest.mark.slow)])
def test_tables_are_the_same(family):
    tables = {}
    for name in ("torch", "nnsight"):
        study = tiny.planted_study(family, pairs=8, engine=engine_named(name))
        located = LocateNeurons(method="integrated", top="3", steps=3)(study)
        verified = VerifyNeurons(located, random_sets=2, control_prompts=4)(study)
        tables[name] = (located, verified)
        assert located.provenance.context["engine"] == name
    for ours, theirs in zip(*tables.values(), strict=True):
        assert ours.provenance.key == theirs.provenance.key
        assert ours.summary == theirs.summary
        for column in ours.columns:
            np.testing.assert_array_equal(ours[column.name], theirs[column.name])
    ours, theirs = (verified.tables["patching_cells"] for _, verified in tables.values())
    assert len(ours) == 8
    assert ours.equals(theirs)


def test_a_cache_is_carried_from_step_to_step():
    study = tiny.planted_study("llama", engine=NNsightEngine(), max_new_tokens=5)
    ours = tiny.planted_study("llama", max_new_tokens=5)
    assert study.answers("tuned", "positive") == ours.answers("tuned", "positive")


def test_the_module_is_left_as_it_was():
    model = Model.wrap("llama", tiny.llama())
    batch = Batch.pad([[5, 6, 7, 8, 9], [9, 8, 7]], 0)
    before, engine = TORCH.run(model, batch, keep=None).logits, NNsightEngine()
    engine.run(model, batch, edits=edits(model), gradients_at=[neurons(0)], gradient_of=last)

    class Broken:
        site = neurons(1)

        def apply(self, value):
            raise ZeroDivisionError("as it stands")

    with pytest.raises(ZeroDivisionError, match="as it stands"):
        engine.run(model, batch, edits=[Broken()])
    assert torch.equal(
        model.module(
            input_ids=batch.ids, attention_mask=batch.mask.long(), position_ids=batch.positions
        ).logits,
        before,
    )
    assert torch.equal(engine.run(model, batch, keep=None).logits, before)
    assert not any(parameter.requires_grad for parameter in model.module.parameters())


# ---------------------------------------------------------------------------------------------- remote


@pytest.mark.slow
def test_a_request_runs_where_this_package_is_not(tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "tests.ndif", "client", tmp_path],
        capture_output=True,
        text=True,
        cwd=Path(__file__).parents[2],
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["logits"] == found["values"] == found["gradients"] == 0.0
    assert found["effect"] > 0.01
    kind, key = found["request"]["model_key"].split(":", 1)
    assert found["request"]["env"] == {"attn_implementation": "sdpa"}
    assert kind == "nnsight.modeling.transformers.TransformersModel"
    assert json.loads(key) == {"repo_id": "owner/name", "revision": "v2", "task": "text-generation"}


def test_the_key_is_nnsights_own(tmp_path, monkeypatch):
    from nnsight.modeling import huggingface
    from nnsight.modeling.transformers import TransformersModel

    directory = str(tiny.save(tiny.llama(), tmp_path / "model"))
    monkeypatch.setitem(huggingface._ID_CACHE, directory, "owner/name")  # what the Hub would answer
    theirs = TransformersModel(
        directory, dispatch=True, tokenizer=tiny.tokenizer(), task="text-generation"
    )
    assert theirs.to_model_key() == remote_key(Model.wrap("owner/name", tiny.llama()))


@pytest.fixture
def key(monkeypatch):
    from nnsight.schema.config import CONFIG

    def put(value):
        monkeypatch.setattr(CONFIG.API, "APIKEY", value)

    put(None)
    return put


@pytest.mark.parametrize(
    "name", ["memory:tuned", "organism:refusal/planted", "./here/model", "/at/model", "gpt2"]
)
def test_what_is_no_hub_id_is_not_sent(key, name):
    key("a key")
    model = Model.wrap(name, tiny.llama())
    with pytest.raises(OptionError, match=r"cannot be run remotely.*Hub id"):
        NNsightEngine(remote=True).run(model, Batch.pad([[5, 6]], 0))


def test_what_the_service_says_is_one_line(key):
    from nnsight.intervention.backends.remote import RemoteError

    class Refusing:
        def __init__(self, key, env):
            pass

        def __call__(self, tracer):
            raise RemoteError("the model is\nnot scheduled")

    key("a key")
    with pytest.raises(
        RemoteFailure, match="NDIF did not run the pass: the model is not scheduled"
    ):
        NNsightEngine(True, Refusing).run(
            Model.wrap("owner/name", tiny.llama()), Batch.pad([[5, 6]], 0)
        )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--engine", "nnsight", "--remote"], "NDIF_API_KEY"),
        (["--remote"], "add --engine nnsight"),
        (["--engine", "vllm"], "unknown engine 'vllm'; known: torch, nnsight"),
    ],
)
def test_the_command_line_refuses_before_anything_is_loaded(
    run, only_line, tmp_path, key, options, message
):
    files = [
        organisms.prompts("refusal/planted", "locate", group) for group in ("harmful", "harmless")
    ]
    code, _, err = run(
        "locate-neurons",
        "organism:refusal/planted",
        "--positive",
        files[0],
        "--negative",
        files[1],
        "--store",
        tmp_path / "runs",
        *options,
    )
    assert code == 2
    assert message in only_line(err)
    assert not (tmp_path / "runs").exists()
