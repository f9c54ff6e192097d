"""Figures show what is in the tables: their traces are compared with the rows, and text stays text."""

import dataclasses
import json

import numpy as np
import pytest

from interp.errors import OptionError
from interp.figures import FIGURES, plot
from interp.figures.dose import ticks
from interp.figures.scores import LIMIT, shown_rows
from interp.table import table
from tests.tables import HOSTILE, located, verified


def traces(figure, **wanted):
    return [t for t in figure.data if all(getattr(t, name) == value for name, value in wanted.items())]


def with_column(made, **columns):
    return dataclasses.replace(made, data={**made.data, **columns})


DRAWN = [located(), verified(), *(verified().tables[name] for name in ("dose", "random", "claims"))]


@pytest.mark.parametrize("made", DRAWN, ids=lambda made: made.kind)
def test_every_figure_has_title_and_caption_and_is_json(made):
    figure = plot(made)
    assert figure.layout.title.text
    assert figure.layout.meta["caption"].endswith(".")
    assert json.loads(figure.to_json())["data"]


def test_kinds_without_figure_and_empty_tables_say_so():
    with pytest.raises(
        OptionError, match="no figure for tables of kind 'neuron-tokens': there are claims, coalitions, compare, "
    ):
        plot(located().tables["tokens"])
    for made in DRAWN:
        assert made.kind in FIGURES
        with pytest.raises(OptionError, match="no rows"):
            plot(made.select(np.zeros(len(made), bool)))


def test_scores_shows_every_neuron_and_counts_the_selected():
    made = located()
    figure = plot(made)
    rest, chosen = figure.data[:2]
    assert sorted(np.concatenate([rest.y, chosen.y])) == sorted(made["score"])
    assert sorted(chosen.y) == sorted(made["score"][made["selected"]])
    assert np.round(chosen.x).tolist() == chosen.customdata[:, 0].tolist()
    assert figure.data[2].y.tolist() == np.bincount(made["layer"][made["selected"]], minlength=4).tolist()
    assert figure.layout.title.text == "Score of 256 neurons by layer"


def test_scores_of_a_large_model_are_capped_and_the_title_says_so():
    generator = np.random.default_rng(0)
    score = generator.normal(size=40_000)
    selected = np.zeros(score.size, bool)
    selected[np.argsort(score)[-30:]] = True
    made = table(
        "locate-neurons",
        {
            "layer": (np.arange(score.size) // 10_000, "key", ""),
            "neuron": (np.arange(score.size) % 10_000, "key", ""),
            "score": (score, "measure", "m"),
            "rank": (np.arange(score.size) + 1, "measure", ""),
            "selected": (selected, "flag", ""),
        },
    )
    rows = shown_rows(score, selected)
    assert len(set(rows)) == LIMIT
    assert set(np.flatnonzero(selected)) <= set(rows)
    assert set(np.argsort(-np.abs(score))[: LIMIT * 3 // 4]) <= set(rows)
    figure = plot(made)
    assert figure.layout.title.text == "Score by layer: 5,000 of 40,000 neurons shown"
    assert "not selected (39,970)" in [trace.name for trace in figure.data]
    assert len(figure.to_json()) < 600_000


@pytest.mark.parametrize("selected", [0, 20, 80, 100])
def test_shown_rows_keeps_the_selected_first(selected):
    score, chosen = np.linspace(1, 0, 100), np.zeros(100, bool)
    chosen[100 - selected :] = True
    rows = shown_rows(score, chosen, limit=80)
    assert len(set(rows)) == 80
    assert chosen[rows].sum() >= min(selected, 64)


def test_scores_when_nothing_changed():
    made = with_column(located(), score=np.zeros(256), selected=np.zeros(256, bool))
    assert plot(made).data[1].name == "selected (0)"


def test_dose_shows_located_sets_beside_all_random_draws():
    made = verified().tables["dose"]
    figure = plot(made)
    for direction, line in zip(("necessity", "sufficiency"), traces(figure, name="located"), strict=True):
        rows = (made["direction"] == direction) & (made["source"] == "located")
        np.testing.assert_allclose(line.y, made["effect"][rows])
    rows = (made["direction"] == "necessity") & (made["source"] == "random")
    low, high, middle = figure.data[:3]
    for number, k in enumerate(low.x):
        drawn = made["effect"][rows & (made["k"] == k)]
        assert (low.y[number], middle.y[number], high.y[number]) == (drawn.min(), np.median(drawn), drawn.max())
    assert figure.layout.xaxis.type == figure.layout.xaxis2.type == "log"
    assert "all 20 matched random sets" in figure.layout.meta["caption"]


def test_dose_without_random_sets_or_one_direction():
    made = verified().tables["dose"]
    alone = made.select((made["source"] == "located") & (made["direction"] == "sufficiency"))
    figure = plot(alone)
    assert len(figure.data) == 1
    assert "No random sets" in figure.layout.meta["caption"]
    assert plot(alone.select(np.array([0]))).data[0].y.tolist() == [alone["effect"][0]]


def test_ticks():
    assert ticks(1.0, 60.0) == [1, 2, 5, 10, 20, 50]
    assert ticks(1.0, 5e4) == [1, 10, 100, 1000, 10_000]


def test_conditions_shows_each_share_with_interval_and_control():
    made = verified()
    figure = plot(made)
    for group in ("positive", "negative"):
        (bars,) = traces(figure, type="bar", name=f"{group} prompts")
        rows = made["group"] == group
        np.testing.assert_allclose(bars.y, made["refused"][rows])
        np.testing.assert_allclose(bars.y - bars.error_y.arrayminus, made["low"][rows])
        assert np.round(bars.x).tolist() == list(range(6))
    positive = made["group"] == "positive"
    for name, column in (("equal to the base's", "equal_base"), ("equal to the tuned model's", "equal_tuned")):
        (bars,) = traces(figure, type="bar", name=name)
        np.testing.assert_allclose(bars.y, made[column][positive])
    marks = traces(figure, type="scatter")
    assert [(round(trace.x[0]), *trace.y) for trace in marks] == [(4, 0.01), (5, 0.0)]
    assert [trace.showlegend for trace in marks] == [True, False]
    assert "Diamonds" in figure.layout.meta["caption"]


def test_conditions_without_base_and_without_controls():
    made, nothing = verified(), np.zeros(12)
    figure = plot(with_column(made, control=np.full(12, np.nan), equal_base=nothing, equal_tuned=nothing))
    assert [trace.type for trace in figure.data] == ["bar", "bar"]
    assert "Diamonds" not in figure.layout.meta["caption"]


def test_claims_shows_value_control_and_threshold_of_each():
    made = verified().tables["claims"]
    figure = plot(made)
    shown, not_shown, control, threshold = figure.data
    assert sorted([*shown.x, *not_shown.x]) == sorted(made["value"])
    np.testing.assert_allclose(shown.x + shown.error_x.array, made["high"][made["shown"]])
    assert control.x.tolist() == [0.01, 0.0]
    assert threshold.x.tolist() == made["threshold"].tolist()
    assert threshold.y.tolist() == list(figure.layout.yaxis.tickvals) == [2, 1, 0]
    assert figure.layout.xaxis.tickformat == ".0%"
    assert plot(with_column(made, value=[5.0, 1.0, 2.0])).layout.xaxis.tickformat is None


def test_random_sets_shows_every_draw():
    made = verified().tables["random"]
    figure = plot(made)
    assert sorted(np.concatenate([trace.x for trace in figure.data])) == sorted(made["effect"])
    assert "20 matched random sets" in figure.layout.title.text


def test_dose_shows_intervals_where_there_are_some():
    made = verified().tables["dose"]
    columns = {name: (made[name], made.column(name).role, "") for name in made.data}
    low, high = (made["effect"] - 0.1, "measure", ""), (np.full(len(made), np.nan), "measure", "")
    figure = plot(table("dose", {**columns, "low": low, "high": high}))
    line = traces(figure, name="located")[0]
    np.testing.assert_allclose(line.error_y.arrayminus, 0.1)
    np.testing.assert_allclose(line.error_y.array, 0.0)
    assert "intervals" in figure.layout.meta["caption"]
    assert "intervals" not in plot(made).layout.meta["caption"]


def test_text_from_tables_is_escaped():
    made = verified()
    names = {kind: np.array([HOSTILE[0]] * len(t), dtype=object) for kind, t in made.tables.items()}
    every = np.array([HOSTILE[1]] * len(made), dtype=object)
    figures = [
        plot(with_column(made, condition=every, group=every)),
        plot(with_column(made.tables["random"], direction=names["random"])),
        plot(with_column(made.tables["dose"], direction=names["dose"])),
        plot(with_column(made.tables["claims"], name=names["claims"])),
    ]
    for figure in figures:
        drawn = json.loads(figure.to_json())
        # The caption is for the page, which escapes it; plotly never draws it.
        del drawn["layout"]["meta"]
        shown = json.dumps(drawn)
        assert "<script" not in shown
        assert "<img" not in shown
        assert "&lt;" in shown
