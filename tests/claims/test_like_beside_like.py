"""A row of claims has numbers of one kind side by side: a difference beside 0, the control's level
in brackets.
"""

import pytest

from interp import display
from interp.analyzers.compare.findings import claims_of
from interp.claims import conclude, from_table, mean
from interp.cli.claims_table import claims_table
from interp.figures.claims import claims_figure
from interp.report import sections
from interp.testing import claim_text
from tests.claims.test_claims import BASE, ODDS, claim, run


@pytest.fixture(scope="module")
def made():
    apart = mean("log_odds", pair="prompt_id", minus={"where": BASE}, **ODDS)
    level = mean("log_odds", **{**ODDS, "where": BASE})
    difference = claim(
        name="apart", estimate=apart, null=None, reference=level, control="the base's own"
    )
    # a reference that is a difference itself is one to compare with
    both = claim(name="both", estimate=apart, null=None, reference=apart, control="the same")
    return conclude(run(), [difference, claim(name="level"), both])


def test_which_controls_are_levels(made):
    assert [one.control_is_level for one in from_table(made.tables["claims"])] == [
        True,
        False,
        False,
    ]


def test_what_a_further_control_would_give_is_no_level():
    """The difference of two classes is put beside what one more control's difference would be."""
    made = {one.name: one.to_json() for one in claims_of(3, 1e-6, 5, 2)}
    beyond = made["more-on-positive-beyond-new-control"]
    assert beyond["estimate"]["minus"]
    assert beyond["reference"]["spread"] == "new-observation"
    assert not display.control_is_level(beyond)


def test_a_difference_is_shown_beside_a_difference(made):
    first, second, third = from_table(made.tables["claims"])
    lines = claims_table(made.summary["findings"]).splitlines()[1:4]
    assert f"0 (its level: {first.control_value:.4g} [" in lines[0]
    assert f"control 0 (its level: {first.control_value:.4g} [" in claim_text(first)
    rows = [display._claim(row)[2] for row in made.tables["claims"].rows()]
    assert rows[0].startswith(f"0 (its level: {display.format_number(first.control_value)}")
    assert sections.claims_table([first]).count("0 (its level: ") == 1
    for shown in (
        *lines[1:],
        claim_text(second),
        claim_text(third),
        *rows[1:],
        sections.claims_table([second, third]),
    ):
        assert "its level" not in shown


def test_it_is_drawn_beside_a_difference(made):
    drawn = [
        trace for trace in claims_figure(made.tables["claims"]).data if trace.name == "control"
    ]
    found = [x for trace in drawn for x in trace.x]
    _, second, third = from_table(made.tables["claims"])
    assert found == [0.0, second.control_value, third.control_value]
