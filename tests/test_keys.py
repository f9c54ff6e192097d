"""Two results that can differ have two keys: every field of every analyzer counts, by the content of what it holds."""

import copy
import dataclasses
import importlib
import pkgutil
from pathlib import Path

import numpy as np
import pytest
import torch

import interp.analyzers
from interp.analyzers.base import Analyzer, fingerprint
from interp.analyzers.locate_neurons import LocateNeurons
from interp.dictionaries import Dictionary, DictionaryConfig
from interp.dictionaries.classes import Thresholds
from interp.errors import OptionError
from interp.models.pair import Pair
from interp.prompts import Prompt, PromptSet
from interp.provenance import Provenance, digest
from interp.study import Study
from interp.table import table
from tests import tiny


def dictionary(moved=0.0):
    made = Dictionary(DictionaryConfig("topk", 8, 12, k=2), seed=1)
    with torch.no_grad():
        made.W_dec[3, 5] += moved
    return made


def prompts(last="c"):
    return PromptSet(tuple(Prompt(at, text, f"k{at}") for at, text in enumerate(("a", "b", last))), "file")


def pair(moved=0.0):
    torch.manual_seed(0)
    base, tuned = tiny.llama(), tiny.llama()
    with torch.no_grad():
        next(tuned.parameters())[0, 0] += moved
    return Pair.from_modules(tuned, base, tiny.tokenizer())


def run(cell=1.0, key=None, part=2.0):
    made = None if key is None else Provenance("x", 1, {"key": key})
    parts = {"more": table("more", {"v": ([part], "measure", "v")})}
    return table("x", {"v": ([0.0, cell], "measure", "v")}, provenance=made, tables=parts)


def study(seed=0):
    return Study(KEPT["pair"], tiny.contrast(4), tiny.metric(), seed=seed)


KEPT = {}


@pytest.fixture(scope="module", autouse=True)
def kept():
    KEPT.update(pair=pair(), other_pair=pair(0.5))
    yield
    KEPT.clear()


@dataclasses.dataclass(frozen=True)
class Record:
    pair: Pair
    located: PromptSet


# Two of a kind that differ in one place, made anew each time.
KINDS = {
    "dictionary": (dictionary, lambda: dictionary(1e-6)),
    "configuration": (dictionary, lambda: Dictionary(DictionaryConfig("topk", 8, 12, k=3), seed=1)),
    "prompts": (prompts, lambda: prompts("d")),
    "pair": (lambda: KEPT["pair"], lambda: KEPT["other_pair"]),
    "table, a cell": (run, lambda: run(1.0 + 1e-12)),
    "table, a cell of a part": (run, lambda: run(part=2.5)),
    "table, its key": (lambda: run(key=1), lambda: run(key=2)),
    "study": (study, lambda: study(1)),
    "analyzer": (LocateNeurons, lambda: LocateNeurons(steps=7)),
    "array": (lambda: np.arange(4.0), lambda: np.array([0.0, 1.0, 2.0, 3.0 + 1e-15])),
    "array, its shape": (lambda: np.zeros((2, 3)), lambda: np.zeros((3, 2))),
    "array, its type": (lambda: np.zeros(2, np.float32), lambda: np.zeros(1, np.float64)),
    "tensor": (lambda: torch.zeros(3), lambda: torch.tensor([0.0, 0.0, 1e-30])),
    "tensor of bfloat16": (lambda: torch.zeros(3, dtype=torch.bfloat16), lambda: torch.ones(3, dtype=torch.bfloat16)),
    "mask": (lambda: {"a.weight": np.zeros(3, bool)}, lambda: {"a.weight": np.array([False, True, False])}),
    "record": (lambda: Record(KEPT["pair"], prompts()), lambda: Record(KEPT["pair"], prompts("d"))),
    "thresholds": (Thresholds, lambda: Thresholds(folds=2)),
    "in a list": (lambda: [run(), 1], lambda: [run(2.0), 1]),
}


@pytest.mark.parametrize("kind", KINDS)
def test_objects_are_told_by_their_content(kind):
    one, other = KINDS[kind]
    assert digest(fingerprint(one())) == digest(fingerprint(one()))
    assert digest(fingerprint(one())) != digest(fingerprint(other()))


def test_a_file_is_told_by_its_bytes(tmp_path):
    for name, text in (("a", "x"), ("b", "y"), ("c", "x")):
        (tmp_path / name).write_text(text)
    a, b, c = (fingerprint(Path(tmp_path / name)) for name in "abc")
    assert a == c != b


@pytest.mark.parametrize("value", [object(), {1, 2}, lambda: 0, [object()], Record])
def test_what_has_no_fingerprint_is_refused_by_its_name(value):
    with pytest.raises(OptionError, match=r"held_out.* has no fingerprint"):
        fingerprint(value, "held_out")


def analyzers():
    """Every analyzer there is, found by walking the package."""
    for module in pkgutil.walk_packages(interp.analyzers.__path__, "interp.analyzers."):
        for kind in vars(importlib.import_module(module.name)).values():
            own = isinstance(kind, type) and issubclass(kind, Analyzer) and kind.__module__ == module.name
            if own and "name" in vars(kind):
                yield kind


ALL = sorted({*analyzers()}, key=lambda kind: kind.__module__)
REQUIRED = {"Dictionary": dictionary, "Analyzer": LocateNeurons, "PromptSet": prompts, "Pair": lambda: KEPT["pair"]}


def made(kind):
    """An instance with its defaults; what has none by the kind that its annotation names."""
    given = {}
    for field in dataclasses.fields(kind):
        if field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING:
            given[field.name] = REQUIRED[getattr(field.type, "__name__", str(field.type))]()
    return kind(**given)


def another(value):
    """Another value of the same kind."""
    if isinstance(value, bool):
        return not value
    if isinstance(value, (int, float)):
        return value + 1
    if isinstance(value, str):
        return value + "x"
    if isinstance(value, tuple):
        return (*value, 7)
    if isinstance(value, Dictionary):
        return dictionary(1e-6)
    if isinstance(value, PromptSet):
        return prompts("d")
    if dataclasses.is_dataclass(value):
        first = dataclasses.fields(value)[0].name
        return dataclasses.replace(value, **{first: another(getattr(value, first))})
    if value is None:
        return run(key=3)
    raise TypeError(f"no other {type(value).__name__}")


@pytest.mark.parametrize("kind", ALL, ids=lambda kind: kind.__name__)
def test_every_field_of_every_analyzer_is_in_the_key(kind):
    one = made(kind)
    own = digest(one.options)
    assert own == digest(made(kind).options)
    for field in dataclasses.fields(kind):
        if field.name == "parent":
            continue
        other = copy.copy(one)
        # past the constructor, which may hold values to more than their kind
        object.__setattr__(other, field.name, another(getattr(one, field.name)))
        assert digest(other.options) != own, f"{kind.__name__}.{field.name} does not count"


def test_there_are_as_many_analyzers_as_there_are_modules():
    modules = {name for _, name, _ in pkgutil.iter_modules(interp.analyzers.__path__)} - {"base"}
    assert modules == {kind.__module__.split(".")[2] for kind in ALL}
