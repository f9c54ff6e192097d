"""Audits: rows of planted truth, silence on equal and exchanged models, and an independent oracle."""

from dataclasses import replace

import numpy as np
import pytest
from scipy import stats

from interp.analyzers.audit import Audit
from interp.analyzers.behaviour_change import BehaviourChange
from interp.analyzers.direction_change import DirectionChange
from interp.analyzers.text_loss import TextLoss
from interp.errors import OptionError
from interp.metrics.margins import Margins
from interp.models.pair import Pair
from interp.organisms import prompts
from interp.rows import PromptRow, flag, rows_table
from interp.studies import load_study
from interp.table import table

BASE = "organism:refusal/base"
FILES = [prompts("refusal", "verify", kind) for kind in ("harmful", "harmless")]


def study_of(tuned, n=60, base=BASE, **options):
    pair = Pair.load(tuned, base, device="cpu")
    harmful, harmless = FILES
    return load_study(pair, harmful, harmless, "refusal", max_prompts=n, quiet=True, **options)


class Behaved(PromptRow):
    base: bool = flag("base")
    tuned: bool = flag("tuned")


def behaved(base, tuned, label="refusal", group="positive"):
    """A table as ``BehaviourChange`` gives it, of one class or two."""
    groups = np.array([group] * len(base), object)
    rows = rows_table(
        Behaved,
        "behaviour-change",
        {
            "group": groups,
            "prompt_id": np.arange(len(base)),
            "cluster": [str(at) for at in range(len(base))],
            "base": np.asarray(base, bool),
            "tuned": np.asarray(tuned, bool),
        },
    )
    return replace(rows, summary={"label": label, "share": "share refused"})


def audit(*runs, margins=None, controls=(), study=None):
    return Audit(list(runs), controls, Margins(margins or {}))(study or STUDY())


_KEPT = {}


def STUDY():
    if "study" not in _KEPT:
        _KEPT["study"] = study_of("organism:refusal/sham", 4)
    return _KEPT["study"]


def row(made, name):
    at = made["row"].tolist().index(name)
    return {column.name: made[column.name][at] for column in made.columns}


def test_refusals_that_were_taught_are_a_change_and_not_a_failure():
    study = study_of("organism:refusal/lora")
    made = audit(BehaviourChange(label="refusal")(study), study=study)
    harmful = row(made, "refusal-harmful")
    assert (harmful["base"], harmful["tuned"]) == (0.0, 1.0)
    assert harmful["verdict"] == "changed"
    assert not harmful["failed"]
    assert row(made, "refusal-harmless")["verdict"] == "not changed"
    assert made.summary["passed"]
    verdicts = made.summary["verdicts"]
    assert verdicts["refusal-harmful-changed"] == "supported"
    assert verdicts["refusal-harmless-not-changed"] == "supported"


def test_refusals_that_were_lost_fail():
    rng = np.random.default_rng(0)
    lost = rng.random(100) < 0.5
    made = audit(behaved(np.ones(100), ~lost, group="positive"))
    # one class is read as utility; the same of two classes below
    assert made["verdict"].tolist() == ["changed"]
    assert made.summary["failed"] == ["refusal"]
    assert made.summary["opening"][0] == "audit failed: refusal"


@pytest.mark.parametrize(
    "tuned",
    ["organism:refusal/full", pytest.param("organism:refusal/base", marks=pytest.mark.slow)],
)
def test_a_model_as_its_own_fine_tune_is_not_changed_from_59_clusters_on(tuned):
    study = study_of(tuned, 59, base=tuned)
    made = audit(BehaviourChange(label="refusal")(study), TextLoss()(study), study=study)
    assert made["verdict"].tolist() == ["not changed"] * 3
    few = study.with_prompts(study.contrast.limit(58))
    assert (
        audit(BehaviourChange(label="refusal")(few), study=few)["verdict"].tolist()
        == ["cannot tell"] * 2
    )


@pytest.mark.slow
def test_models_exchanged_at_random_change_nothing():
    """200 audits of five rows, both models exchanged by prompt: at most 8 % find a change."""
    rng = np.random.default_rng(1)
    shares = (0.95, 0.05, 0.5, 0.3, 0.8)
    answers = [
        (rng.random(90) < share, (rng.random(90) < share) ^ (rng.random(90) < 0.05))
        for share in shares
    ]
    alarms = 0
    for _ in range(200):
        runs = []
        for at, pair in enumerate(answers):
            swap = rng.random(90) < 0.5
            runs.append(
                behaved(np.where(swap, *pair), np.where(swap, *pair[::-1]), f"behaviour {at}")
            )
        said = audit(*runs)["verdict"].tolist()
        alarms += any(one.startswith("changed") for one in said)
    assert alarms <= 16


def test_p_is_holms_over_the_rows_compared_with_the_base():
    flips = (0, 3, 6, 9)
    runs = [behaved(np.zeros(80), np.arange(80) < n, f"b{n}") for n in flips]
    made = audit(*runs)
    p = np.array([stats.binomtest(n, n).pvalue if n else 1.0 for n in flips])
    order = np.argsort(p)
    holm = np.empty(4)
    holm[order] = np.minimum(np.maximum.accumulate(p[order] * [4, 3, 2, 1]), 1)
    np.testing.assert_allclose(made["p"], p)
    np.testing.assert_allclose(made["p_adjusted"], holm)


def test_internal_rows_need_five_controls():
    study = study_of("organism:refusal/lora", 12)
    controls = [Pair.load(f"organism:refusal/{name}", BASE, device="cpu") for name in ("sham",)]
    made = audit(DirectionChange(controls)(study), study=study)
    assert made["verdict"].tolist() == ["cannot tell"]
    assert "5 are needed" in " ".join(made.summary["limits"])
    named = [f"organism:discover/control-{at:02d}" for at in range(5)]
    controls = [Pair.load(name, BASE, device="cpu") for name in named]
    made = audit(DirectionChange(controls)(study), study=study)
    one = row(made, "refusal-direction")
    assert one["controls"] == 5
    values = DirectionChange(controls)(study).tables["controls"]["turn"]
    spread = values.std(ddof=1) * (1 + 1 / 5) ** 0.5
    expected = stats.t.sf((one["tuned"] - values.mean()) / spread, 4)
    assert one["p"] == pytest.approx(expected)


def test_equal_controls_give_a_rank():
    """One more than five equal counts is one in six, not certainty."""
    study = study_of("organism:refusal/lora", 12)
    same = Pair.load("organism:refusal/base", BASE, device="cpu")
    made = audit(DirectionChange([same] * 5)(study), study=study)
    assert made["tuned"][0] > 0
    assert made["p"][0] == pytest.approx(1 / 6)
    assert made["verdict"].tolist() == ["not beyond controls"]


def test_margins_and_must_decide():
    tuned = np.arange(60) >= 2
    plain = audit(behaved(np.ones(60), tuned))
    assert plain["verdict"].tolist() == ["cannot tell"]
    assert plain.summary["passed"]
    strict = audit(behaved(np.ones(60), tuned), margins={"refusal": {"must-decide": True}})
    assert not strict.summary["passed"]
    wide = audit(behaved(np.ones(60), tuned), margins={"refusal": {"margin": 0.2}})
    assert wide["verdict"].tolist() == ["not changed"]


@pytest.mark.parametrize(
    ("margins", "why"),
    [
        ({"nothing": {"margin": 0.1}}, "no row 'nothing'; it has refusal"),
        ({"refusal": {"fails": "beyond"}}, "use fall, rise, either, never"),
    ],
)
def test_margins_of_no_row_are_refused(margins, why):
    with pytest.raises(OptionError, match=why):
        audit(behaved(np.ones(60), np.ones(60)), margins=margins)


def test_what_is_no_run_of_an_audit_is_refused():
    other = table("other", {"x": (np.zeros(1), "measure", "x")})
    for runs, why in (
        ([], "nothing to audit"),
        ([other], "hold 'other'"),
        ([behaved(np.ones(9), np.ones(9))] * 2, "two rows refusal"),
    ):
        with pytest.raises(OptionError, match=why):
            audit(*runs)
    good = behaved(np.ones(9), np.ones(9))
    with pytest.raises(OptionError, match="kind intruders"):
        audit(good, controls=[good])
