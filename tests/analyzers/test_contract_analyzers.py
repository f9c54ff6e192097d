"""What every analyzer and every method promises: columns, finite numbers, determinism, silence,
invariance, a key.
"""

import copy
import dataclasses
import importlib
import json
import pkgutil

import numpy as np
import pytest
import torch

import interp.analyzers
from examples.answer_length import AnswerLength
from interp import claims
from interp.analyzers.activation_difference import ActivationDifference
from interp.analyzers.audit import Audit
from interp.analyzers.baselines import Baselines
from interp.analyzers.behaviour_change import BehaviourChange
from interp.analyzers.coalitions import Coalitions
from interp.analyzers.compare import Compare
from interp.analyzers.concept_shift import ConceptShift
from interp.analyzers.contrastive_generation import ContrastiveGeneration
from interp.analyzers.control_locations import ControlLocations
from interp.analyzers.cross_patch import CrossPatch
from interp.analyzers.diff_mining import DiffMining
from interp.analyzers.direction_change import DirectionChange
from interp.analyzers.discover import Discover
from interp.analyzers.dissociation import Dissociation
from interp.analyzers.framework import Analyzer
from interp.analyzers.ftc_alpha import FtcAlpha
from interp.analyzers.graft import Graft
from interp.analyzers.locate_neurons import METHODS, LocateNeurons
from interp.analyzers.lofit import Lofit
from interp.analyzers.monitor import Monitor
from interp.analyzers.patch_heads import PatchHeads
from interp.analyzers.patch_weights import PatchWeights
from interp.analyzers.perplexity_differencing import PerplexityDifferencing
from interp.analyzers.redundancy import Redundancy
from interp.analyzers.refusal_direction import RefusalDirection
from interp.analyzers.sae_circuit import SaeCircuit
from interp.analyzers.sae_diff import SaeDiff
from interp.analyzers.stability import Stability
from interp.analyzers.stitch import Stitch, StitchInput
from interp.analyzers.text_loss import TextLoss
from interp.analyzers.training_rows import TrainingRows
from interp.analyzers.trait_screening import TraitScreening
from interp.analyzers.trait_shift import TraitShift
from interp.analyzers.transfer import Transfer
from interp.analyzers.trigger_scan import TriggerScan
from interp.analyzers.tuco import Tuco
from interp.analyzers.update_directions import UpdateDirections
from interp.analyzers.verify_neurons import VerifyNeurons
from interp.analyzers.wrapped_conjugate import WrappedConjugate
from interp.analyzers.wrapped_probes import WrappedProbes
from interp.analyzers.wrapped_pruning import WrappedPruning
from interp.analyzers.wrapped_reversal import WrappedReversal
from interp.metrics import Refusal
from interp.models.pair import Pair
from interp.prompts import Contrast, Prompt, PromptSet
from interp.prompts.registers import Register, Rule
from interp.provenance import Provenance
from interp.sae import Dictionary, DictionaryConfig
from interp.sae.analysis.classes import Thresholds
from interp.sae.analysis.diff import COMPARISONS
from interp.study import Study
from interp.table import ALLOWED, dtype_name, table
from tests import tiny
from tests.claim_makers import findings, require_honest_makers
from tests.documented import require_described

SMALL = {"random_sets": 3, "dose_draws": 1, "depth": 3, "control_prompts": 3}


def locate(study, method, unit):
    return LocateNeurons(method=method, top="4", steps=3, unit=unit)


def verify(study, _, unit):
    ranking = (
        ((1, 30), (1, 17), (1, 5), (0, 1), (2, 2))
        if unit == "neuron"
        else ((1, 3), (0, 1), (2, 2), (0, 0))
    )
    return VerifyNeurons(ranking=ranking, selected=3, unit=unit, **SMALL)


def located(method, unit="neuron"):
    return LocateNeurons(method=method, top="4", steps=3, unit=unit)


def elsewhere(unit, family="llama"):
    """A locating run of another pair of the same shape."""
    key = ("elsewhere", unit, family)
    if key not in KEPT:
        base, tuned = tiny.planted(
            tiny.FAMILIES[family](seed=7, tie_word_embeddings=False), pairs=6
        )
        study = tiny.study(tiny.exact(tuned), tiny.exact(base), 6, template=False, max_new_tokens=2)
        KEPT[key] = study.pair, located("change", unit)(study)
    return KEPT[key]


KEPT = {}


def other(study):
    """A study of the same pair on other prompts."""
    parts = (study.contrast.positive, study.contrast.negative)
    turned = [
        PromptSet(
            tuple(dataclasses.replace(p, text=f"please , {p.text}") for p in part), part.source
        )
        for part in parts
    ]
    return study.with_prompts(Contrast(*turned))


def stability(study, _, unit):
    return Stability(locate=located("change", unit), resamples=1, draws=20)


def redundancy(study, _, unit):
    return Redundancy(locate=located("change", unit), rounds=2, random_sets=1, control_prompts=2)


def coalitions(study, _, unit):
    return Coalitions(elsewhere(unit)[1], draws=4, prompts=2, permutations=19)


def transfer(study, _, unit):
    source, run = elsewhere(unit)
    return Transfer(run, source, recomputed=run, random_sets=2, control_prompts=2, permutations=19)


def dissociation(study, _, unit):
    run = elsewhere(unit)[1]
    return Dissociation(run, run, other(study), random_sets=1, control_prompts=2)


def refusal_direction(study, _, unit):
    return RefusalDirection(elsewhere(unit)[1], shares=(1.0,), prompts=2)


def baselines(study, _, unit):
    run = elsewhere(unit)[1]
    verified = VerifyNeurons(run, **SMALL)(study)
    contrast = located("contrast" if unit == "neuron" else "act-grad", unit)(study)
    return Baselines(verified, run, contrast=contrast, choosing=other(study), prompts=2)


def control_locations(study, _, unit):
    run = located("change", unit)(study)
    base = study.pair.require_base("a control")
    pairs = [Pair(base, base, study.pair.tokenizer, study.pair.digests) for _ in range(2)]
    others = [
        located("change", unit)(dataclasses.replace(study, pair=pair, _cache={})) for pair in pairs
    ]
    return ControlLocations(run, tuple(others))


def tuco(study, _, unit):
    return Tuco(path="full")


def ftc_alpha(study, _, unit):
    return FtcAlpha(alphas=(0.0, 1.0))


def compare(study, _, unit):
    return Compare(cka_tokens=32, floor_prompts=2)


def concept_shift(study, _, unit):
    return ConceptShift("blocks.1.hook_resid_post", concepts=2, draws=19)


def graft(study, _, unit):
    held_out = other(study).contrast.positive
    return Graft(
        held_out=held_out, density=0.05, sweep=(0.1,), steps=2, relaxed_steps=1, draws=2, shuffles=2
    )


def dictionary_diff(study, way, unit):
    config = DictionaryConfig("topk", 32, 40, models=1 + (way == "crosscoder"), k=8)
    dictionary = Dictionary(config, seed=3).double()
    return SaeDiff(dictionary, way, "blocks.1.hook_resid_post", Thresholds(folds=2))


def cross_patch(study, _, unit):
    return CrossPatch(max_new_tokens=4, rotations=2)


def lofit(study, _, unit):
    return Lofit(heads=2, epochs=1, batch=2, draws=2)


def patch_weights(study, _, unit):
    return PatchWeights(selection=other(study).contrast, exact=4, null_modules=1, draws=2)


def patch_heads(study, _, unit):
    return PatchHeads(selection=other(study).contrast, exact=4, draws=2)


def stitch(study, _, unit):
    turned = other(study)
    # fine-tuned models are stitched in one base, so the other is of the same family
    family = study.pair.tuned.module.config.model_type
    partner = StitchInput(
        elsewhere(unit, family)[0], study.contrast.negative, turned.contrast.negative
    )
    return Stitch(held_out=turned.contrast.positive, others=(partner,), density=0.05, draws=2)


def discover(study, _, unit):
    base = study.pair.require_base("a control")
    controls = [Pair(base, base, study.pair.tokenizer, study.pair.digests) for _ in range(2)]
    methods = (
        DiffMining(controls=controls),
        UpdateDirections(controls=controls, truncation_texts=2),
    )
    return Discover([method(study) for method in methods])


def audit(study, _, unit):
    base = study.pair.require_base("a control")
    controls = [Pair(base, base, study.pair.tokenizer, study.pair.digests) for _ in range(2)]
    methods = (
        BehaviourChange(label="refusal"),
        TextLoss(),
        Compare(controls, cka_tokens=32, floor_prompts=2),
        Tuco(controls=controls),
        DirectionChange(controls),
    )
    return Audit([method(study) for method in methods])


def contrastive_generation(study, _, unit):
    return ContrastiveGeneration(prefill_count=2, tokens=4)


def perplexity_differencing(study, _, unit):
    return PerplexityDifferencing(samples=4, tokens=6, floor=2)


def activation_difference(study, _, unit):
    return ActivationDifference(depths=(0.5, 1.0))


def update_directions(study, _, unit):
    return UpdateDirections(truncation_texts=2)


def training_rows(study, _, unit):
    return TrainingRows(draws=39)


def trait_shift(study, _, unit):
    return TraitShift(draws=39)


def trait_screening(study, _, unit):
    rows = [Prompt(at, f"open the door {word}", f"r{at}") for at, word in enumerate("abcdef")]
    return TraitScreening(
        PromptSet(tuple(rows), "rows"), position="prompt", beginning=3, separation=0.0, draws=39
    )


def trigger_scan(study, _, unit):
    return TriggerScan(prompts=2, best=8, choose="gradient", tokens=3)


def monitor(study, _, unit):
    return Monitor(alpha=0.5)


def sae_circuit(study, _, unit):
    return SaeCircuit(
        comparison="models", heads=((1, 2),), width=8, epochs=20, trials=2, scale="rms", draws=19
    )


def wrapped_pruning(study, _, unit):
    return WrappedPruning(sizes=(2, 5), random_sets=2)


def wrapped_probes(study, _, unit):
    return WrappedProbes(permutations=19)


def wrapped_reversal(study, _, unit):
    return WrappedReversal(steps=(1, 2), batch=2)


def wrapped_conjugate(study, _, unit):
    polite = Rule(("^(.+)$", r"please \1"), ("^please (.+)$", r"\1"))
    return WrappedConjugate((Register("polite", (polite,)),), exchanges=19)


OF_PAIRS = (
    tuco,
    ftc_alpha,
    compare,
    concept_shift,
    graft,
    cross_patch,
    patch_heads,
    lofit,
    patch_weights,
    stitch,
    discover,
    audit,
    contrastive_generation,
    perplexity_differencing,
    activation_difference,
    update_directions,
    training_rows,
    trait_shift,
    trait_screening,
    trigger_scan,
    monitor,
    sae_circuit,
    wrapped_pruning,
    wrapped_probes,
    wrapped_reversal,
    wrapped_conjugate,
)
FURTHER = (
    stability,
    redundancy,
    coalitions,
    transfer,
    dissociation,
    refusal_direction,
    baselines,
    control_locations,
)

# Without claims: what they list is judged once over all of them.
DESCRIPTIONS = {
    "diff-mining",
    "activation-difference",
    "contrastive-generation",
    "perplexity-differencing",
    "update-directions",
    "discovery-baselines",
    "trigger-scan",
}

# Sums over the vocabulary are in float32, whatever the model: see their modules.
IN_FLOAT32 = {"diff-mining", "discovery-baselines", "discover"}

# Every analyzer, with every method and unit it has. One that is made without arguments need not be
# named.
ANALYZERS = {
    **{f"locate-neurons {name}": (locate, name, "neuron") for name in METHODS},
    **{
        f"locate-neurons {name} head": (locate, name, "head")
        for name in METHODS
        if "head" in METHODS[name].units
    },
    "verify-neurons": (verify, "", "neuron"),
    "verify-neurons head": (verify, "", "head"),
    **{make.__name__.replace("_", "-"): (make, "", "neuron") for make in FURTHER},
    **{f"{make.__name__.replace('_', '-')} head": (make, "", "head") for make in FURTHER},
    **{make.__name__.replace("_", "-"): (make, "", "neuron") for make in OF_PAIRS},
    **{f"sae-diff {way}": (dictionary_diff, way, "neuron") for way in COMPARISONS},
}
# These read checkpoints on disk, not prompts, or take what was found there:
# test_intruders.py, test_intruder_scaling.py, test_intruder_forgetting.py.
OF_WEIGHTS = {"intruders", "intruder_scaling", "intruder_forgetting"}
# These read task files with named words and other texts: test_component_masking.py, test_circuit.py.
OF_TASK_FILES = {"component_masking", "circuit"}
# This reads scores that were computed elsewhere: test_evaluation_scores.py.
OF_SCORES = {"evaluation_scores"}
# These are of a dictionary in one model, and an identical pair is no silence to them:
# tests/sae/test_sae_scores.py, tests/sae/test_sae_eval.py, tests/analyzers/test_sae_features.py,
# tests/analyzers/test_sae_probe.py.
# Data selection reads a pool of rows: tests/analyzers/test_data_selection.py.
OF_ONE_MODEL = {"data_selection", "sae_eval", "sae_features", "sae_probe"}
# This trains one model and says how many seconds it took: test_tune.py.
OF_TRAINING = {"tune"}


def unnamed(named):
    """The analyzers of modules that are named nowhere here, as they are made without arguments."""
    for _, name, _ in pkgutil.iter_modules(interp.analyzers.__path__):
        if name not in named:
            module = importlib.import_module(f"interp.analyzers.{name}")
            for kind in vars(module).values():
                if (
                    isinstance(kind, type)
                    and kind.__module__ == module.__name__
                    and issubclass(kind, Analyzer)
                ):
                    yield kind.name, (lambda study, _, unit, kind=kind: kind(), "", "neuron")


ANALYZERS["answer-length"] = (lambda study, _, unit: AnswerLength(), "", "neuron")
ANALYZERS |= unnamed(
    {
        "base",
        "framework",
        *OF_WEIGHTS,
        *OF_TASK_FILES,
        *OF_SCORES,
        *OF_ONE_MODEL,
        *OF_TRAINING,
        *(name.split()[0].replace("-", "_") for name in ANALYZERS),
    }
)
# Heads go the ways of neurons: one method stands for all of them but in the slow tests, and that
# heads are verified as heads is in tests/analyzers/test_heads.py. So do two of four ways.
ALWAYS = {"locate-neurons integrated head"}
SELDOM = ("head", "diff base", "diff difference")


def marked(names):
    return [
        (
            name
            if name in ALWAYS or not name.endswith(SELDOM)
            else pytest.param(name, marks=pytest.mark.slow)
        )
        for name in names
    ]


EACH = pytest.mark.parametrize("name", marked(ANALYZERS))
LOCATING = [name for name in ANALYZERS if name.startswith("locate")]
BASED = [
    name for name in ANALYZERS if name not in LOCATING or METHODS[ANALYZERS[name][1]].needs_base
]
COUNTS = {"neuron": 48, "head": 4}


def analyzer(name, study):
    make, *arguments = ANALYZERS[name]
    return make(study, *arguments)


@pytest.fixture(scope="module", params=["llama", pytest.param("gpt2", marks=pytest.mark.slow)])
def family(request):
    return request.param


@pytest.fixture(scope="module")
def modules(family):
    """Planted, plus noise everywhere, so that every neuron's score is something; in float64
    throughout.
    """
    base, tuned = tiny.planted(tiny.FAMILIES[family](seed=7, tie_word_embeddings=False), pairs=6)
    made = tiny.exact(base), tiny.exact(tiny.perturbed(tuned, 0.002))
    before = [copy.deepcopy(module.state_dict()) for module in made]
    yield made
    # no analyzer writes to a weight
    for module, kept in zip(made, before, strict=True):
        assert all(torch.equal(value, kept[name]) for name, value in module.state_dict().items())


def fresh(modules, **options):
    base, tuned = modules
    study = tiny.study(tuned, base, 6, template=False, **{"max_new_tokens": 2, **options})
    # answers are read by what asks a task's questions
    parts = (study.contrast.positive, study.contrast.negative)
    answered = [
        PromptSet(
            tuple(dataclasses.replace(p, answer="Sorry", wrong_answer="help") for p in part),
            part.source,
        )
        for part in parts
    ]
    return study.with_prompts(Contrast(*answered))


@pytest.fixture(scope="module")
def tables(modules):
    """One table of each, kept, from one study."""
    study, kept = fresh(modules), {}

    def table(name):
        if name not in kept:
            kept[name] = analyzer(name, study)(study)
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
def test_the_page_of_the_store_describes_it(tables, name):
    # the example is not part of the package
    if not name.endswith("head") and name != "answer-length":
        require_described(tables(name))


@EACH
def test_the_summary_is_json_and_says_it_in_a_sentence(tables, name):
    summary = tables(name).summary
    json.dumps(summary, allow_nan=False)
    assert summary["sentence"].endswith(".")
    assert "\n" not in summary["sentence"]
    assert summary["positive"] == summary["negative"] == 6


@pytest.mark.parametrize(
    "name",
    marked([name for name in ANALYZERS if name not in LOCATING and name not in DESCRIPTIONS]),
)
def test_what_is_supported_is_what_the_check_accepts(tables, name):
    """Of the run's own numbers, and of others that hypothesis draws."""
    assert findings(tables(name))
    require_honest_makers(tables(name))


@pytest.mark.parametrize("name", marked(LOCATING))
def test_one_row_per_neuron_and_finite_scores(tables, name):
    table, unit = tables(name), ANALYZERS[name][2]
    assert [column.name for column in table.columns[:5]] == [
        "layer",
        unit,
        "score",
        "rank",
        "selected",
    ]
    assert [column.role for column in table.columns[:5]] == [
        "key",
        "key",
        "measure",
        "measure",
        "flag",
    ]
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
            np.testing.assert_allclose(
                a, b, rtol=tolerance, atol=max(tolerance * size, 1e-14), err_msg=column.name
            )
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
    study = fresh(tuple(copy.deepcopy(module) for module in modules))
    again = analyzer(name, study)(study)
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
    fields = {
        field.name: getattr(study, field.name)
        for field in dataclasses.fields(study)
        if field.name != "_kept"
    }
    padded = Padded(**fields)
    found = analyzer(name, padded)(padded)
    # contrast divides by a spread that can be next to nothing
    # TuCo states its rounding floor, which is of the batches' shapes
    # a discovery and an audit name the runs that they join, whose keys follow the padding
    parts = {
        "tuco": {"layers"},
        "discover": {"models", "groups"},
        "audit": {"claims"},
    }.get(name)
    whole(tables(name), found, 1e-5 if "contrast" in name or name in IN_FLOAT32 else 1e-8, parts)
    assert study.provenance(analyzer(name, study)).key == tables(name).provenance.key


@pytest.mark.parametrize("name", marked(LOCATING))
def test_the_order_of_prompts_does_not_count(tables, modules, name):
    """Means over prompts: their order changes rounding only (ids and places follow the prompts)."""
    study = fresh(modules)
    turned = [
        PromptSet(part.prompts[::-1], part.source)
        for part in (study.contrast.positive, study.contrast.negative)
    ]
    found = analyzer(name, study)(study.with_prompts(Contrast(*turned)))
    same(tables(name), found, 1e-5 if "contrast" in name else 1e-8)
    assert found.provenance.key != tables(name).provenance.key


@pytest.mark.parametrize("name", marked([name for name in LOCATING if "contrast" not in name]))
def test_float32_tells_the_same(tables, modules, name):
    """But for standardised differences, which can be of next to nothing."""
    base, tuned = (copy.deepcopy(module) for module in modules)
    for module in (base, tuned):
        module.float()
    study = fresh((base, tuned))
    exact = tables(name)["score"]
    np.testing.assert_allclose(
        analyzer(name, study)(study)["score"], exact, rtol=2e-2, atol=1e-4 * np.abs(exact).max()
    )


@pytest.mark.parametrize("name", marked(BASED))
def test_an_identical_pair_is_silent(modules, name):
    base, _ = modules
    study = fresh((base, copy.deepcopy(base)))
    table = analyzer(name, study)(study)
    if name.startswith("locate"):
        assert not table["score"].any()
        assert not table["selected"].any()
        return
    if name in DESCRIPTIONS:
        assert not len(table)
        return
    if name == "audit":  # that nothing changed is a claim, and may be supported
        assert not {"changed", "beyond controls"} & set(table["verdict"].tolist())
        assert not table["failed"].any()
        return
    assert table.summary["supported"] is False
    assert table.summary["sentence"].endswith(".")
    for claim in claims.from_table(table.tables["claims"]):
        claims.check(claim, table)
        # the set recomputed is the located one itself
        assert not claim.supported or claim.name in ("correspondence", "recomputed")
    if name.startswith("coalitions"):
        assert not table["exact"].any()
    if not name.startswith("verify"):
        return
    # zero, mean and the twin are other values than a head's own, in an identical pair too
    alike = np.isin(table["condition"], ["base", "tuned", "ablate-base", "patch-tuned"])
    assert (table["matches_base"][alike] == 1.0).all()
    assert (table["matches_tuned"][alike] == 1.0).all()
    for group in ("positive", "negative"):
        rows = table["group"] == group
        assert (
            len(set(table["log_odds"][rows & np.isin(table["condition"], ["base", "tuned"])])) == 1
        )


# ---------------------------------------------------------------------------------------------- the key


def key(study, made):
    return study.provenance(made).key


def test_the_key_follows_every_option(modules):
    study = fresh(modules)
    (source, run), another = elsewhere("neuron"), located("weight")(study)
    # the value of every option that is not the default's
    others = {
        LocateNeurons(): {
            "method": "weight",
            "top": "7",
            "positions": "last",
            "steps": 21,
            "unit": "head",
            "probe_fit": "published",
            "parent": "1" * 20,
        },
        VerifyNeurons(parent="0" * 20): {
            "random_sets": 19,
            "judged_sets": 4,
            "dose_draws": 3,
            "control_prompts": 7,
            "depth": 9,
            "reach": 0.9,
            "parent": "1" * 20,
            "patch": "activation",
            "excluded": ((0, 1),),
            "ablations": ("zero",),
            "examples": 2,
            "show_answers": True,
            "directions": ("necessity",),
            "doses": False,
            "cell_sets": 0,
        },
        Stability(LocateNeurons()): {
            "locate": LocateNeurons(top="7"),
            "resamples": 6,
            "draws": 19,
            "least": 9,
            "random_sets": 19,
            "control_prompts": 7,
            "parent": "1" * 20,
            "excluded": ((0, 1),),
        },
        Redundancy(LocateNeurons()): {
            "locate": LocateNeurons(top="7"),
            "rounds": 4,
            "random_sets": 19,
            "control_prompts": 7,
            "parent": "1" * 20,
            "excluded": ((0, 1),),
        },
        Coalitions(run): {"draws": 5, "prompts": 7, "permutations": 19, "parent": "1" * 20},
        Transfer(run, source): {
            "recomputed": run,
            "random_sets": 19,
            "control_prompts": 7,
            "permutations": 19,
            "parent": "1" * 20,
        },
        Dissociation(run, run, study): {
            "second": another,
            "other": other(study),
            "random_sets": 19,
            "control_prompts": 7,
            "parent": "1" * 20,
        },
        Baselines(table("verify-neurons", {}, provenance=Provenance("verify-neurons", 1)), run): {
            "contrast": another,
            "choosing": other(study),
            "prompts": 7,
            "parent": "1" * 20,
        },
        ControlLocations(run, (another,)): {
            "located": another,
            "controls": (run,),
            "parent": "1" * 20,
        },
        RefusalDirection(run): {"shares": (1.0,), "prompts": 7, "parent": "1" * 20},
        Graft(held_out=study.contrast.positive): {
            "held_out": study.contrast.negative,
            "other": study.contrast.negative,
            "scope": "mlp",
            "density": 0.02,
            "sweep": (0.1,),
            "steps": 9,
            "rate": 0.2,
            "pull": 0.2,
            "batch": 9,
            "relaxed_steps": 9,
            "relaxed_rate": 1e6,
            "draws": 9,
            "shuffles": 7,
            "compare_with": (run,),
            "parent": "1" * 20,
        },
        Stitch(held_out=study.contrast.positive): {
            "held_out": study.contrast.negative,
            "others": stitch(study, "", "neuron").others,
            "runs": (run,),
            "scope": "mlp",
            "localise": "learned",
            "density": 0.02,
            "start": 0.02,
            "steps": 9,
            "rate": 1e6,
            "pull": 1.0,
            "reg": "binarise",
            "draws": 9,
            "parent": "1" * 20,
        },
    }
    for made, changes in others.items():
        named = {
            field.name
            for field in dataclasses.fields(made)
            if not field.metadata.get("from_parent")
        }
        assert named == set(changes), "an option without a test of its key"
        keys = [key(study, made)] + [
            key(study, dataclasses.replace(made, **{name: value}))
            for name, value in changes.items()
        ]
        assert len(set(keys)) == len(keys)


def test_the_key_follows_what_was_given_by_hand(modules):
    """Without a parent's key, what it would have determined counts."""
    study = fresh(modules)
    (source, run), another = elsewhere("neuron"), located("weight")(study)
    given = [
        Coalitions(located=run),
        Coalitions(located=another),
        RefusalDirection(located=run),
        RefusalDirection(located=another),
        Transfer(located=run, source=source),
        Transfer(located=another, source=source),
        Transfer(located=run, source=study.pair),
        Dissociation(first=run, second=run, other=study),
        Dissociation(first=another, second=run, other=study),
        *(
            Dissociation(first=run, second=run, other=dataclasses.replace(study, **changed))
            for changed in (
                {"seed": 1},
                {"max_new_tokens": 3},
                {"metric": Refusal.from_tokenizer(tiny.tokenizer(), ["cannot"])},
            )
        ),
    ]
    keys = [key(study, made) for made in given]
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
        study.with_prompts(study.contrast.limit(5)),
        study.with_prompts(Contrast(study.contrast.negative, study.contrast.positive)),
        Study(
            study.pair,
            study.contrast,
            Refusal.from_tokenizer(plain, ["Sorry", "cannot"]),
            max_new_tokens=2,
        ),
        Study(
            Pair.from_modules(tuned, None, plain), study.contrast, study.metric, max_new_tokens=2
        ),
        Study(
            Pair.from_modules(base, tuned, plain), study.contrast, study.metric, max_new_tokens=2
        ),
        Study(Pair.from_modules(tuned, base, chat), study.contrast, study.metric, max_new_tokens=2),
        Study(
            Pair.from_modules(stopped, base, plain), study.contrast, study.metric, max_new_tokens=2
        ),
        fresh(tuple(copy.deepcopy(module).float() for module in modules)),
    ]
    keys = [key(other, LocateNeurons()) for other in others]
    assert len(set(keys)) == len(keys)


def test_the_key_does_not_follow_what_makes_no_difference(modules):
    study = fresh(modules)
    named = Study(
        Pair.from_modules(modules[1], modules[0], tiny.tokenizer(False), "another name"),
        study.contrast,
        study.metric,
        batch_size=2,
        max_new_tokens=2,
        quiet=False,
    )
    renamed = study.with_prompts(
        Contrast(
            *(
                PromptSet(part.prompts, "elsewhere.txt")
                for part in (study.contrast.positive, study.contrast.negative)
            )
        )
    )
    for made in (LocateNeurons(), verify(study, "", "neuron")):
        assert key(named, made) == key(renamed, made) == key(study, made)


def test_the_attention_kernel_is_part_of_the_key(tmp_path):
    path = str(tiny.save(tiny.llama(), tmp_path / "m"))
    studies = [
        Study(Pair.load(path, path, attention=kernel), tiny.contrast(4), tiny.metric())
        for kernel in ("sdpa", "eager")
    ]
    one, two = (key(study, LocateNeurons()) for study in studies)
    assert one != two


def test_every_analyzer_is_in_this_contract():
    found = (
        {name for _, name, _ in pkgutil.iter_modules(interp.analyzers.__path__)}
        - {"base", "framework"}
        - OF_WEIGHTS
        - OF_ONE_MODEL
        - OF_TASK_FILES
        - OF_SCORES
        - OF_TRAINING
    )
    named = {name.split()[0].replace("-", "_") for name in ANALYZERS}
    assert found == named - {"answer_length"}
