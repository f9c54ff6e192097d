"""Figures draw the values of their tables, and text from tables is escaped."""

import dataclasses
import json

import numpy as np
import plotly.graph_objects as go
import pytest

from interp.claims import Claim, Finding, mean, statistic, to_table
from interp.errors import OptionError
from interp.figures import has_figure, plot
from interp.figures.conditions import MATCHED_MODELS
from interp.figures.dose import ticks
from interp.figures.scores import LIMIT, rows_to_draw
from interp.figures.style import finish, legend_rows
from interp.table import table
from tests.tables import HOSTILE, located, verified


def traces(figure, **wanted):
    return [
        t for t in figure.data if all(getattr(t, name) == value for name, value in wanted.items())
    ]


def with_column(made, **columns):
    return dataclasses.replace(made, data={**made.data, **columns})


DRAWN = [located(), verified(), *(verified().tables[name] for name in ("dose", "random", "claims"))]


@pytest.mark.parametrize("made", DRAWN, ids=lambda made: made.kind)
def test_every_figure_has_title_and_caption_and_is_json(made):
    figure = plot(made)
    assert figure.layout.title.text
    assert figure.layout.meta["caption"].endswith(".")
    assert json.loads(figure.to_json())["data"]


def test_kinds_without_figure_and_empty_tables_are_refused():
    with pytest.raises(
        OptionError,
        match=("no figure for tables of kind 'neuron-tokens': there are audit, behaviour-change,"),
    ):
        plot(located().tables["tokens"])
    for made in DRAWN:
        assert has_figure(made.kind)
        with pytest.raises(OptionError, match="no rows"):
            plot(made.select(np.zeros(len(made), bool)))


def test_scores_shows_every_neuron_and_counts_the_selected():
    made = located()
    figure = plot(made)
    rest, chosen = figure.data[:2]
    assert sorted(np.concatenate([rest.y, chosen.y])) == sorted(made["score"])
    assert sorted(chosen.y) == sorted(made["score"][made["selected"]])
    assert np.round(chosen.x).tolist() == chosen.customdata[:, 0].tolist()
    assert (
        figure.data[2].y.tolist()
        == np.bincount(made["layer"][made["selected"]], minlength=4).tolist()
    )
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
    rows = rows_to_draw(score, selected)
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
    rows = rows_to_draw(score, chosen, limit=80)
    assert len(set(rows)) == 80
    assert chosen[rows].sum() >= min(selected, 64)


def test_scores_when_nothing_changed():
    made = with_column(located(), score=np.zeros(256), selected=np.zeros(256, bool))
    assert plot(made).data[1].name == "selected (0)"


def test_dose_draws_located_sets_and_all_random_sets():
    made = verified().tables["dose"]
    figure = plot(made)
    panels = [
        (one, name) for one in ("necessity", "sufficiency") for name in ("behaviour", "recovery")
    ]
    for (direction, name), line in zip(panels, traces(figure, name="located"), strict=True):
        rows = (made["direction"] == direction) & (made["source"] == "located")
        np.testing.assert_allclose(line.y, made[name][rows])
    rows = (made["direction"] == "necessity") & (made["source"] == "random")
    low, high, middle = figure.data[:3]
    for number, k in enumerate(low.x):
        drawn = made["behaviour"][rows & (made["k"] == k)]
        assert (low.y[number], middle.y[number], high.y[number]) == (
            drawn.min(),
            np.median(drawn),
            drawn.max(),
        )
    assert figure.layout.xaxis.type == figure.layout.xaxis2.type == "log"
    assert "all 20 matched random sets" in figure.layout.meta["caption"]


def test_dose_without_random_sets_or_one_direction():
    made = verified().tables["dose"]
    alone = made.select((made["source"] == "located") & (made["direction"] == "sufficiency"))
    figure = plot(alone)
    assert len(figure.data) == 2
    assert "No random sets" in figure.layout.meta["caption"]
    assert plot(alone.select(np.array([0]))).data[0].y.tolist() == [alone["behaviour"][0]]


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
    (marks,) = traces(figure, type="scatter")
    assert list(zip(np.round(marks.x), marks.y, strict=True)) == [(4, 0.01), (5, 0.0)]
    (bars,) = traces(figure, type="bar", name="positive prompts")
    base, tuned = (
        f"{made[name][8]:.1%} {said}, token for token" for name, said in MATCHED_MODELS.items()
    )
    assert bars.customdata[4] == f"ablate-base: 3.0% [0.0%, 7.0%] of 60<br>{base}<br>{tuned}"
    assert "Diamonds" in figure.layout.meta["caption"]


def test_conditions_find_the_column_of_the_behaviour():
    made = verified()
    names = [column.name for column in made.columns]
    columns = [
        (
            dataclasses.replace(one, name="apology", meaning="share that show apology")
            if one.name == "refused"
            else one
        )
        for one in made.columns
    ]
    data = {"apology" if name == "refused" else name: made[name] for name in names}
    labels = {
        "many": "answers that show apology",
        "column": "apology",
        "number": "log-odds of apology",
    }
    figure = plot(dataclasses.replace(made, columns=columns, data=data, summary={"labels": labels}))
    assert figure.layout.title.text == "Answers that show apology by condition"
    assert figure.layout.yaxis.title.text == "share that show apology"
    assert "refus" not in figure.to_json()


def test_conditions_without_base_and_without_controls():
    made = verified()
    figure = plot(with_column(made, control=np.full(12, np.nan)))
    assert [trace.type for trace in figure.data] == ["bar", "bar"]
    assert "Diamonds" not in figure.layout.meta["caption"]


def test_claims_shows_value_control_and_threshold_of_each():
    made = verified().tables["claims"]
    figure = plot(made)
    shown, not_shown, control, threshold = figure.data
    assert sorted([*shown.x, *not_shown.x]) == sorted(made["value"])
    np.testing.assert_allclose(shown.x + shown.error_x.array, made["high"][made["supported"]])
    assert control.x.tolist() == [0.01, 0.0]
    assert threshold.x.tolist() == made["threshold"].tolist()
    assert threshold.y.tolist() == list(figure.layout.yaxis.tickvals) == [2, 1, 0]
    assert figure.layout.xaxis.tickformat.endswith("%")
    assert shown.customdata[0] == "necessity<br>95.0% [90.0%, 99.0%]"


def test_claims_are_drawn_in_their_own_units():
    """Numbers of at most 1 are per cent only where the claim's sentence says them so."""
    named = {
        "gain": ("It is {value:+.3f} nats.", {}),
        "necessity": (
            "It refuses {now:.1%} of prompts.",
            {"now": mean("refused", table="answers")},
        ),
        "harmless": ("{value:.1%} flip.", {}),
        "moved": ("{count:d} moved.", {"count": statistic("sum", "refused", table="answers")}),
    }
    numbers = {
        "value": 0.5,
        "low": 0.4,
        "high": 0.6,
        "clusters": 40.0,
        "p": 0.01,
        "p_adjusted": 0.01,
        "draws": 99.0,
    }
    numbers |= {"control_value": 0.1, "control_low": 0.0, "control_high": 0.2}
    shared = {"estimate": mean("refused", table="answers"), "at_least": 0.3, "control": "none"}
    findings = [
        Finding(
            Claim(name=name, text=text, also=also, **shared),
            **numbers,
            verdict="supported",
            reason="",
            sentence="",
        )
        for name, (text, also) in named.items()
    ]
    figure = plot(to_table(findings))
    axes = [
        (figure.layout[f"yaxis{n}"].ticktext, figure.layout[f"xaxis{n}"].tickformat)
        for n in ("", 2, 3)
    ]
    assert axes == [(("gain",), None), (("necessity", "harmless"), ".2~%"), (("moved",), None)]
    supported = traces(figure, name="supported")
    assert [trace.customdata.tolist() for trace in supported] == [
        ["gain<br>+0.500 [+0.400, +0.600]"],
        ["necessity<br>50.0% [40.0%, 60.0%]", "harmless<br>50.0% [40.0%, 60.0%]"],
        ["moved<br>0.5 [0.4, 0.6]"],
    ]
    assert [trace.showlegend for trace in supported] == [True, False, False]


def test_random_sets_shows_every_draw():
    made = verified().tables["random"]
    figure = plot(made)
    assert sorted(np.concatenate([trace.x for trace in figure.data])) == sorted(made["recovery"])
    assert "20 matched random sets" in figure.layout.title.text


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


DIFF = {
    "crosscoder": {
        "nu_error": [0.0, 1.0, 9.0, np.nan],
        "nu_reconstruction": [0.1, 1.0, 1.0, np.nan],
        "ratio": [5.0, 1.0, 1.0, np.nan],
    },
    "difference": {
        "base_part": [0.0, 0.7, -0.5, np.nan],
        "base_part_low": [-0.1, 0.6, -0.9, np.nan],
        "base_part_high": [0.1, 0.9, 0.1, np.nan],
    },
    "tuned": {
        "kept": [0.0, 1.0, 0.6, np.nan],
        "kept_low": [-0.1, 0.9, 0.3, np.nan],
        "kept_high": [0.1, 1.2, 1.4, np.nan],
    },
}


def differences(way, classes=("tuned-only", "shared", "unclear", "silent"), repeat=1):
    """Latents of four classes, one of each or more."""
    count = len(classes) * repeat
    columns = {
        "latent": (np.arange(count), "key", "number"),
        "class": (list(classes) * repeat, "text", "class"),
        "claimed": (np.array([kind != "unclear" for kind in classes] * repeat), "flag", "claimed"),
        "rate": (np.full(count, 0.01), "measure", "rate"),
        **{
            name: (np.tile(np.array(values), repeat), "measure", name)
            for name, values in DIFF[way].items()
        },
    }
    return table(
        "sae-diff",
        columns,
        summary={"way": way, "thresholds": {"error": 0.2, "reconstruction": 0.5}},
    )


@pytest.mark.parametrize("way", DIFF)
def test_latents_are_drawn_by_class_with_their_thresholds(way):
    figure = plot(differences(way))
    assert [trace.name for trace in figure.data] == ["tuned-only (1)", "shared (1)", "unclear (1)"]
    value = DIFF[way]["nu_error" if way == "crosscoder" else next(iter(DIFF[way]))]
    for trace, expected in zip(figure.data, value, strict=False):
        assert (trace.x if way == "crosscoder" else trace.y).tolist() == [expected]
    lines = {tuple(sorted((shape.y0, shape.y1))) for shape in figure.layout.shapes}
    if way == "crosscoder":
        (box,) = figure.layout.shapes
        assert (box.x0, box.x1, box.y0, box.y1) == (-0.2, 0.2, -0.5, 0.5)
        assert "1 are outside" in figure.layout.meta["caption"]
    else:
        assert {(0.2, 0.2), (-0.2, -0.2)} <= lines
        assert ((-0.8, -0.8) in lines) == (way == "difference")
        bars = figure.data[0].error_y
        assert (bars.array[0], bars.arrayminus[0]) == pytest.approx((0.1, 0.1))
    assert figure.layout.title.text.endswith("3 of 4 latents shown")
    assert figure.layout.meta["caption"].endswith(".")


def test_many_latents_are_capped_and_claims_of_one_model_are_kept():
    figure = plot(differences("tuned", repeat=4000))
    drawn = {trace.name: len(trace.x) for trace in figure.data}
    assert drawn["tuned-only (4,000)"] == 4000
    assert sum(drawn.values()) == LIMIT
    assert figure.layout.title.text.endswith("5,000 of 16,000 latents shown")


def test_dictionaries_are_drawn_with_their_baselines():
    names, parts = ["dictionary", "pca", "random"], ["all", "<b>content"]
    keys = [(name, part) for name in names for part in parts]
    made = table(
        "sae-eval",
        {
            "dictionary": ([name for name, _ in keys], "key", "what"),
            "part": ([part for _, part in keys], "key", "which"),
            "explained_variance": (np.linspace(0.9, -0.2, 6), "measure", "explained"),
            "l0": (np.full(6, 8.0), "measure", "l0"),
            "tokens": (np.full(6, 10), "measure", "tokens"),
        },
    )
    figure = plot(made)
    assert [trace.name for trace in figure.data] == names
    assert (
        np.concatenate([trace.y for trace in figure.data]).tolist()
        == made["explained_variance"].tolist()
    )
    assert figure.data[0].x == ("all", "&lt;b&gt;content")
    assert figure.layout.yaxis.range[0] < -0.2
    density = table(
        "sae-eval-density",
        {
            "dictionary": (["dictionary"] * 3, "key", "what"),
            "latents": (np.array([3, 2, 1]), "measure", "how many"),
            "low": (np.array([-np.inf, -np.inf, -1.0]), "measure", "from"),
            "high": (np.array([-np.inf, -7.0, 0.0]), "measure", "to"),
        },
    )
    (bars,) = plot(density).data
    assert (bars.x, bars.y.tolist()) == (("never", "below -7", "-1 to 0"), [3, 2, 1])
    recovered = table(
        "sae-eval-recovered",
        {
            "dictionary": (["dictionary", "dictionary"], "key", "what"),
            "cost": (["ce", "kl"], "key", "cost"),
            "ablation": (["mean", "mean"], "key", "over"),
            "recovered": (np.array([np.nan, 0.8]), "measure", "share"),
        },
    )
    (bars,) = plot(recovered).data
    assert (bars.x, bars.y.tolist()) == (("divergence, over mean",), [0.8])
    counted = table(
        "sae-diff-classes",
        {
            "pair": (["this pair", "control"], "key", "pair"),
            "class": (["tuned-only"] * 2, "key", "class"),
            "latents": (np.array([9, 1]), "measure", "all"),
            "claimed": (np.array([8, 1]), "measure", "claimed"),
            "live": (np.array([80, 0]), "measure", "live"),
        },
    )
    own, control = plot(counted).data
    assert (own.y.tolist(), control.y.tolist(), own.text) == ([0.1], [1.0], ("8",))
    for one in (figure, *(plot(made) for made in (density, recovered, counted))):
        assert one.layout.title.text
        assert one.layout.meta["caption"].endswith(".")
        json.loads(one.to_json())


@pytest.mark.parametrize(
    ("names", "rows"),
    [([], 0), (["a", "b"], 1), (["n" * 30] * 3, 1), ([f"{i}" * 40 for i in range(6)], 3)],
)
def test_a_legend_of_several_rows_gets_room_below_the_title(names, rows):
    figure = go.Figure([go.Scatter(x=[1], y=[1], name=name) for name in names])
    assert legend_rows(figure) == rows
    finish(figure, "title", "caption.", height=400)
    assert figure.layout.margin.t >= 42 + 21 * rows
    assert figure.layout.height - figure.layout.margin.t == 400 - 64, (
        "the plot itself stays as high"
    )
    assert legend_rows(figure.update_layout(showlegend=False)) == 0
