"""Memory that runs out: smaller batches, the same table, and one line where nothing is small
enough.
"""

from dataclasses import dataclass, field, replace

import numpy as np
import psutil
import pytest
import torch

from interp import organisms
from interp.analyzers.locate_neurons import METHODS, LocateNeurons
from interp.analyzers.verify_neurons import VerifyNeurons
from interp.cli import main
from interp.engines import TorchEngine
from interp.errors import OptionError, OutOfMemory
from interp.maths.memory import MAX_BYTES, MIN_BYTES, Memory, activation_budget, is_out_of_memory
from interp.models.pair import Pair
from tests import tiny

ERRORS = {
    "cuda": torch.OutOfMemoryError(
        "CUDA out of memory. Tried to allocate 2.00 GiB.\nGPU 0 has ..."
    ),
    "cpu": RuntimeError(
        "[enforce fail at alloc_cpu.cpp:124] err == 0. DefaultCPUAllocator: can't allocate"
        " memory: you"
    ),
    "windows": RuntimeError(
        "DefaultCPUAllocator: not enough memory: you tried to allocate 4096 bytes."
    ),
    "mps": RuntimeError(
        "MPS backend out of memory (MPS allocated: 8.00 GB, other allocations: 1.00 GB)"
    ),
    "host": MemoryError(),
}


@dataclass(frozen=True)
class Cramped:
    """The torch engine in a memory that holds so many prompts; ``seen``: the prompts of every pass
    that fitted.
    """

    prompts: int
    error: Exception = ERRORS["cuda"]
    seen: list = field(default_factory=list)
    name: str = "torch"

    def run(self, model, batch, **options):
        if len(batch.ids) > self.prompts:
            raise self.error
        self.seen.append(len(batch.ids))
        return TorchEngine().run(model, batch, **options)


def same(one, other):
    assert list(one.data) == list(other.data)
    for name, values in one.data.items():
        if values.dtype.kind == "f":
            np.testing.assert_allclose(other[name], values, rtol=1e-4, atol=1e-6)
        else:
            assert (other[name] == values).all()
    assert list(one.tables) == list(other.tables)
    for name, part in one.tables.items():
        same(part, other.tables[name])


@pytest.fixture(scope="module")
def planted():
    study = tiny.planted_study("llama", pairs=4)
    # contrast divides by a spread that can be next to nothing, and the probe's folds are few: not
    # in float32
    for model in (study.pair.tuned, study.pair.base):
        model.module.double()
    return study


def cramped(study, prompts, **options):
    return tiny.Study(
        study.pair,
        study.contrast,
        study.metric,
        max_new_tokens=1,
        engine=Cramped(prompts, **options),
    )


QUICK = ("contrast", "probe")


@pytest.mark.parametrize(
    "method",
    [name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in METHODS],
)
def test_every_method_gives_the_same_table_in_a_small_memory(planted, method):
    study, locate = cramped(planted, 3), LocateNeurons(method=method, top="3")
    same(locate(planted), locate(study))
    assert 1 < max(study.engine.seen) <= 3 or method == "weight"


@pytest.mark.slow
def test_verifying_gives_the_same_table_in_a_small_memory(planted):
    verify = VerifyNeurons(LocateNeurons(top="3")(planted), random_sets=3, dose_draws=1)
    study = cramped(planted, 3)
    same(verify(planted), verify(study))
    assert max(study.engine.seen) in (2, 3)


@pytest.mark.parametrize("name", ERRORS)
def test_every_way_to_say_that_memory_is_out_is_known(name):
    assert is_out_of_memory(ERRORS[name])


def test_one_prompt_that_does_not_fit_is_one_line(planted, capsys):
    study = cramped(planted, 0, error=ERRORS["host"])
    with pytest.raises(
        OutOfMemory, match=r"cpu has no memory for one prompt at a time \(MemoryError\)"
    ) as caught:
        VerifyNeurons(ranking=((1, 5),), selected=1)(study)
    assert len(str(caught.value).splitlines()) == 1
    assert capsys.readouterr().err == ""


def test_another_error_is_not_tried_again(planted):
    study = cramped(planted, 3, error=RuntimeError("mat1 and mat2 shapes cannot be multiplied"))
    with pytest.raises(RuntimeError, match="mat1"):
        VerifyNeurons(ranking=((1, 5),), selected=1)(study)


def test_what_comes_next_keeps_the_small_batches_and_a_person_is_told(planted, capsys):
    engine = Cramped(1)
    study = tiny.Study(
        planted.pair, planted.contrast, planted.metric, max_new_tokens=1, engine=engine, quiet=False
    )
    LocateNeurons(method="contrast", top="3")(study)
    told = capsys.readouterr().err.splitlines()
    assert len(told) == 2
    assert all(line.startswith("note: memory ran out (CUDA out of memory.") for line in told)
    LocateNeurons(method="contrast", top="3")(study.with_prompts(study.contrast))
    assert capsys.readouterr().err == ""
    assert set(engine.seen) == {1}


@pytest.mark.parametrize(
    "halvings", [0, 3, *(pytest.param(n, marks=pytest.mark.slow) for n in (1, 2))]
)
def test_cut_batches_hold_every_prompt_once(planted, halvings):
    study = tiny.study(planted.pair.tuned.module, None, 13, batch_size=8)
    for _ in range(halvings):
        study.groups("positive", study.pair.tuned)
        study.back_off("full")
    groups = study.groups("positive", study.pair.tuned)
    assert sorted(row for rows in groups for row in rows) == list(range(13))
    assert max(map(len, groups)) == 8 >> halvings
    if halvings == 3:
        with pytest.raises(OutOfMemory):
            study.back_off("full")


@pytest.mark.parametrize(
    "error", [torch.OutOfMemoryError("CUDA out of memory"), MemoryError("no memory")]
)
def test_a_model_that_memory_does_not_hold_is_one_clear_line(tmp_path, monkeypatch, error):
    tiny.save(tiny.llama(), tmp_path / "model")

    def fail(*args, **options):
        raise error

    monkeypatch.setattr("transformers.AutoModelForCausalLM.from_pretrained", fail)
    with pytest.raises(
        OutOfMemory, match=r"cpu has not enough memory for .*model.*use --dtype bfloat16"
    ):
        Pair.load(str(tmp_path / "model"), device="cpu")


# ---------------------------------------------------------------------------------------------- a budget


@pytest.mark.parametrize(
    ("text", "total"),
    [
        ("4G", 4 << 30),
        ("800M", 800 << 20),
        ("1.5GiB", 3 << 29),
        (" 2gb ", 2 << 30),
        ("1T", 1 << 40),
    ],
)
def test_an_amount_of_memory_is_read(text, total):
    assert Memory.parse(text).total == total


@pytest.mark.parametrize("text", ["4", "G", "0G", "-1G", "4GG", "four", ""])
def test_what_is_no_amount_of_memory_is_refused(text):
    with pytest.raises(OptionError, match="use 4G or 800M"):
        Memory.parse(text)


def test_a_batch_gets_half_of_what_all_else_leaves():
    taken, device = psutil.Process().memory_info().rss, torch.device("cpu")
    assert activation_budget(Memory(taken + (4 << 30)), device) == pytest.approx(2 << 30, rel=0.05)
    # of nothing left a batch still gets what one prompt needs
    assert activation_budget(Memory(1), device) == MIN_BYTES
    assert MIN_BYTES <= activation_budget(None, device) <= MAX_BYTES


def test_less_memory_makes_smaller_batches_and_the_same_numbers():
    study = tiny.planted_study("llama", pairs=16)
    small = replace(study, batch_size=Memory(1), _cache={})
    per_token = MIN_BYTES // 64
    sizes = [
        max(map(len, each.groups("positive", each.pair.tuned, per_token)))
        for each in (study, small)
    ]
    assert sizes[0] > sizes[1]
    scores = [LocateNeurons(top="3")(each)["score"] for each in (study, small)]
    np.testing.assert_allclose(scores[0], scores[1], rtol=1e-4, atol=1e-6)


def test_memory_and_batch_size_are_one_question(capsys):
    file = str(organisms.prompts("refusal/planted", "verify", "harmful"))
    given = [
        "compare",
        "organism:refusal/planted",
        "--base",
        "organism:refusal/base",
        "--prompts",
        file,
    ]
    assert main([*given, "--memory", "4G", "--batch-size", "2"]) == 2
    assert "--memory and --batch-size both say how large batches are" in capsys.readouterr().err
