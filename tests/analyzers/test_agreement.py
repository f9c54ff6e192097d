"""Agreement of methods over places: what is planted is found, what is not is silent, and scipy says
the same.
"""

import json

import numpy as np
import pytest
from scipy.stats import spearmanr

from interp import claims
from interp.agreement import Agreement, Runs
from interp.agreement.comparison import _null_correlations
from interp.cli import main
from interp.errors import OptionError
from interp.figures import plot
from interp.maths.statistics import rank_correlation
from interp.provenance import Provenance
from interp.provenance.request import recorded_request
from interp.sites import MATRICES
from interp.store import Store
from interp.table import table
from tests.documented import require_described

LAYERS, PARTS = 12, tuple(MATRICES)
DIGESTS = {"base": "11" * 32, "tuned": "22" * 32}


def made(kind, number=0, **inputs):
    return Provenance(
        kind, 1, {"number": number}, None, {**DIGESTS, **inputs}, {"base": "a", "tuned": "b"}
    )


def cells():
    return np.repeat(np.arange(LAYERS), len(PARTS)), list(PARTS) * LAYERS


def movement(values, **inputs):
    """A compare run whose matrices moved by these relative norms [layers, parts]."""
    layer, part = cells()
    norm = np.linspace(1, 3, layer.size)
    weights = table(
        "compare-weights",
        {
            "layer": (layer, "key", "block"),
            "part": (part, "key", "matrix"),
            "norm": (norm, "measure", "norm"),
            "change": (norm * np.ravel(values), "measure", "norm"),
        },
    )
    column = {"prompt_id": ([0], "key", "prompt")}
    return table(
        "compare", column, provenance=made("compare", **inputs), tables={"weights": weights}
    )


def grafted(values, number=0):
    """A graft run whose learned mask has these densities, in matrices of unlike sizes."""
    layer, part = cells()
    size = np.array([4000 * (1 + PARTS.index(name)) for name in part])
    columns = {
        "kind": (["learned"] * layer.size, "key", "mask"),
        "layer": (layer, "key", "block"),
        "part": (part, "key", "matrix"),
        "kept": (np.round(size * np.ravel(values)).astype(int), "measure", "weights"),
        "size": (size, "measure", "weights"),
    }
    random = {name: (values, *rest) for name, (values, *rest) in columns.items()} | {
        "kind": (["random"] * layer.size, "key", "mask")
    }
    both = {
        name: (np.concatenate([columns[name][0], random[name][0]]).tolist(), *columns[name][1:])
        for name in columns
    }
    rows = {"kind": (["learned"], "key", "mask")}
    return table(
        "graft",
        rows,
        provenance=made("graft", number),
        tables={"layers": table("graft-layers", both)},
    )


def intruders(values):
    """An intruders run with this many intruders of ten vectors."""
    layer, part = cells()
    counts = np.ravel(values).astype(int)
    columns = {
        "layer": (np.repeat(layer, 10), "key", "block"),
        "part": (list(np.repeat(part, 10)), "key", "matrix"),
        "is_intruder": ((np.arange(10) < counts[:, None]).ravel(), "flag", "whether"),
    }
    return table("intruders", columns, provenance=made("intruders"))


def located(by_layer):
    """A locate-neurons run whose scores are of these sizes, of either sign."""
    sign = np.tile([1.0, -1.0], 5)
    columns = {
        "layer": (np.repeat(np.arange(LAYERS), 10), "key", "block"),
        "score": ((np.asarray(by_layer)[:, None] * sign).ravel(), "measure", "score"),
    }
    return table(
        "locate-neurons", columns, provenance=made("locate-neurons"), summary={"unit": "neuron"}
    )


def heads(scores, number=0):
    """A locate-neurons run over heads, ``[layers, heads]``."""
    layer, head = np.indices(scores.shape).reshape(2, -1)
    columns = {
        "layer": (layer, "key", "block"),
        "head": (head, "key", "head"),
        "score": (np.ravel(scores), "measure", "score"),
    }
    summary = {"unit": "head"}
    return table(
        "locate-neurons", columns, provenance=made("locate-neurons", number), summary=summary
    )


def split(by_layer):
    """A TuCo run whose tuned parts are of these sizes."""
    rows = {
        "layer": (np.tile(np.arange(LAYERS), 2), "key", "block"),
        "tuned_size": (np.concatenate([by_layer, by_layer]), "measure", "norm"),
        "base_size": (np.ones(2 * LAYERS), "measure", "norm"),
    }
    layers = table("tuco-layers", rows)
    return table(
        "tuco",
        {"tuco": ([0.5], "measure", "TuCo")},
        provenance=made("tuco"),
        tables={"layers": layers},
    )


def agreed(*tables, draws=199, seed=0):
    made = Agreement(draws)(runs := Runs(tables, seed))
    require_described(made)
    return made, runs


def pair_of(found, *names):
    return next(
        row
        for row in found.tables["agreement"].rows()
        if {row["first"], row["second"]} == set(names)
    )


def verdict(found, *names):
    return next(
        c for c in claims.from_table(found.tables["claims"]) if set(c.name.split("-")) == set(names)
    )


@pytest.fixture
def generator():
    return np.random.default_rng(5)


def test_planted_agreement_is_shown_over_matrices_and_scipy_finds_the_same(generator):
    depth = np.linspace(0.02, 0.4, LAYERS)[:, None] * np.ones(len(PARTS))
    noise = generator.uniform(0.9, 1.1, (2, LAYERS, len(PARTS)))
    found, _ = agreed(movement(depth * noise[0]), grafted(depth * noise[1]))
    row, claim = pair_of(found, "graft", "movement"), verdict(found, "graft", "movement")
    assert (row["level"], row["places"]) == ("matrix", LAYERS * len(PARTS))
    assert claim.supported
    # intensities are squared norms by squared norms, and weights by weights rounded to whole ones
    assert row["correlation"] == pytest.approx(
        spearmanr((depth * noise[0]).ravel(), (depth * noise[1]).ravel())[0], abs=0.01
    )
    assert row["correlation"] > 0.9
    assert abs(row["chance"]) < 0.1


def test_kinds_of_matrices_that_differ_are_no_agreement_on_depth(generator):
    """Both put ten times as much into some parts as into others and otherwise know nothing of each
    other.
    """
    by_part = np.geomspace(0.01, 0.3, len(PARTS))
    one, other = (by_part * generator.uniform(0.7, 1.3, (LAYERS, len(PARTS))) for _ in range(2))
    found, _ = agreed(movement(one), grafted(other))
    row = pair_of(found, "graft", "movement")
    assert row["correlation"] > 0.8
    assert row["chance"] > 0.8
    assert not verdict(found, "graft", "movement").supported


def test_silence_at_the_nominal_rate(generator):
    shown = 0
    for number in range(60):
        one, other = generator.uniform(0.01, 0.4, (2, LAYERS, len(PARTS)))
        found, _ = agreed(movement(one), grafted(other), draws=39, seed=number)
        shown += verdict(found, "graft", "movement").supported
    # of 60 at 5 %: more than 8 has a chance of 0.4 %
    assert shown <= 8


def test_what_movement_explains_is_taken_out(generator):
    """Two methods that each follow movement, and nothing else of each other."""
    rows = []
    for seed in range(16):
        depth = generator.permutation(np.linspace(0.1, 1, LAYERS))
        follow, too = (depth * generator.uniform(0.8, 1.25, LAYERS) for _ in range(2))
        moved = movement(depth[:, None] * np.ones(len(PARTS)))
        found, _ = agreed(located(follow), split(too), moved, draws=19, seed=seed)
        rows.append(pair_of(found, "neurons", "tuco"))
        ranks = np.argsort(np.argsort([follow, too, depth], axis=1), axis=1)
        inverse = np.linalg.inv(np.corrcoef(ranks))
        partial = -inverse[0, 1] / np.sqrt(inverse[0, 0] * inverse[1, 1])
        assert rows[-1]["beyond_movement"] == pytest.approx(partial, abs=1e-9)
    assert np.mean([row["correlation"] for row in rows]) > 0.8
    # 16 partial correlations over 12 places with a spread of about 0.33 each
    assert abs(np.mean([row["beyond_movement"] for row in rows])) < 0.28
    own = found.tables["agreement"]
    assert np.isnan(own["beyond_movement"][own["second"] == "movement"]).all()


def test_heads_are_compared_one_by_one_and_chance_is_any_head(generator):
    scores = generator.normal(size=(LAYERS, 4))
    other = scores + generator.normal(size=scores.shape) / 2
    found, _ = agreed(heads(scores), heads(-other, 1))
    (row,) = found.tables["agreement"].rows()
    assert (row["level"], row["places"]) == ("head", 4 * LAYERS)
    expected = spearmanr(np.abs(scores).ravel(), np.abs(other).ravel()).statistic
    assert row["correlation"] == pytest.approx(expected)
    (finding,) = claims.from_table(found.tables["claims"])
    assert finding.supported
    assert finding.control == "intensities permuted among all heads"
    # one strong head of each block: chance is not the same head of another block
    strong = np.tile([[1.0, 0.0, 0.0, 0.0]], (LAYERS, 1)) + generator.normal(size=(LAYERS, 4)) / 99
    p = agreed(heads(strong), heads(strong[::-1], 1))[0].tables["agreement"]["p"]
    assert p < 0.05
    silent = [
        agreed(heads(generator.normal(size=(LAYERS, 4))), heads(scores, 1), draws=19)[0]
        for _ in range(60)
    ]
    # binomial(60, 0.05): at most 7 in 98 %
    assert sum(bool(one.tables["agreement"]["p"] <= 0.05) for one in silent) <= 7


@pytest.mark.parametrize(
    ("tables", "level", "places"),
    [
        (
            (
                heads(np.arange(4.0 * LAYERS).reshape(LAYERS, 4)),
                grafted(np.full((LAYERS, len(PARTS)), 0.1)),
            ),
            "sublayer",
            LAYERS,
        ),
        (
            (located(np.arange(1.0, 13)), grafted(np.full((LAYERS, len(PARTS)), 0.1))),
            "sublayer",
            LAYERS,
        ),
        ((split(np.arange(1.0, 13)), grafted(np.full((LAYERS, len(PARTS)), 0.1))), "block", LAYERS),
        (
            (intruders(np.eye(LAYERS, len(PARTS))), grafted(np.full((LAYERS, len(PARTS)), 0.1))),
            "matrix",
            84,
        ),
    ],
)
def test_places_are_the_finest_that_both_know(tables, level, places):
    found, _ = agreed(*tables)
    (row,) = found.tables["agreement"].rows()
    assert (row["level"], row["places"]) == (level, places)


def test_what_finds_nothing_is_named_and_compared_with_nobody():
    found, _ = agreed(intruders(np.zeros((LAYERS, len(PARTS)))), grafted(np.linspace(0, 0.3, 84)))
    assert found.summary["silent"] == ["intruders"]
    claim = verdict(found, "intruders", "graft")
    assert np.isnan(claim.value)
    assert not claim.supported
    assert "intruders is constant over the places" in claim.sentence


def test_order_of_runs_and_of_rows_change_nothing(generator):
    values = generator.uniform(0.01, 0.4, (2, LAYERS, len(PARTS)))
    one, _ = agreed(movement(values[0]), grafted(values[1]), split(np.arange(1.0, 13)))
    other, _ = agreed(split(np.arange(1.0, 13)), grafted(values[1]), movement(values[0]))
    assert one.provenance.key == other.provenance.key
    assert [*one.rows()] == [*other.rows()]
    assert [*one.tables["null"].rows()] == [*other.tables["null"].rows()]


def test_shares_add_up_and_every_claim_is_measured_again(generator):
    values = generator.uniform(0.01, 0.4, (2, LAYERS, len(PARTS)))
    found, _ = agreed(
        movement(values[0]),
        grafted(values[1], 1),
        grafted(values[0], 2),
        located(np.arange(1.0, 13)),
    )
    for name in dict.fromkeys(found["method"].tolist()):
        assert found["share"][found["method"] == name].sum() == pytest.approx(1)
    assert sum(name.startswith("graft ") for name in found.summary["methods"]) == 2
    for claim in claims.from_table(found.tables["claims"]):
        claims.check(claim, found)
    for part in (found, found.tables["agreement"]):
        assert plot(part).data


@pytest.mark.parametrize(
    ("tables", "said"),
    [
        ((movement(np.ones((12, 7))),), "at least two runs"),
        ((movement(np.ones((12, 7))), movement(np.ones((12, 7)))), "at least two runs"),
        (
            (movement(np.ones((12, 7))), movement(np.ones((12, 7)), tuned="33" * 32)),
            r"different models \(tuned\)",
        ),
        (
            (
                movement(np.ones((12, 7))),
                table("dose", {"k": ([1], "key", "k")}, provenance=made("dose")),
            ),
            "kind dose",
        ),
    ],
)
def test_runs_that_cannot_be_laid_over_each_other_are_refused(tables, said):
    with pytest.raises(OptionError, match=said):
        Runs(tables)


def test_the_command_keeps_places_that_sql_reads(run, only_line, tmp_path, generator):
    store = Store(tmp_path / "store")
    values = generator.uniform(0.01, 0.4, (2, LAYERS, len(PARTS)))
    keys = [store.write(one).name for one in (movement(values[0]), grafted(values[1]))]
    code, out, _ = run("agree", *keys, "--store", store.root, "--json")
    answer = json.loads(out)
    assert code == 0
    assert not answer["cached"]
    assert answer["rows"] == 2 * 84
    assert (store.path(answer["run"]) / "page.html").is_file()
    again = json.loads(run("agree", keys[1][:8], keys[0], "--store", store.root, "--json")[1])
    assert (again["run"], again["cached"]) == (answer["run"], True)
    query = "select method, sum(share) as whole from places group by method order by method"
    rows = json.loads(run("sql", query, "--store", store.root, "--json")[1])["data"]
    assert [row["method"] for row in rows] == ["graft", "movement"]
    code, _, err = run("agree", keys[0], "nothing", "--store", store.root)
    assert code == 2
    assert "nothing" in only_line(err)
    code, _, err = run("agree", keys[0], "--store", store.root)
    assert (code, "two runs" in only_line(err)) == (2, True)


@pytest.mark.slow
def test_ties_with_the_observed_order_count_in_the_null():
    """Few places: many dealt-out orders agree exactly as well, and none of them may be lost to
    rounding.
    """
    generator = np.random.default_rng(3)
    for blocks, parts in ((2, 3), (3, 2), (4, 2), (5, 1)):
        places = [(layer, f"part {part}") for layer in range(blocks) for part in range(parts)]
        for _ in range(5):
            a, b = (generator.permutation(len(places)).astype(float) for _ in range(2))
            null = _null_correlations(a, b, places, np.random.default_rng(0), 200)
            observed = rank_correlation(a, b)
            tied = np.isclose(null, observed, rtol=0, atol=1e-9)
            assert np.array_equal(null[tied], np.full(tied.sum(), observed))
            assert observed == pytest.approx(spearmanr(a, b)[0], abs=1e-12)


def latents(layer, changed, live=40, site="hook_resid_post", number=0):
    """An ``sae diff`` run of one site, of whose live latents the first ``changed`` are claimed as
    rescaled.
    """
    kinds = ["rescaled"] * changed + ["shared"] * (live - changed) + ["rescaled"]
    columns = {
        "latent": (np.arange(live + 1), "key", "latent"),
        "class": (kinds, "key", "class"),
        "claimed": ([True] * live + [False], "flag", "claimed"),
    }
    summary = {"site": f"blocks.{layer}.{site}", "live": live}
    return table(
        "sae-diff",
        columns,
        provenance=made("sae-diff", 100 * number + layer),
        summary=summary,
    )


def test_pooled_runs_alone_are_rejected():
    with pytest.raises(OptionError, match="are of interp sae diff, which are pooled"):
        Runs([latents(2, 8), latents(3, 8, number=1)])


def test_dictionaries_of_one_pair_are_one_method_over_their_sites():
    profile = np.linspace(0.01, 0.3, LAYERS)[::-1]
    runs = [latents(layer, int(40 * share)) for layer, share in enumerate(profile)]
    found = Agreement()(Runs([*runs, movement(np.repeat(profile, len(PARTS)))]))
    mine = found.select(found["method"] == "features")
    by_layer = dict(zip(mine["layer"].tolist(), mine["intensity"].tolist(), strict=True))
    assert by_layer == {layer: int(40 * share) / 40 for layer, share in enumerate(profile)}
    assert set(mine["part"].tolist()) == {"block"}
    assert len(mine["made_by"][0].split()) == LAYERS
    (row,) = [
        row
        for row in found.tables["agreement"].rows()
        if "features" in (row["first"], row["second"])
    ]
    assert (row["level"], row["places"]) == ("block", LAYERS)
    assert row["correlation"] > 0.95
    assert row["adjusted_p"] <= 0.05
    other = Agreement()(
        Runs([*runs, movement(np.repeat(np.sin(np.arange(LAYERS) * 2.4) + 1.5, len(PARTS)))])
    )
    assert other.tables["agreement"]["adjusted_p"][0] > 0.05


@pytest.mark.parametrize(
    ("site", "part"),
    [("hook_mlp_out", "mlp"), ("hook_attn_out", "attention"), ("attn.hook_z", "attention")],
)
def test_a_dictionary_stands_where_its_site_is(site, part):
    found = Agreement()(Runs([latents(2, 8, site=site), movement(np.ones((LAYERS, len(PARTS))))]))
    mine = found.select(found["method"] == "features")
    assert [(row["layer"], row["part"], row["intensity"]) for row in mine.rows()] == [
        (2, part, 0.2)
    ]


def test_a_report_keeps_agreement_as_the_command_that_makes_it_alone(tmp_path):
    from interp.report.document import gather

    profile = np.linspace(0.01, 0.3, LAYERS * len(PARTS)).reshape(LAYERS, len(PARTS))
    store, runs = Store(tmp_path / "runs"), [grafted(profile), movement(profile)]
    for run in runs:
        store.write(run)
    keys = [run.provenance.key for run in runs]
    kept, (agreement,) = gather(keys, store, draws=99)
    assert [run.key for run in kept] == keys
    request = recorded_request(agreement.manifest.provenance.context)
    assert request.words() == ["agree", *keys, "--draws", "99"]
    here = request.with_options({"--store": str(tmp_path / "runs"), "--json": True})
    assert main(here.unambiguous_words()) == 0
    again, _ = gather([*keys, agreement.key], store, draws=99)
    assert [run.key for run in again] == keys, "an agreement among the keys is not listed twice"
