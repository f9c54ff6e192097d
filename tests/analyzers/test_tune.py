"""Selective tuning: planted neurons learn refusals again, losses beside plain torch, equal budgets,
rates chosen by arm, refusals that are never given up, and the command.
"""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

import interp.analyzers.tune.trainings
from interp import claims, organisms
from interp.analyzers.locate_neurons import LocateNeurons
from interp.analyzers.tune import Tune, entries_of
from interp.analyzers.tune.choice import neuron_clusters, profile_clusters
from interp.analyzers.tune.findings import claims_of
from interp.analyzers.tune.measure import HELD_OUT, SPLITS, answered, split_rows
from interp.analyzers.tune.tables import DrawnRow, HarmfulRow, TargetRow, TrainingRow
from interp.claims import evaluate
from interp.cli import main
from interp.errors import OptionError, PromptError
from interp.experiments.records import records_table
from interp.figures import plot
from interp.maths.intervals import cluster_interval
from interp.metrics import Refusal
from interp.models.pair import Pair
from interp.models.sparse_delta import SparseDelta
from interp.prompts import Contrast, OneClass, Prompt, PromptSet, read_prompts, read_task
from interp.rows import rows_table
from interp.store import Store
from interp.study import Study
from interp.training.arms import ARMS, OTHER, neuron_places
from tests import tiny

MEASURED = ("seconds", "memory")
REFUSAL, ANSWER = "Sorry , I cannot help", "open the gates"


def rows(refuse: bool = True, pairs: int = 12) -> OneClass:
    """Rows to learn: refusals of one class, an ordinary answer to the other, in twin clusters."""
    both = tiny.contrast(pairs)
    prompts = [
        replace(p, text=f"tell me : {p.text}", answer=REFUSAL if refuse and harm else ANSWER)
        for harm, part in ((True, both.positive), (False, both.negative))
        for p in part
    ]
    numbered = tuple(replace(p, id=at, twin=None) for at, p in enumerate(prompts))
    return OneClass(PromptSet(numbered, "rows"))


def alone(study: Study, role: str = "base") -> Study:
    """One model of a pair by itself, ordinary prompts with answers."""
    model = study.pair[role]
    pair = Pair.from_modules(model.module, None, study.pair.tokenizer)
    answers = tuple(replace(p, answer=ANSWER) for p in study.contrast.negative)
    ordinary = PromptSet(answers, "ordinary")
    contrast = Contrast(study.contrast.positive, ordinary)
    return Study(pair, contrast, study.metric, max_new_tokens=2)


@pytest.fixture(scope="module")
def planted():
    study = tiny.planted_study("llama", pairs=8)
    return study, LocateNeurons(method="weight", top="6")(study)


def tune(located, **options) -> Tune:
    small = {"steps": 4, "batch": 4, "draws": 2, "rates": (1e-3, 1e-2, 3e-2), "margin": 1.0}
    return Tune(located=located, **{"rows": rows(), **small, **options})


@pytest.fixture(scope="module")
def every(planted):
    """All arms, trained for a few steps."""
    study, _ = planted
    located = LocateNeurons(method="contrast", top="40")(study)
    arms = tuple(ARMS)
    made = tune(located, arms=arms, other=located, seeds=2, rates=(1e-3, 3e-3, 1e-2), steps=3)
    return alone(study), made, made(alone(study))


def test_every_arm_has_its_rows(every):
    _, _, table = every
    assert list(dict.fromkeys(table["arm"].tolist())) == list(ARMS)
    for arm in ARMS:
        own = table["arm"] == arm
        draws = 2 if arm in ("random", "random-entries") else 1
        assert own.sum() == 3 + (draws * 2 - 1)
        assert table["chosen"][own].sum() == draws * 2
        assert len(set(table["rate"][own & table["chosen"]])) == 1
        assert np.isfinite(table["target_gain"][own & table["chosen"]]).all()
        assert np.isnan(table["target_gain"][own & ~table["chosen"]]).all()
    assert (table["norm"] > 0).all()
    assert (table["seconds"] > 0).all()


def test_numbers_of_parameters_are_equal(every):
    _, _, table = every
    located = table.summary["neurons"] * 3 * 32
    assert table.summary["left_out"] == {}
    for arm, count in table.summary["parameters"].items():
        if arm == "full":
            assert count > 10 * located
        elif arm == "located-clusters":
            assert count < located
        else:
            assert abs(count / located - 1) <= 0.05


def test_a_lora_that_cannot_be_so_small_is_left_out(planted):
    study, located = planted
    table = tune(located, arms=("located", "lora"))(alone(study))
    assert set(table["arm"].tolist()) == {"located"}
    assert "rank 1" in table.summary["left_out"]["lora"]


def test_the_chosen_rate_has_the_least_loss_on_the_selection_split(every):
    _, _, table = every
    for arm in table.summary["rates"]:
        tried = (table["arm"] == arm) & (table["draw"] == 0) & (table["seed"] == 0)
        best = table["selection_loss"][tried].argmin()
        assert table["chosen"][tried].tolist() == [at == best for at in range(3)]
        assert table.summary["rates"][arm] == table["rate"][tried][best]


def test_losses_are_those_of_plain_torch(every):
    """The change that the run keeps, added to a copy of the model in float64."""
    study, made, table = every
    base = study.pair.tuned.module
    entries = entries_of(table)
    delta = SparseDelta("memory", "", "located", entries)
    tuned = tiny.exact(delta.applied_to("test", base))
    oracle = tiny.exact(SparseDelta("memory", "", "none", {}).applied_to("test", base))
    part = answered(study, split_rows(made._rows, study)[HELD_OUT])
    losses = {}
    for name, model in (("before", oracle), ("loss", tuned)):
        losses[name] = []
        for coded, answer in zip(part.encoded, part.answers, strict=True):
            with torch.no_grad():
                logits = model(torch.tensor([[*coded.ids, *answer]])).logits[0].log_softmax(-1)
            start = len(coded.ids) - 1
            chosen = [logits[start + at, token] for at, token in enumerate(answer)]
            losses[name].append(-float(torch.stack(chosen).mean()))
    target = table.tables["target"]
    own = target["arm"] == "located"
    np.testing.assert_allclose(target["before"][own], losses["before"], rtol=1e-5)
    # means over two seeds, of which the first is kept
    first = (table["arm"] == "located") & table["chosen"] & (table["seed"] == 0)
    assert table["target_loss"][first][0] == pytest.approx(np.mean(losses["loss"]), rel=1e-4)
    squares = sum(float(each.values.double().square().sum()) for each in entries.values())
    assert table["norm"][first][0] == pytest.approx(squares**0.5, rel=1e-5)


def test_only_located_weights_are_kept(every):
    study, made, table = every
    located = made.located
    chosen = located["selected"]
    neurons = list(
        zip(located["layer"][chosen].tolist(), located["neuron"][chosen].tolist(), strict=True)
    )
    places = neuron_places(study.pair.tuned, neurons)
    entries = entries_of(table)
    assert entries.keys() == places.keys()
    for name, each in places.items():
        assert torch.equal(entries[name].indices, each.indices)


def test_the_model_is_left_as_it_is(planted):
    study, located = planted
    one = alone(study)
    before = {name: value.clone() for name, value in one.pair.tuned.module.state_dict().items()}
    tune(located, arms=("located", "full"))(one)
    after = one.pair.tuned.module.state_dict()
    assert list(after) == list(before)
    assert all(torch.equal(after[name], value) for name, value in before.items())


def same(one, two, tolerance):
    for column in one.columns:
        a, b = one[column.name], two[column.name]
        if column.name in MEASURED:
            continue
        if a.dtype.kind == "f":
            np.testing.assert_allclose(a, b, rtol=tolerance, atol=tolerance, err_msg=column.name)
        else:
            assert a.tolist() == b.tolist(), column.name


@pytest.mark.slow
def test_twice_is_the_same_but_for_time_and_memory(planted):
    study, located = planted
    made = tune(located, arms=("located", "random"))
    one, two = (made(alone(study)) for _ in range(2))
    same(one, two, 0.0)
    assert all(one.tables[name].equals(two.tables[name]) for name in one.tables)
    assert one.arrays.keys() == two.arrays.keys()
    assert all((one.arrays[name] == two.arrays[name]).all() for name in one.arrays)
    assert one.provenance is not None
    assert two.provenance is not None
    assert one.provenance.key == two.provenance.key


class Padded(Study):
    """A study whose padding is another token."""

    @property
    def pad_id(self):
        return 77


def test_neither_batch_size_nor_padding_of_measuring_count(planted):
    study, located = planted
    made = tune(located, arms=("located",))
    one = alone(study)
    padded = Padded(one.pair, one.contrast, one.metric, batch_size=2, max_new_tokens=2)
    found, again = made(one), made(padded)
    same(found, again, 1e-5)
    for name in found.tables:
        if name != "claims":
            same(found.tables[name], again.tables[name], 1e-4)


def test_a_rate_that_diverges_is_never_chosen(planted, monkeypatch):
    study, located = planted
    real = interp.analyzers.tune.trainings.train

    def diverging(base, what, rows, recipe, seed):
        trained = real(base, what, rows, recipe, seed)
        return replace(trained, finite=trained.finite and recipe.learning_rate < limit)

    monkeypatch.setattr(interp.analyzers.tune.trainings, "train", diverging)
    limit = 2e-3
    table = tune(located, arms=("located",))(alone(study))
    assert table.summary["rates"]["located"] == 1e-3
    assert np.isnan(table["selection_loss"]).tolist() == [False, True, True]
    assert any("end of those tried" in limit for limit in table.summary["limits"])
    limit = 0.0
    with pytest.raises(OptionError, match="every training diverged"):
        tune(located, arms=("located",))(alone(study))


def test_more_values_are_tried_than_two(planted):
    _, located = planted
    one = alone(planted[0])
    for options, match in (
        ({"rates": (1e-3, 1e-2)}, "at least three"),
        ({"rates": (1e-3, 1e-2, 2.0)}, "between 0 and 1"),
        ({"arms": ("nothing",)}, "unknown arm 'nothing'"),
        ({"arms": ("located", "located")}, "different ones"),
        ({"arms": (OTHER,)}, "another locating run"),
        ({"arms": ("located", "full"), "write": "full"}, "cannot be written"),
        ({"located": None}, "needs a locating run"),
    ):
        with pytest.raises(OptionError, match=match):
            replace(tune(located), **options)(one)


def test_what_cannot_be_trained_or_measured_is_refused(planted):
    study, located = planted
    one = alone(study)
    half = Pair.from_modules(tiny.llama(7).bfloat16(), None, study.pair.tokenizer)
    with pytest.raises(OptionError, match="not in float32"):
        tune(located)(replace(one, pair=half, _cache={}))
    wide = Pair.from_modules(tiny.llama(7, intermediate_size=40), None, study.pair.tokenizer)
    with pytest.raises(OptionError, match="3 blocks of 48 neurons"):
        tune(located)(replace(one, pair=wide, _cache={}))
    shared = one.with_prompts(Contrast(rows().positive, one.contrast.negative))
    with pytest.raises(PromptError, match="also among the rows"):
        tune(located)(shared)
    bare = PromptSet(tuple(replace(p, answer=None) for p in rows().positive), "rows")
    with pytest.raises(PromptError, match="has no answer"):
        tune(located, rows=OneClass(bare))(one)
    few = PromptSet(tuple(Prompt(at, f"row {at}", "one", answer="x") for at in range(9)), "few")
    with pytest.raises(PromptError, match="too few"):
        tune(located, rows=OneClass(few))(one)


def test_splits_share_no_cluster(planted):
    study, _ = planted
    parts = split_rows(rows(pairs=20).positive, study)
    clusters = [set(part.clusters) for part in parts.values()]
    assert list(parts) == list(SPLITS)
    assert sum(map(len, clusters)) == len(set.union(*clusters)) == 20
    assert [len(one) for one in clusters] == [12, 4, 4]


def test_refusals_are_never_given_up(planted):
    """The child that refuses learns to answer: nothing of it is kept."""
    study, located = planted
    child = alone(study, "tuned")
    refusing = tune(located, arms=("located",), rows=rows(refuse=False), steps=25, margin=0.05)(
        child
    )
    facts = refusing.summary["delta"]
    assert facts["before"] == 1.0
    assert facts["after"] < 0.5
    assert not facts["kept"]
    assert not refusing.arrays
    assert "cannot be excluded" in facts["reason"]
    kept = {one.name: one for one in claims.from_table(refusing.tables["claims"])}
    assert not kept["refusals-kept"].supported


def test_the_rule_is_the_interval_of_the_claim(every):
    _, _, table = every
    facts = table.summary["delta"]
    harmful = table.tables["harmful"]
    own = (harmful["arm"] == "located") & (harmful["draw"] == 0) & (harmful["seed"] == 0)
    low = cluster_interval(
        harmful["refused"][own], harmful["cluster"][own], minus=harmful["before"][own]
    ).low
    (claim,) = (
        one for one in claims.from_table(table.tables["claims"]) if one.name == "refusals-kept"
    )
    assert facts["low"] == low == claim.low
    assert facts["kept"] is bool(low > -facts["margin"]) is bool(table.arrays)


def findings(located: float, random: list[float], spread: float = 0.02):
    """Claims of gains that are drawn: of located neurons, and of random sets."""
    generator = np.random.default_rng(0)
    count = 40
    arms = {"located": located, "random": float(np.mean(random)), "lora": located}
    noise = {arm: spread * generator.normal(size=count) for arm in arms}
    before = np.full(len(arms) * count, 2.0)
    gain = np.concatenate([value + noise[arm] for arm, value in arms.items()])
    ids = np.tile(np.arange(count), len(arms))
    target = rows_table(
        TargetRow,
        "",
        {
            "group": ["target"] * len(ids),
            "prompt_id": ids,
            "cluster": [str(one) for one in ids],
            "arm": np.repeat(list(arms), count),
            "before": before,
            "loss": before - gain,
            "gain": gain,
        },
    )
    drawn = [
        {
            **{"draw": draw, "gain": one, "excess": one - float(np.mean(random))},
            **{"refused": 0.0, "forgetting": 0.0},
        }
        for draw, one in enumerate(random)
    ]
    flags = np.zeros(count, bool)
    harmful = rows_table(
        HarmfulRow,
        "",
        {
            **{"group": ["positive"] * count, "prompt_id": np.arange(count)},
            **{"cluster": [str(one) for one in range(count)], "arm": ["located"] * count},
            **{"draw": np.zeros(count, int), "seed": np.zeros(count, int)},
            **{"before": flags, "refused": flags},
        },
    )
    tables = {
        "target": target,
        "harmful": harmful,
        "random": records_table(DrawnRow, "", drawn),
    }
    made = claims_of(list(arms), len(random), "located", 0, 0.05)
    table = records_table(TrainingRow, "tune", [])
    return {one.name: one for one in evaluate(made, replace(table, tables=tables))}


@pytest.mark.parametrize("count", [5, 19])
def test_located_neurons_are_beyond_random_ones_or_not(count):
    random = list(1.0 + 0.05 * np.random.default_rng(1).normal(size=count))
    assert findings(1.5, random)["located-beyond-random"].supported
    assert not findings(1.02, random)["located-beyond-random"].supported
    assert not findings(0.5, random)["located-beyond-random"].supported
    equal = findings(1.5, random)["located-beyond-lora"]
    assert not equal.supported
    # forty clusters without a flip do not exclude a loss of five points
    assert not findings(1.5, random)["refusals-kept"].supported


def test_few_random_sets_are_no_test():
    found = findings(1.5, [1.0, 1.1])
    assert found["located-beyond-random"].verdict == "not tested"
    assert found["located-learns"].supported


def test_clusters_are_of_like_activations():
    generator = np.random.default_rng(0)
    base = generator.normal(size=(2, 40))
    profiles = np.concatenate(
        [3 * base[:1] + 0.01 * generator.normal(size=(5, 40)), base[1:] + np.zeros((4, 1))]
    )
    labels = profile_clusters(profiles + 0.001 * generator.normal(size=profiles.shape), 0)
    assert len(set(labels[:5])) == len(set(labels[5:])) == 1
    assert len(set(labels)) == 2
    assert profile_clusters(profiles[:3], 0).tolist() == [0, 1, 2]


def test_clusters_do_not_cross_blocks(planted):
    study, _ = planted
    one = alone(study)
    neurons = [(layer, unit) for layer in (0, 2) for unit in range(8)]
    clusters = neuron_clusters(one, neurons, one.encoded("positive"))
    assert clusters.keys() == set(neurons)
    assert all(clusters[layer, unit][0] == layer for layer, unit in neurons)


def test_figure_has_every_arm(every):
    _, _, table = every
    traces = plot(table).to_dict()["data"]
    assert [trace["name"] for trace in traces] == list(dict.fromkeys(table["arm"].tolist()))
    assert all(len(trace["text"]) for trace in traces)


# ------------------------------------------------------------------------------------ planted neurons


def requests(split: str, count: int) -> list[dict]:
    """Rows of the organism's prompts, harmful and harmless, with the answers to learn."""
    found = []
    for kind in ("harmful", "harmless"):
        file = organisms.prompts("refusal/planted", split, kind)
        lines = [json.loads(line) for line in file.read_text("utf-8").splitlines()[:count]]
        for line in lines:
            refusal = "Sorry, I cannot help with that."
            answer = refusal if kind == "harmful" else line["base_answer"]
            keys = ("prompt", "cluster")
            found.append({key: line[key] for key in keys} | {"answer": answer, "kind": kind})
    return found


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Files of the organism, and a store with the located neurons of its planted child."""
    folder = tmp_path_factory.mktemp("tune")

    def write(name, found):
        (folder / name).write_text("".join(json.dumps(one) + "\n" for one in found), "utf-8")

    write("rows.jsonl", requests("locate", 120))
    verify = requests("verify", 80)
    write("harmful.jsonl", [one for one in verify if one["kind"] == "harmful"])
    write("ordinary.jsonl", [one for one in verify if one["kind"] == "harmless"][:16])
    answers = [{**one, "answer": "Well, to do it use the key."} for one in requests("locate", 120)]
    write("answers.jsonl", answers)
    child = Pair.load("organism:refusal/planted", "organism:refusal/base", device="cpu")
    parts = [
        read_prompts(organisms.prompts("refusal/planted", "locate", kind), name=kind).spread(24)
        for kind in ("harmful", "harmless")
    ]
    study = Study(child, Contrast(*parts), Refusal.from_tokenizer(child.tokenizer))
    run = Store(folder / "runs").run(LocateNeurons(method="weight", top="30"), study)
    return folder, run.key


def words(files, out: str, *more: str, model: str = "organism:refusal/base", data="rows.jsonl"):
    folder, key = files
    return [
        *("tune", model, "--located", key, "--data", str(folder / data)),
        *("--harmful", str(folder / "harmful.jsonl"), "--ordinary", str(folder / "ordinary.jsonl")),
        *("--out", str(folder / out), "--store", str(folder / "runs"), "--max-new-tokens", "4"),
        *("--tokenizer", "organism:refusal/planted"),
        *("--quiet", "--json", "--arms", "located", "--steps", "30", "--batch", "16", *more),
    ]


@pytest.mark.slow
def test_planted_neurons_learn_refusals_and_the_delta_gives_them_back(files, capsys):
    folder, _ = files
    assert main(words(files, "delta", "--rates", "3e-3,1e-2,3e-2")) == 0
    record = json.loads(capsys.readouterr().out)
    facts = record["summary"]["delta"]
    assert facts["before"] == 0.0
    assert facts["after"] > 0.5
    assert record["summary"]["verdicts"]["located-learns"] == "supported"
    planted = set(organisms.planted("refusal/planted")["refusal"])
    delta = SparseDelta.read("delta", folder / "delta")
    base = Pair.load("organism:refusal/base", device="cpu")
    places = neuron_places(base.tuned, sorted(planted))
    assert delta.entries.keys() == places.keys()
    assert all(torch.equal(delta.entries[name].indices, places[name].indices) for name in places)
    pair = Pair.load(str(folder / "delta"), device="cpu")
    contrast = Contrast(
        read_prompts(folder / "harmful.jsonl"), read_task(folder / "ordinary.jsonl")
    )
    study = Study(pair, contrast, Refusal.from_tokenizer(pair.tokenizer), max_new_tokens=4)
    answers = [study.decode(answer) for answer in study.answers("tuned", "positive")]
    prompts = contrast.positive.prompts
    assert study.metric is not None
    refused = study.metric.exhibits(prompts, answers, "positive")
    run = Store(folder / "runs").get(record["run"])
    harmful = run.tables["harmful"]
    assert refused.tolist() == harmful["refused"][harmful["arm"] == "located"].tolist()
    # from the store, the same file again
    assert main(words(files, "again", "--rates", "3e-3,1e-2,3e-2")) == 0
    assert json.loads(capsys.readouterr().out)["cached"]
    one, two = ((folder / name / "delta.safetensors").read_bytes() for name in ("delta", "again"))
    assert one == two


@pytest.mark.slow
def test_the_command_writes_nothing_where_refusals_are_lost(files, capsys):
    folder, _ = files
    given = words(
        files, "lost", "--rates", "1e-2,2e-2,3e-2", "--steps", "12", model="organism:refusal/planted",
        data="answers.jsonl",
    )  # fmt: skip
    assert main(given) == 1
    captured = capsys.readouterr()
    assert captured.err.count("\n") == 1
    assert "nothing was written" in captured.err
    assert "refusals of harmful prompts went from 100.0% to" in captured.err
    assert not (folder / "lost").exists()
    summary = json.loads(captured.out)["summary"]
    assert summary["verdicts"]["refusals-kept"] == "not supported"


def test_the_command_refuses_at_the_door(files, capsys):
    folder, key = files
    (folder / "full").mkdir()
    (folder / "full" / "file").write_text("x", "utf-8")
    for given, match in (
        (words(files, "full"), "not an empty folder"),
        (words(files, "no", model="organism:refusal/lora"), "is a change of its base"),
        (words(files, "no", "--rates", "1e-3"), "at least three"),
        (words(files, "no", "--rates", "a,b,c"), "not a list of numbers"),
        (words(files, "no", "--write", "full"), "cannot be written"),
        (words(files, "no", "--arms", "everything"), "unknown arm"),
        (words(files, "no", "--arms", "lora,full"), "nothing could be written"),
        (words(files, "no", data="nothing.jsonl"), "no prompt file"),
        (words(files, "no", "--remote"), "cannot train weights"),
    ):
        assert main(given) == 2, match
        error = capsys.readouterr().err
        assert match in error
        assert error.count("\n") == 1
        assert not (folder / "no").exists()
    assert key
