"""What a method locates in controls: counts and totals by hand, what few and many controls allow,
and the command.
"""

import dataclasses
import json

import numpy as np
import pytest

from interp import claims
from interp.analyzers.control_locations import ControlLocations
from interp.analyzers.locate_neurons import LocateNeurons
from interp.cli import main
from interp.errors import OptionError
from interp.figures import plot
from interp.models.pair import Pair
from interp.progress import Progress
from tests import tiny

LOCATE = LocateNeurons("change", top="3")


@pytest.fixture(scope="module")
def found():
    """A planted pair located, and six controls of its base: every weight moved a little, and no
    behaviour.
    """
    base, tuned = tiny.planted(tiny.llama(seed=7, tie_word_embeddings=False), pairs=8)
    study = tiny.study(tuned, base, 8, template=False, max_new_tokens=1)
    located, controls = LOCATE(study), []
    for seed in range(6):
        pair = Pair.from_modules(
            tiny.perturbed(base, 0.003, 20 + seed), base, tiny.tokenizer(False)
        )
        controls.append(LOCATE(dataclasses.replace(study, pair=pair, _cache={})))
    return study, located, controls


def test_counts_and_totals_are_those_of_the_runs(found):
    study, located, controls = found
    table = ControlLocations(located, tuple(controls))(study)
    mine = located["selected"]
    for row, control in zip(table.rows(), controls, strict=True):
        theirs = control["selected"]
        assert row["shared"] == (mine & theirs).sum()
        assert row["n_selected"] == theirs.sum()
        assert row["chance"] == pytest.approx(mine.sum() * theirs.sum() / len(mine))
        assert row["largest_score"] == control["score"].max()
        assert row["total_score"] == pytest.approx(control["score"][theirs].sum())
        assert row["score_of_set"] == pytest.approx(control["score"][mine].sum())
    assert table.tables["own"]["total_score"][0] == pytest.approx(located["score"][mine].sum())
    assert json.loads(plot(table).to_json())["data"]


@pytest.mark.parametrize(
    ("count", "verdict"), [(1, "not tested"), (4, "not tested"), (5, "supported")]
)
def test_a_planted_set_is_beyond_controls(found, count, verdict):
    study, located, controls = found
    table = ControlLocations(located, tuple(controls[:count]))(study)
    (claim,) = claims.from_table(table.tables["claims"])
    claims.check(claim, table)
    assert claim.verdict == verdict
    if count < 5:
        assert "5 are needed for the interval of a new one" in claim.reason
    else:
        totals = [control["score"][control["selected"]].sum() for control in controls[:count]]
        # Student's t with four degrees of freedom, by its table
        bound = np.mean(totals) + 2.776445 * np.sqrt(1 + 1 / count) * np.std(totals, ddof=1)
        assert claim.control_high == pytest.approx(bound, rel=1e-6)
        assert claim.value > bound


def test_nineteen_are_ranked(found):
    study, located, controls = found
    table = ControlLocations(located, tuple((controls * 4)[:19]))(study)
    (claim,) = claims.from_table(table.tables["claims"])
    claims.check(claim, table)
    assert claim.p == pytest.approx(0.05)
    assert claim.supported


def test_a_control_is_not_beyond_the_others(found):
    study, _, controls = found
    for at, control in enumerate(controls):
        others = [one for number, one in enumerate(controls) if number != at]
        (claim,) = claims.from_table(
            ControlLocations(control, tuple(others))(study).tables["claims"]
        )
        # of six alike at most one is beyond the 97.5 % end of the others, nearly always none
        assert claim.verdict == "not supported" or claim.value == max(
            c["score"][c["selected"]].sum() for c in controls
        )


def test_runs_made_otherwise_are_refused(found):
    study, located, controls = found
    with pytest.raises(OptionError, match="located with top '5'"):
        ControlLocations(located, (LocateNeurons("change", top="5")(study),))(study)
    with pytest.raises(OptionError, match="located with method 'weight'"):
        ControlLocations(located, (controls[0], LocateNeurons("weight", top="3")(study)))(study)
    with pytest.raises(OptionError, match="give a locating run"):
        ControlLocations()(study)


def _noting(during, opened):
    def noted(self, what, quiet):
        opened.append(what)
        return during(self, what, quiet)

    return noted


def test_the_command(found, tmp_path, capsys, monkeypatch):
    study, _, _ = found
    tiny.save(study.pair.tuned.module, tmp_path / "tuned", with_tokenizer=False)
    tiny.save(study.pair.base.module, tmp_path / "base", with_tokenizer=False)
    tiny.save(
        tiny.perturbed(study.pair.base.module, 0.003, 3), tmp_path / "one", with_tokenizer=False
    )
    tiny.save(
        tiny.perturbed(study.pair.base.module, 0.003, 4), tmp_path / "two", with_tokenizer=False
    )
    for name in ("tuned", "base", "one", "two"):
        tiny.tokenizer(False).save_pretrained(tmp_path / name)
    for group in ("positive", "negative"):
        texts = getattr(study.contrast, group).texts
        (tmp_path / f"{group}.txt").write_text("\n".join(texts) + "\n")
    (tmp_path / "sorry.txt").write_text("Sorry\n")
    given = [
        "locate-neurons",
        tmp_path / "tuned",
        "--base",
        tmp_path / "base",
        "--positive",
        tmp_path / "positive.txt",
        "--negative",
        tmp_path / "negative.txt",
        "--markers",
        tmp_path / "sorry.txt",
        "--top",
        "3",
        "--method",
        "change",
        "--no-verify",
        "--store",
        tmp_path / "runs",
        "--quiet",
    ]
    both = ["--control", tmp_path / "one", "--control", tmp_path / "two"]
    assert main([str(word) for word in [*given, *both]]) == 0
    said = capsys.readouterr().out
    assert "control-locations:" in said
    assert "set-beyond-controls" in said
    assert "2 controls were given, and 5 are needed" in said
    assert main([str(word) for word in [*given, *both]]) == 0
    assert "from the store" in capsys.readouterr().out
    # while a control is read, it is told which of how many it is
    opened = []
    monkeypatch.setattr(Progress, "during", _noting(Progress.during, opened))
    again = [tmp_path / "again" if word == tmp_path / "runs" else word for word in given]
    assert main([str(word) for word in [*again, *both]]) == 0
    names = [name for name in opened if name.startswith("control ")]
    assert names == [
        f"control {at} of 2, {tmp_path / name}" for at, name in ((1, "one"), (2, "two"))
    ]
    capsys.readouterr()
    # at the door: nothing is located before a control is known to be there
    for wrong, why in (
        ([*both, *both[:2]], "is given twice"),
        (["--control", tmp_path / "none"], "none"),
    ):
        fresh = [tmp_path / "other" if word == tmp_path / "runs" else word for word in given]
        assert main([str(word) for word in [*fresh, *wrong]]) == 2
        assert why in capsys.readouterr().err
        assert not list((tmp_path / "other").glob("[!.]*"))
