"""Two results that can differ have two keys: every field of every analyzer counts, by the content
of what it holds.
"""

import copy
import dataclasses
import importlib
import pkgutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Union, get_args, get_origin, get_type_hints

import numpy as np
import pytest
import torch

import interp.analyzers
from interp.analyzers.coalitions import Coalitions
from interp.analyzers.framework import Analyzer, fingerprint
from interp.analyzers.locate_neurons import LocateNeurons
from interp.errors import OptionError
from interp.models.pair import Pair
from interp.prompts import Contrast, OneClass, Prompt, PromptSet, TaskFile
from interp.prompts.task_file import TaskRow, TaskText
from interp.provenance import Provenance, digest
from interp.sae import Dictionary, DictionaryConfig
from interp.sae.analysis.classes import Thresholds
from interp.sae.core import dictionary as dictionaries
from interp.study import Study
from interp.table import Table, table
from tests import tiny


def dictionary(moved=0.0):
    made = Dictionary(DictionaryConfig("topk", 8, 12, k=2), seed=1)
    with torch.no_grad():
        made.W_dec[3, 5] += moved
    return made


def prompts(last="c"):
    return PromptSet(
        tuple(Prompt(at, text, f"k{at}") for at, text in enumerate(("a", "b", last))), "file"
    )


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


def contrast(last="c"):
    return Contrast(prompts(last), PromptSet((Prompt(0, "no", "n0"),), "file"))


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
    "contrast": (contrast, lambda: contrast("d")),
    "contrast and one class": (contrast, lambda: OneClass(prompts())),
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
    "tensor of bfloat16": (
        lambda: torch.zeros(3, dtype=torch.bfloat16),
        lambda: torch.ones(3, dtype=torch.bfloat16),
    ),
    "tensor, its type": (
        lambda: torch.zeros(3, dtype=torch.bfloat16),
        lambda: torch.zeros(3, dtype=torch.float16),
    ),
    "array of texts, its shape": (
        lambda: np.array([["a", "b"]], dtype=object),
        lambda: np.array([["a"], ["b"]], dtype=object),
    ),
    "mask": (
        lambda: {"a.weight": np.zeros(3, bool)},
        lambda: {"a.weight": np.array([False, True, False])},
    ),
    "record": (lambda: Record(KEPT["pair"], prompts()), lambda: Record(KEPT["pair"], prompts("d"))),
    "thresholds": (Thresholds, lambda: Thresholds(folds=2)),
    "in a list": (lambda: [run(), 1], lambda: [run(2.0), 1]),
    "number and its text": (lambda: 1, lambda: "1"),
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


def test_a_pair_loaded_anew_is_the_same_and_in_another_type_or_kernel_is_not(tmp_path):
    path = str(tiny.save(tiny.llama(), tmp_path / "m"))
    loads = [{}, {"dtype": "bfloat16"}, {"attention": "eager"}]
    made = [digest(fingerprint(Pair.load(path, path, **more))) for more in loads]
    assert len(set(made)) == len(made)
    assert digest(fingerprint(Pair.load(path, path))) == made[0]
    assert digest(fingerprint(pair())) == digest(fingerprint(KEPT["pair"]))


def test_numbers_of_numpy_are_those_of_python():
    assert fingerprint([np.int64(3), np.float32(0.5), np.bool_(True)]) == [3, 0.5, True]


def test_the_digest_of_a_dictionary_is_computed_once_and_again_where_a_number_moved(monkeypatch):
    made, hashed = dictionary(), []
    whole = dictionaries.raw_bytes
    monkeypatch.setattr(
        dictionaries, "raw_bytes", lambda value: hashed.append(value) or whole(value)
    )

    def digest_of(value):
        hashed.clear()
        return value.digest, len(hashed) > 0

    first, computed = digest_of(made)
    assert computed
    assert digest_of(made) == (first, False)
    seen = {first}
    for move in (
        lambda: made.W_dec.detach()[0, 0].add_(1e-6),
        lambda: made.W_enc.data[2, 3].add_(1e-6),
        lambda: made.scale.mul_(2),
        lambda: made.bfloat16(),
        lambda: made.float(),
        lambda: setattr(made, "config", dataclasses.replace(made.config, k=3)),
    ):
        move()
        moved, computed = digest_of(made)
        assert computed
        assert moved not in seen
        seen.add(moved)
        assert digest_of(copy.deepcopy(made))[0] == moved


@pytest.mark.parametrize(
    "value", [object(), {1, 2}, lambda: 0, [object()], Record, {1: "a"}, b"a", 1j, torch.nn.ReLU()]
)
def test_what_has_no_fingerprint_is_refused_by_its_name(value):
    with pytest.raises(OptionError, match=r"held_out.* (has no fingerprint|keys must be text)"):
        fingerprint(value, "held_out")


def task_file(answer="a"):
    row = TaskRow(0, TaskText("one", {}), answer, "k0")
    return TaskFile((row,), prompts())


def analyzers():
    """Every analyzer there is, found by walking the package: a dataclass with a name, a version and
    a method ``run``.
    """
    for module in pkgutil.walk_packages(interp.analyzers.__path__, "interp.analyzers."):
        for kind in vars(importlib.import_module(module.name)).values():
            own = (
                isinstance(kind, type)
                and dataclasses.is_dataclass(kind)
                and kind.__module__ == module.name
            )
            if own and {"name", "version", "run"} <= vars(kind).keys():
                yield kind


ALL = sorted({*analyzers()}, key=lambda kind: kind.__module__)

# Of every type that a field may have: values that differ in one place, made anew at each call.
VALUES = {
    bool: lambda: [False, True],
    int: lambda: [3, 4],
    float: lambda: [0.25, 0.5],
    str: lambda: ["a", "b"],
    Dictionary: lambda: [dictionary(), dictionary(1e-6), KINDS["configuration"][1]()],
    PromptSet: lambda: [prompts(), prompts("d")],
    Contrast: lambda: [contrast(), contrast("d")],
    TaskFile: lambda: [task_file(), task_file("d")],
    Pair: lambda: [KEPT["pair"], KEPT["other_pair"]],
    Study: lambda: [study(), study(1)],
    Table: lambda: [run(), run(1.0 + 1e-12), run(part=2.5), run(key=1), run(key=2)],
    Analyzer: lambda: [LocateNeurons(), LocateNeurons(steps=7), Coalitions()],
    Path: lambda: [Path(__file__), Path(__file__).with_name("test_store.py")],
    np.ndarray: lambda: [np.zeros(3), np.array([0.0, 0.0, 1e-30])],
    torch.Tensor: lambda: [torch.zeros(3), torch.tensor([0.0, 0.0, 1e-30])],
}


def values(hint: Any) -> list[Any]:
    """Values of the type of a field, no two of them alike; of a composed type for every type in it.

    Raises TypeError for a type that is not known here: add it to ``VALUES``.
    """
    origin, inner = get_origin(hint), get_args(hint)
    if hint in VALUES:
        return VALUES[hint]()
    if hint is NoneType:
        return [None]
    if origin in (Union, UnionType):
        return [value for one in inner for value in values(one)]
    if origin in (tuple, list, Sequence) and (origin is not tuple or inner[-1] is ...):
        one, other, *more = values(inner[0])
        return [(), (one,), (other,), (one, other), (other, one), *((each,) for each in more)]
    if origin is tuple:
        return one_moved(tuple, [values(one) for one in inner])
    if origin in (dict, Mapping):
        one, other, *_ = values(inner[1])
        return [{}, {"a": one}, {"a": other}, {"b": one}]
    if dataclasses.is_dataclass(hint):
        return one_moved(
            lambda parts: built(hint, parts), [values(own) for own in hints(hint).values()]
        )
    raise TypeError(f"no values of {hint} are known to this test")


def hints(kind):
    known = get_type_hints(kind)
    return {field.name: known[field.name] for field in dataclasses.fields(kind)}


def one_moved(make, choices):
    """What is made of the first choice of every part, and of each other choice of one part."""
    first = [choice[0] for choice in choices]
    others = [(at, value) for at, choice in enumerate(choices) for value in choice[1:]]
    return [make(first), *(make([*first[:at], value, *first[at + 1 :]]) for at, value in others)]


def built(kind, parts):
    """An instance past the constructor, which may hold values to more than their type."""
    made = object.__new__(kind)
    for name, value in zip(hints(kind), parts, strict=True):
        object.__setattr__(made, name, value)
    return made


def key_of(made):
    return Provenance(made.name, made.version, made.options, getattr(made, "parent", None)).key


@pytest.mark.parametrize("kind", ALL, ids=lambda kind: kind.__name__)
def test_every_field_of_every_analyzer_is_in_the_key(kind):
    """Whatever a field may hold; ``parent`` is None, so that fields that are read from the parent
    run count too.
    """
    known = {name: hint for name, hint in hints(kind).items() if name != "parent"}
    first = {name: values(hint)[0] for name, hint in known.items()}
    for name, hint in known.items():
        one, again = (
            [key_of(built_with(kind, first | {name: value})) for value in values(hint)]
            for _ in range(2)
        )
        assert one == again, f"{kind.__name__}.{name}: equal values have two keys"
        assert len(set(one)) == len(one) > 1, f"{kind.__name__}.{name} does not count"
        assert key_of(built_with(kind, first)) == one[0]


def built_with(kind, given):
    return built(kind, [given.get(name) for name in hints(kind)])


@pytest.mark.parametrize(
    "kind", [kind for kind in ALL if issubclass(kind, Analyzer)], ids=lambda kind: kind.__name__
)
def test_every_field_counts_with_a_parent_too(kind):
    """What is read from the parent's table can be given by hand beside any parent."""
    known = {name: hint for name, hint in hints(kind).items() if name != "parent"}
    given = {name: values(hint)[0] for name, hint in known.items()} | {"parent": "1" * 20}
    assert key_of(built_with(kind, given)) != key_of(built_with(kind, given | {"parent": "2" * 20}))
    for field in dataclasses.fields(kind):
        if field.name != "parent":
            made = {
                key_of(built_with(kind, given | {field.name: value}))
                for value in values(known[field.name])
            }
            assert len(made) == len(values(known[field.name])), field.name


def test_no_analyzer_writes_its_own_options():
    """What it would leave out, or tell by less than its content, would not be in the key."""
    assert not [
        kind.__name__ for kind in ALL if issubclass(kind, Analyzer) and "options" in vars(kind)
    ]


def test_there_are_as_many_analyzers_as_there_are_modules():
    modules = {name for _, name, _ in pkgutil.iter_modules(interp.analyzers.__path__)} - {
        "framework"
    }
    assert modules == {kind.__module__.split(".")[2] for kind in ALL}
