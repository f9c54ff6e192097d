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


@pytest.mark.parametrize("made", [located(), verified(), verified().tables["dose"], verified().tables["random"]])
def test_every_figure_has_title_and_caption_and_is_json(made):
    figure = plot(made)
    assert figure.layout.title.text
    assert figure.layout.meta["caption"].endswith(".")
    assert json.loads(figure.to_json())["data"]


def test_kinds_without_figure_and_empty_tables_say_so():
    with pytest.raises(
        OptionError, match="no figure for tables of kind 'neuron-tokens': there are dose, locate-neurons"
    ):
        plot(located().tables["tokens"])
    for made in (located(), verified(), verified().tables["dose"], verified().tables["random"]):
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
        np.testing.assert_allclose(line.y + line.error_y.array, made["high"][rows])
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
    for group, bars in zip(("positive", "negative"), traces(figure, type="bar"), strict=True):
        rows = made["group"] == group
        np.testing.assert_allclose(bars.y, made["refused"][rows])
        np.testing.assert_allclose(bars.y - bars.error_y.arrayminus, made["low"][rows])
        assert np.round(bars.x).tolist() == list(range(6))
    marks = traces(figure, type="scatter")
    assert sum(len(trace.y) for trace in marks) == int((~np.isnan(made["control"])).sum())
    assert [trace.showlegend for trace in marks] == [True, False]
    assert not traces(plot(with_column(made, control=np.full(len(made), np.nan))), type="scatter")


def test_text_from_tables_is_escaped():
    made, random = verified(), verified().tables["random"]
    names = np.array([HOSTILE[0]] * len(made), dtype=object)
    figures = [
        plot(with_column(made, condition=names, group=names)),
        plot(with_column(random, condition=np.array([HOSTILE[1]] * len(random), dtype=object))),
    ]
    for figure in figures:
        shown = json.loads(figure.to_json())
        assert "<script" not in json.dumps(shown)
        assert "<img" not in json.dumps(shown)
        assert "&lt;" in json.dumps(shown)
