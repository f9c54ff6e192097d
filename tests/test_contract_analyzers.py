"""What every analyzer and every method promises: columns, finite numbers, determinism, silence, invariance, a key."""

import copy
import dataclasses
import json

import numpy as np
import pytest
import torch

from interp.analyzers.locate_neurons import METHODS, LocateNeurons
from interp.analyzers.verify_neurons import VerifyNeurons
from interp.metrics import Refusal
from interp.models.pair import Pair
from interp.prompts import Contrast, PromptSet
from interp.study import Study
from interp.table import ALLOWED, dtype_name
from tests import tiny

SMALL = {"controls": 3, "dose_draws": 1, "depth": 3, "control_prompts": 3}


def locate(method, unit):
    return LocateNeurons(method=method, top="4", steps=3, unit=unit)


def verify(_, unit):
    ranking = ((1, 30), (1, 17), (1, 5), (0, 1), (2, 2)) if unit == "neuron" else ((1, 3), (0, 1), (2, 2), (0, 0))
    return VerifyNeurons(ranking=ranking, selected=3, unit=unit, **SMALL)


# Every analyzer, with every method and unit it has; a new one is added here and nowhere else.
ANALYZERS = {
    **{f"locate-neurons {name}": (locate, name, "neuron") for name in METHODS},
    **{f"locate-neurons {name} head": (locate, name, "head") for name in METHODS if "head" in METHODS[name].units},
    "verify-neurons": (verify, "", "neuron"),
    "verify-neurons head": (verify, "", "head"),
}
# Heads go the ways of neurons: one method stands for all of them but in the slow tests.
ALWAYS = {"locate-neurons integrated head", "verify-neurons head"}


def marked(names):
    return [
        name if name in ALWAYS or not name.endswith("head") else pytest.param(name, marks=pytest.mark.slow)
        for name in names
    ]


EACH = pytest.mark.parametrize("name", marked(ANALYZERS))
LOCATING = [name for name in ANALYZERS if name.startswith("locate")]
BASED = [name for name in ANALYZERS if name.startswith("verify") or METHODS[ANALYZERS[name][1]].needs_base]
COUNTS = {"neuron": 48, "head": 4}


def analyzer(name):
    make, *arguments = ANALYZERS[name]
    return make(*arguments)


@pytest.fixture(scope="module", params=["llama", pytest.param("gpt2", marks=pytest.mark.slow)])
def family(request):
    return request.param


@pytest.fixture(scope="module")
def modules(family):
    """Planted, plus noise everywhere, so that every neuron's score is something; in float64 throughout."""
    base, tuned = tiny.planted(tiny.FAMILIES[family](seed=7, tie_word_embeddings=False), pairs=6)
    made = tiny.exact(base), tiny.exact(tiny.perturbed(tuned, 0.002))
    before = [copy.deepcopy(module.state_dict()) for module in made]
    yield made
    # no analyzer writes to a weight
    for module, kept in zip(made, before, strict=True):
        assert all(torch.equal(value, kept[name]) for name, value in module.state_dict().items())


def fresh(modules, **options):
    base, tuned = modules
    return tiny.study(tuned, base, 6, template=False, **{"max_new_tokens": 2, **options})


@pytest.fixture(scope="module")
def tables(modules):
    """One table of each, kept, from one study."""
    study, kept = fresh(modules), {}

    def table(name):
        if name not in kept:
            kept[name] = analyzer(name)(study)
        return kept[name]

    return table


@EACH
def test_columns_have_roles_meanings_and_types(tables, name):
    table = tables(name)
    assert table.kind == name.split()[0] == table.provenance.analyzer
    for part in (table, *table.tables.values()):
        assert part.columns
        for column in part.columns:
            assert column.meaning.strip(), column
            assert dtype_name(part[column.name]) in ALLOWED[column.role]
    for part in table.tables.values():
        assert part.provenance is None


@EACH
def test_the_summary_is_json_and_says_it_in_a_sentence(tables, name):
    summary = tables(name).summary
    json.dumps(summary, allow_nan=False)
    assert summary["sentence"].endswith(".")
    assert "\n" not in summary["sentence"]
    assert summary["positive"] == summary["negative"] == 6


@pytest.mark.parametrize("name", marked(LOCATING))
def test_one_row_per_neuron_and_finite_scores(tables, name):
    table, unit = tables(name), ANALYZERS[name][2]
    assert [column.name for column in table.columns[:5]] == ["layer", unit, "score", "rank", "selected"]
    assert [column.role for column in table.columns[:5]] == ["key", "key", "measure", "measure", "flag"]
    assert set(zip(table["layer"].tolist(), table[unit].tolist(), strict=True)) == {
        (layer, index) for layer in range(3) for index in range(COUNTS[unit])
    }
    for column in table.columns:
        if column.role == "measure":
            assert np.isfinite(table[column.name]).all(), column.name
    assert sorted(table["rank"].tolist()) == list(range(1, 3 * COUNTS[unit] + 1))
    assert (np.diff(table["score"][np.argsort(table["rank"])]) <= 0).all()
    assert table["selected"].sum() == table.summary["n_selected"] <= 4
    assert (table["score"][table["selected"]] > 0).all()
    tokens = table.tables["tokens"]
    assert len(tokens) == 0 or set(tokens["rank"]) == set(range(1, table.summary["n_selected"] + 1))


def same(one, two, tolerance):
    """Equal tables, numbers within a tolerance of the column's size, everything else exactly."""
    assert [column.name for column in one.columns] == [column.name for column in two.columns]
    for column in one.columns:
        a, b = one[column.name], two[column.name]
        if a.dtype.kind == "f":
            size = np.abs(a[np.isfinite(a)]).max(initial=0.0)
            np.testing.assert_allclose(a, b, rtol=tolerance, atol=max(tolerance * size, 1e-14), err_msg=column.name)
        else:
            assert a.tolist() == b.tolist(), column.name


def whole(one, two, tolerance, parts=None):
    same(one, two, tolerance)
    assert one.tables.keys() == two.tables.keys()
    for name in one.tables:
        if parts is None or name in parts:
            same(one.tables[name], two.tables[name], tolerance)


@EACH
def test_twice_is_the_same_bit_for_bit(tables, modules, name):
    again = analyzer(name)(fresh(tuple(copy.deepcopy(module) for module in modules)))
    assert again.equals(tables(name))
    assert again.provenance.key == tables(name).provenance.key
    assert again.summary == tables(name).summary


class Padded(Study):
    """A study whose padding is another token."""

    pad_id = 77


@EACH
def test_neither_batch_size_nor_padding_count(tables, modules, name):
    """The last bits depend on the shapes of batches; nothing else does."""
    study = fresh(modules, batch_size=2)
    fields = {field.name: getattr(study, field.name) for field in dataclasses.fields(study) if field.name != "_kept"}
    other = analyzer(name)(Padded(**fields))
    # contrast divides by a spread that can be next to nothing
    whole(tables(name), other, 1e-5 if "contrast" in name else 1e-8)
    assert study.provenance(analyzer(name)).key == tables(name).provenance.key


@pytest.mark.parametrize("name", marked(LOCATING))
def test_the_order_of_prompts_does_not_count(tables, modules, name):
    """Means over prompts: their order changes rounding only (ids and places follow the prompts)."""
    study = fresh(modules)
    turned = [PromptSet(part.prompts[::-1], part.source) for part in (study.contrast.positive, study.contrast.negative)]
    other = analyzer(name)(study.on(Contrast(*turned)))
    same(tables(name), other, 1e-5 if "contrast" in name else 1e-8)
    assert other.provenance.key != tables(name).provenance.key


@pytest.mark.parametrize("name", marked([name for name in LOCATING if "contrast" not in name]))
def test_float32_tells_the_same(tables, modules, name):
    """But for standardised differences, which can be of next to nothing."""
    base, tuned = (copy.deepcopy(module) for module in modules)
    for module in (base, tuned):
        module.float()
    other = analyzer(name)(fresh((base, tuned)))
    exact = tables(name)["score"]
    np.testing.assert_allclose(other["score"], exact, rtol=2e-2, atol=1e-4 * np.abs(exact).max())


@pytest.mark.parametrize("name", marked(BASED))
def test_an_identical_pair_is_silent(modules, name):
    base, _ = modules
    table = analyzer(name)(fresh((base, copy.deepcopy(base))))
    if name.startswith("locate"):
        assert not table["score"].any()
        assert not table["selected"].any()
        return
    assert table.summary["shown"] is False
    # zero, mean and the twin are other values than a head's own, in an identical pair too
    alike = np.isin(table["condition"], ["base", "tuned", "ablate-base", "patch-tuned"])
    assert (table["equal_base"][alike] == 1.0).all()
    assert (table["equal_tuned"][alike] == 1.0).all()
    for group in ("positive", "negative"):
        rows = table["group"] == group
        assert len(set(table["log_odds"][rows & np.isin(table["condition"], ["base", "tuned"])])) == 1


# ---------------------------------------------------------------------------------------------- the key


def key(study, made):
    return study.provenance(made).key


def test_the_key_follows_every_option(modules):
    study = fresh(modules)
    # the value of every option that is not the default's
    others = {
        LocateNeurons(): {
            "method": "weight", "top": "7", "positions": "last", "steps": 21, "unit": "head", "parent": "1" * 20,
        },
        VerifyNeurons(parent="0" * 20): {
            "controls": 19, "dose_draws": 3, "control_prompts": 7, "depth": 9, "reach": 0.9, "parent": "1" * 20,
        },
    }  # fmt: skip
    for made, changes in others.items():
        named = {field.name for field in dataclasses.fields(made) if not field.metadata.get("from_parent")}
        assert named == set(changes), "an option without a test of its key"
        keys = [key(study, made)] + [
            key(study, dataclasses.replace(made, **{name: value})) for name, value in changes.items()
        ]
        assert len(set(keys)) == len(keys)


def test_the_key_follows_what_is_studied(modules):
    base, tuned = modules
    study = fresh(modules)
    chat, plain = tiny.tokenizer(), tiny.tokenizer(False)
    stopped = copy.deepcopy(tuned)
    stopped.generation_config.eos_token_id = [1, 9]
    others = [
        study,
        fresh(modules, seed=1),
        fresh(modules, max_new_tokens=3),
        study.on(study.contrast.limit(5)),
        study.on(Contrast(study.contrast.negative, study.contrast.positive)),
        Study(study.pair, study.contrast, Refusal.of(plain, ["Sorry", "cannot"]), max_new_tokens=2),
        Study(Pair.from_modules(tuned, None, plain), study.contrast, study.metric, max_new_tokens=2),
        Study(Pair.from_modules(base, tuned, plain), study.contrast, study.metric, max_new_tokens=2),
        Study(Pair.from_modules(tuned, base, chat), study.contrast, study.metric, max_new_tokens=2),
        Study(Pair.from_modules(stopped, base, plain), study.contrast, study.metric, max_new_tokens=2),
        fresh(tuple(copy.deepcopy(module).float() for module in modules)),
    ]
    keys = [key(other, LocateNeurons()) for other in others]
    assert len(set(keys)) == len(keys)


def test_the_key_does_not_follow_what_makes_no_difference(modules):
    study = fresh(modules)
    named = Study(
        Pair.from_modules(modules[1], modules[0], tiny.tokenizer(False), "another name"), study.contrast, study.metric,
        batch_size=2, max_new_tokens=2, quiet=False,
    )  # fmt: skip
    renamed = study.on(
        Contrast(
            *(PromptSet(part.prompts, "elsewhere.txt") for part in (study.contrast.positive, study.contrast.negative))
        )
    )
    for made in (LocateNeurons(), verify("", "neuron")):
        assert key(named, made) == key(renamed, made) == key(study, made)


def test_the_attention_kernel_is_part_of_the_key(tmp_path):
    path = str(tiny.save(tiny.llama(), tmp_path / "m"))
    studies = [
        Study(Pair.load(path, path, attention=kernel), tiny.contrast(4), tiny.metric()) for kernel in ("sdpa", "eager")
    ]
    one, two = (key(study, LocateNeurons()) for study in studies)
    assert one != two


def test_every_analyzer_is_in_this_contract():
    import pkgutil

    import interp.analyzers

    found = {name for _, name, _ in pkgutil.iter_modules(interp.analyzers.__path__)} - {"base"}
    assert found == {name.split()[0].replace("-", "_") for name in ANALYZERS}
