"""What an analyzer takes of an earlier run: its table, by position too, or it refuses when it is
made.
"""

import dataclasses

import numpy as np
import pytest

import interp.analyzers
from interp.analyzers.baselines import Baselines
from interp.analyzers.coalitions import Coalitions
from interp.analyzers.control_locations import ControlLocations
from interp.analyzers.dissociation import Dissociation
from interp.analyzers.framework import require_locating
from interp.analyzers.intruder_scaling import IntruderScaling
from interp.analyzers.locate_neurons import LocateNeurons
from interp.analyzers.redundancy import Redundancy
from interp.analyzers.refusal_direction import RefusalDirection
from interp.analyzers.sae_diff import SaeDiff
from interp.analyzers.stability import Stability
from interp.analyzers.transfer import Transfer
from interp.analyzers.tune import Tune
from interp.analyzers.verify_neurons import VerifyNeurons
from interp.errors import OptionError
from interp.provenance import Provenance
from interp.sae import Dictionary, DictionaryConfig
from interp.store import Store
from interp.table import table
from tests import tiny

SMALL = dict(random_sets=1, dose_draws=1, control_prompts=2, depth=3, cell_sets=0)
OTHER = table("compare", {"x": ([0], "key", "")}, provenance=Provenance("compare", 1))


@pytest.fixture(scope="module")
def study():
    return tiny.planted_study("llama", pairs=6)


@pytest.fixture(scope="module")
def located(study):
    return LocateNeurons(method="change", top="3")(study)


def test_a_located_table_is_verified_as_the_design_writes_it(study, located, tmp_path):
    given = VerifyNeurons(located, **SMALL)
    assert given.parent == located.require_provenance().key
    assert (given.selected, len(given.ranking), given.unit) == (3, len(located), "neuron")
    assert study.provenance(given).key == study.provenance(VerifyNeurons(located, **SMALL)).key
    # what is changed later keeps the set
    assert dataclasses.replace(given, random_sets=2).ranking == given.ranking
    store = Store(tmp_path)
    stored = store.run(LocateNeurons(method="change", top="3"), study)
    verified = store.run(VerifyNeurons(stored, **SMALL), study)
    assert verified.summary["verified"] == stored.require_provenance().key
    assert verified.summary["selected"] == 3


def test_a_ranking_beside_a_located_table_is_refused(located):
    with pytest.raises(OptionError, match="a located table or a ranking of your own, not both"):
        VerifyNeurons(located, ranking=((0, 1),), selected=1)


TAKE = {
    "Tune.located": lambda run: Tune(run),
    "Tune.other": lambda run: Tune(other=run),
    "VerifyNeurons.located": lambda run: VerifyNeurons(run),
    "Coalitions.located": lambda run: Coalitions(run),
    "RefusalDirection.located": lambda run: RefusalDirection(run),
    "Transfer.located": lambda run: Transfer(run),
    "Transfer.recomputed": lambda run: Transfer(recomputed=run),
    "Dissociation.first": lambda run: Dissociation(run),
    "Dissociation.second": lambda run: Dissociation(second=run),
    "ControlLocations.located": lambda run: ControlLocations(run),
    "ControlLocations.controls": lambda run: ControlLocations(controls=(run,)),
    "Baselines.verified": lambda run: Baselines(run),
    "Baselines.located": lambda run: Baselines(located=run),
    "Baselines.contrast": lambda run: Baselines(contrast=run),
    "IntruderScaling.located": lambda run: IntruderScaling(run),
    "SaeDiff.controls": lambda run: SaeDiff(
        Dictionary(DictionaryConfig("topk", 4, 4, models=2, k=1)), controls=(run,)
    ),
}


@pytest.mark.parametrize("name", TAKE)
def test_a_table_of_another_kind_is_refused_at_once(name):
    with pytest.raises(
        OptionError,
        match=r"is a table of kind 'compare'; give a table of kind '(locate|verify|intr|sae-diff)",
    ):
        TAKE[name](OTHER)


def test_every_analyzer_that_takes_a_table_says_of_which_kind():
    fields = {
        (one.__name__, field.name)
        for one in (getattr(interp.analyzers, name) for name in interp.analyzers.__all__)
        for field in dataclasses.fields(one)
        if field.metadata.get("kind")
    }
    assert fields | {("VerifyNeurons", "located")} == {
        tuple(n.split(".")) for n in TAKE if not n.endswith(".of")
    }


@pytest.mark.parametrize("make", [Coalitions, RefusalDirection, Transfer, Dissociation])
def test_a_table_by_position_is_the_parent(make, located):
    made = make(located)
    assert made.parent == located.require_provenance().key
    assert dataclasses.replace(made, parent="1" * 20).parent == "1" * 20


@pytest.mark.parametrize("make", [Stability, Redundancy])
def test_what_locates_is_not_a_table(make, located):
    # the types that tests check at every call would refuse the table before the analyzer does
    with pytest.raises(
        OptionError,
        match=r"locate of \w+ is a Table; give the analyzer that locates, LocateNeurons\(",
    ):
        require_locating(make(LocateNeurons()), located)


def test_the_rank_of_a_located_set_is_kept(located):
    ranking = VerifyNeurons(located).ranking
    scores = {
        (layer, unit): score
        for layer, unit, score in zip(
            located["layer"], located["neuron"], located["score"], strict=True
        )
    }
    first = [scores[pair] for pair in ranking[:3]]
    assert np.all(np.diff(first) <= 0)
