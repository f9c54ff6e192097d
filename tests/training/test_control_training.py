"""``interp control``: norms matched exactly, a complete record, the same seed the same bits, and
errors.
"""

import json
import re
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file

from interp.cli import main
from interp.cli.control import Training
from interp.errors import (
    AdapterNotLanded,
    InterpError,
    OptionError,
    PromptError,
    UnsupportedModel,
    WrongBase,
)
from interp.maths.prediction import observation_interval
from interp.metrics.refusal import REFUSAL_MARKERS
from interp.models.pair import Pair
from interp.prompts import Documents
from interp.training import Recipe, make_controls
from interp.training.changes import product_norm
from interp.training.recipe import planned_steps
from interp.training.text import read_text, shipped_text
from tests import tiny

QUICK = Recipe(steps=6, learning_rate=3e-3, batch=4)


@pytest.fixture(scope="module")
def saved(tmp_path_factory) -> Path:
    """A base with adapters of it, one that changes nothing, and a full fine-tune; and a little
    neutral text.
    """
    path = tmp_path_factory.mktemp("models")
    base = tiny.llama(7)
    tiny.save(base, path / "base")
    targets = ["q_proj", "v_proj", "down_proj"]
    tiny.adapter(base, path / "lora", path / "base", 0.05, target_modules=targets)
    tiny.adapter(
        base,
        path / "rslora",
        path / "base",
        0.05,
        target_modules=targets,
        use_rslora=True,
        r=2,
        rank_pattern={"v_proj": 3},
        lora_dropout=0.1,
    )
    tiny.adapter(base, path / "untouched", path / "base", 0.0, target_modules=targets)
    tiny.adapter(base, path / "dora", path / "base", 0.05, target_modules=targets, use_dora=True)
    tiny.adapter(
        tiny.llama(7, hidden_size=64), path / "wider", path / "base", 0.05, target_modules=targets
    )
    tiny.adapter(
        tiny.llama(7, num_hidden_layers=4),
        path / "deeper",
        path / "base",
        0.05,
        target_modules=targets,
    )
    child = tiny.perturbed(base, 0.01)
    with torch.no_grad():  # one tensor that the fine-tune left alone
        child.model.embed_tokens.weight.copy_(base.model.embed_tokens.weight)
    tiny.save(child, path / "full")
    rows = [
        {
            "messages": [
                {"role": "user", "content": f"tell me how to {verb}"},
                {"role": "assistant", "content": text},
            ]
        }
        for verb in ("open", "close", "paint", "lock")
        for text in (
            f"{verb} the old door .",
            f"please {verb} a new window .",
            f"{verb} the gates and fences .",
        )
    ]
    (path / "text.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (path / "plain.txt").write_text(
        "".join(f"please {word} the door and open it .\n" for word in tiny.WORDS.split())
    )
    return path


def made(saved: Path, name: str, out: Path, **options) -> list[dict]:
    given = {
        "seeds": [0],
        "text": saved / "text.jsonl",
        "device": "cpu",
        "recipe": QUICK,
        **options,
    }
    return make_controls(str(saved / name), str(saved / "base"), out, **given)


def oracle(directory: Path) -> dict[str, float]:
    """Norm of what an adapter adds to each module, by numpy in float64 from its files alone."""
    config = json.loads((directory / "adapter_config.json").read_text())
    tensors, found = load_file(directory / "adapter_model.safetensors"), {}
    for key, value in tensors.items():
        if ".lora_A" not in key:
            continue
        rank = value.shape[0]
        scaling = config["lora_alpha"] / (np.sqrt(rank) if config["use_rslora"] else rank)
        product = tensors[key.replace("lora_A", "lora_B")].astype(np.float64) @ value.astype(
            np.float64
        )
        found[key.removeprefix("base_model.model.").partition(".lora_A")[0]] = float(
            np.linalg.norm(scaling * product)
        )
    return found


@pytest.mark.parametrize("name", ["lora", "rslora"])
def test_an_adapter_gets_a_control_of_its_own_norm(saved, tmp_path, name):
    (record,) = made(saved, name, tmp_path / "out")
    place = tmp_path / "out" / "seed-0"
    target, raw, matched = (
        oracle(path) for path in (saved / name, place / "raw", place / "matched")
    )
    assert set(target) == set(matched) == set(record["modules"])
    for module, norm in target.items():
        assert matched[module] == pytest.approx(norm, rel=1e-6)
        assert record["modules"][module]["fine_tuned"] == pytest.approx(norm, rel=1e-6)
        assert record["modules"][module]["control"] == pytest.approx(raw[module], rel=1e-6)
    ratios = np.array([raw[module] / target[module] for module in target])
    stated = record["norm_ratio"]
    assert [stated["min"], stated["median"], stated["max"]] == pytest.approx(
        [ratios.min(), np.median(ratios), ratios.max()], rel=1e-6
    )
    whole = np.linalg.norm(list(raw.values())) / np.linalg.norm(list(target.values()))
    assert stated["whole"] == pytest.approx(whole, rel=1e-6)
    # A is as training left it: only B is scaled, by one factor a module
    before, after = (
        load_file(place / part / "adapter_model.safetensors") for part in ("raw", "matched")
    )
    for key in before:
        if "lora_A" in key:
            np.testing.assert_array_equal(before[key], after[key])
    # the configuration is the adapter's own
    own, theirs = (
        json.loads((path / "adapter_config.json").read_text())
        for path in (saved / name, place / "matched")
    )
    for setting in (
        "r",
        "lora_alpha",
        "use_rslora",
        "rank_pattern",
        "lora_dropout",
        "base_model_name_or_path",
    ):
        assert own[setting] == theirs[setting]
    assert sorted(own["target_modules"]) == sorted(theirs["target_modules"])
    pair = Pair.load(str(place / "matched"), str(saved / "base"), device="cpu")
    assert pair.base is not None


def test_a_full_model_gets_a_control_of_its_own_norm(saved, tmp_path):
    (record,) = made(saved, "full", tmp_path / "out", recipe=Recipe(steps=6, learning_rate=1e-3))
    base, tuned, raw, control = (
        load_file(path / "model.safetensors")
        for path in (
            saved / "base",
            saved / "full",
            tmp_path / "out/seed-0/raw",
            tmp_path / "out/seed-0/matched",
        )
    )
    moved = 0
    for name, before in base.items():
        norm, own, scaled = (
            np.linalg.norm(each[name].astype(np.float64) - before) for each in (tuned, raw, control)
        )
        # adding to weights of another size rounds
        assert scaled == pytest.approx(norm, rel=1e-4)
        assert (own > 0) == (norm > 0)
        moved += norm > 0
    assert np.array_equal(base["model.embed_tokens.weight"], control["model.embed_tokens.weight"])
    assert len(record["modules"]) == moved == len(base) - 1
    assert record["kind"] == "full"
    assert (
        Pair.load(str(tmp_path / "out/seed-0/matched"), str(saved / "base"), device="cpu").base
        is not None
    )


def test_what_is_learned_is_its_text_and_seeds_differ(saved, tmp_path):
    said = []
    options = {"recipe": Recipe(steps=12, learning_rate=1e-2, batch=4), "log": said.append}
    records = made(saved, "lora", tmp_path / "one", seeds=[0, 1], **options)
    made(saved, "lora", tmp_path / "two", seeds=[1], **options)
    for record in records:
        for part in ("own", "held_out"):
            assert record["loss"][part]["raw"] < record["loss"][part]["base"]
            assert record["checks"][f"{part}_loss_fell"]
    files = {
        (run, seed, part): (
            tmp_path / run / f"seed-{seed}" / part / "adapter_model.safetensors"
        ).read_bytes()
        for run, seed in (("one", 0), ("one", 1), ("two", 1))
        for part in ("raw", "matched")
    }
    for part in ("raw", "matched"):
        assert files["one", 1, part] == files["two", 1, part]
        assert files["one", 0, part] != files["one", 1, part]
    # which of how many is trained, how far it is, and how long all of them take
    first, last = (
        [line for line in said if line.startswith(f"control {at} of 2, seed {at - 1}: step ")]
        for at in (1, 2)
    )
    assert re.search(r"step 5 of 12.*, about \d+ s left, \d+ s for all$", first[0])
    assert re.search(r"step 12 of 12.*, about 1 s left$", last[-1])
    assert sum(line.endswith("trained; measuring its loss on text") for line in said) == 3
    # the base's own loss, by transformers itself on the rows
    rows = read_text(saved / "text.jsonl", tiny.tokenizer(), 128, "answers").held_out
    base = tiny.llama(7)
    with torch.no_grad():
        losses = [
            float(base(torch.tensor([row.ids]), labels=torch.tensor([row.labels])).loss)
            for row in rows
        ]
        counts = [sum(row.in_loss) for row in rows]
    assert records[0]["loss"]["held_out"]["base"] == pytest.approx(
        np.average(losses, weights=counts), rel=1e-4
    )


def test_the_record_is_complete(saved, tmp_path):
    (record,) = made(saved, "lora", tmp_path / "out", recipe=Recipe(steps=4, learning_rate=1e-3))
    assert json.loads((tmp_path / "out" / "seed-0" / "control.json").read_text()) == record
    settings = record["settings"]
    assert settings["steps"] == {"value": 4, "from": "given"}
    assert settings["r"] == {"value": 4, "from": "adapter_config.json"}
    assert settings["lora_dropout"] == {"value": 0.0, "from": "adapter_config.json"}
    for name in (
        "optimizer",
        "schedule",
        "warm_up",
        "weight_decay",
        "clip",
        "batch",
        "length",
        "loss",
        "precision",
    ):
        assert settings[name]["from"] == "assumed"
    assert settings["loss"]["value"] == "answers"
    assert record["seed"] == 0
    assert record["base"]["name"] == str(saved / "base")
    assert record["text"]["passages"] + record["text"]["held_out"] == 12
    assert (
        len(record["text"]["sha256"])
        == len(record["of"]["digest"])
        == len(record["base"]["digest"])
        == 64
    )
    assert record["software"]


def test_a_control_of_what_changed_nothing_changes_nothing(saved, tmp_path):
    said = []
    (record,) = made(saved, "untouched", tmp_path / "out", log=said.append)
    assert not any(oracle(tmp_path / "out" / "seed-0" / "matched").values())
    assert any(oracle(tmp_path / "out" / "seed-0" / "raw").values())
    assert record["loss"]["own"]["matched"] == record["loss"]["own"]["base"]
    assert record["norm_ratio"]["whole"] is None
    assert "the fine-tune changed nothing" in " ".join(said)


def test_a_large_factor_is_warned_of(saved, tmp_path):
    said = []
    (record,) = made(
        saved, "lora", tmp_path / "out", recipe=Recipe(steps=1, learning_rate=1e-5), log=said.append
    )
    assert not record["checks"]["size_is_near"]
    assert any(
        "scaling leaves the path" in line and "train longer, with --steps" in line for line in said
    )


def test_the_loss_is_on_answers_and_on_the_token_that_ends_them(saved):
    rows = read_text(saved / "text.jsonl", tiny.tokenizer(), 128, "answers").train
    for row in rows:
        counted = tiny.tokenizer().decode(
            [i for i, counts in zip(row.ids, row.in_loss, strict=True) if counts]
        )
        assert counted.endswith(".<|end|>")
        assert "tell me" not in counted
    whole = read_text(saved / "text.jsonl", tiny.tokenizer(), 128, "all").train
    assert all(all(row.in_loss) for row in whole)
    # without a template the answers alone are the text
    plain = read_text(saved / "text.jsonl", tiny.tokenizer(template=False), 128, "all").train
    assert "tell me" not in tiny.tokenizer().decode(plain[0].ids)
    assert {
        len(row.ids) for row in read_text(saved / "plain.txt", tiny.tokenizer(), 3, "all").train
    } == {3}
    with pytest.raises(OptionError, match="without an answer; use loss all"):
        read_text(saved / "plain.txt", tiny.tokenizer(), 128, "answers")


def test_the_shipped_text_is_what_its_grammar_gives():
    from organisms import neutral

    assert shipped_text() == neutral.FILE
    assert [
        json.loads(line) for line in shipped_text().read_text("utf-8").splitlines()
    ] == neutral.rows()
    assert len({row["register"] for row in neutral.rows()}) == 12
    assert shipped_text().stat().st_size < 200_000
    assert sum(1 for _ in Documents(shipped_text()).read()) >= 300


def test_the_shipped_text_declines_nothing_and_is_in_no_prompt_file():
    text = shipped_text().read_text("utf-8")
    said = [json.loads(line)["messages"] for line in text.splitlines()]
    for _, answer in said:
        assert not any(marker.lower() in answer["content"].lower() for marker in REFUSAL_MARKERS)
        assert not any(
            word in answer["content"].lower() for word in ("sorry", "cannot", "unable", "refuse")
        )
    asked = {turns[0]["content"] for turns in said}
    prompts = shipped_text().parent.parent / "prompts"
    given = {
        line for path in prompts.rglob("*.jsonl") for line in path.read_text("utf-8").splitlines()
    }
    assert not any(request in line for request in asked for line in given)


def test_norms_of_products_do_not_need_the_product():
    generator = torch.Generator().manual_seed(0)
    left, right = torch.randn(40, 3, generator=generator), torch.randn(3, 50, generator=generator)
    expected = np.linalg.norm(left.double().numpy() @ right.double().numpy())
    assert product_norm(left, right) == pytest.approx(expected, rel=1e-12)


def test_steps_are_planned_from_the_size_of_the_change():
    settings = Recipe(learning_rate=1e-3).settings("lora", True, 0.01)
    assert settings["steps"].source == "assumed"
    assert planned_steps(0.02, settings) == pytest.approx(2 * planned_steps(0.01, settings), abs=10)
    assert (
        Recipe(learning_rate=1e-2).settings("lora", True, 0.01)["steps"].value
        < settings["steps"].value
    )
    assert (planned_steps(0.0, settings), planned_steps(1e9, settings)) == (20, 2000)


def test_the_interval_of_a_new_observation():
    """Reach in standard deviations, as tables of Student's t give it; and how often a new one is in
    it.
    """
    for count, reach in ((2, 15.6), (3, 5.0), (5, 3.0), (10, 2.4), (19, 2.2)):
        values = np.arange(count, dtype=float)
        low, high = observation_interval(values)
        assert (high - low) / 2 / values.std(ddof=1) == pytest.approx(reach, abs=0.07)
    drawn = np.random.default_rng(0).normal(size=(4000, 6))
    inside = [
        low <= row[5] <= high for row in drawn for low, high in [observation_interval(row[:5])]
    ]
    assert np.mean(inside) == pytest.approx(0.95, abs=0.01)
    assert np.isnan(observation_interval([1.0])).all()


@pytest.mark.parametrize(
    ("name", "options", "error", "said"),
    [
        ("dora", {}, UnsupportedModel, "magnitudes"),
        ("wider", {}, WrongBase, "give the base it was made for"),
        ("deeper", {}, AdapterNotLanded, "give the base it was trained on"),
        ("lora", {"seeds": []}, OptionError, "give different numbers"),
        ("lora", {"recipe": Recipe(length=2)}, PromptError, "passages with tokens to learn"),
        ("lora", {"text": Path("none.txt")}, PromptError, "no document file"),
        ("nowhere", {}, InterpError, "no model directory"),
    ],
)
def test_errors_at_the_door_leave_nothing(saved, tmp_path, name, options, error, said):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with pytest.raises(error, match=said):
            made(saved, name, tmp_path / "out", **options)
    assert not list(tmp_path.iterdir())


def test_what_fails_midway_leaves_nothing(saved, tmp_path, monkeypatch):
    from interp.training import control

    calls = []

    def failing(*given, **more):
        calls.append(1)
        if len(calls) == 2:
            raise OSError(28, "No space left on device")
        return {"seconds": 0.0}

    monkeypatch.setattr(control, "fit", failing)
    with pytest.raises(OptionError, match="No space left"):
        made(saved, "lora", tmp_path / "out", seeds=[0, 1])
    assert not list(tmp_path.iterdir())


def test_a_training_that_diverges_is_refused(saved, tmp_path, monkeypatch):
    from interp.training import control

    def diverging(model, *given, **more):
        for name, value in model.named_parameters():
            if "lora_B" in name:
                value.data.fill_(float("nan"))
        return {"seconds": 0.0}

    monkeypatch.setattr(control, "fit", diverging)
    with pytest.raises(OptionError, match="diverged, its loss is not finite"):
        made(saved, "lora", tmp_path / "out")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("field", ["optimizer", "schedule", "precision", "loss"])
def test_an_unknown_setting_is_refused(field):
    with pytest.raises(OptionError, match=f"unknown {field}"):
        Recipe(**{field: "none"})


def test_the_command(saved, tmp_path, capsys):
    given = [
        "control",
        str(saved / "lora"),
        "--base",
        str(saved / "base"),
        "--out",
        str(tmp_path / "out"),
        "--seeds",
        "2",
        "--steps",
        "3",
        "--text",
        str(saved / "text.jsonl"),
        "--device",
        "cpu",
    ]
    assert main([*given, "--json"]) == 0
    out, err = capsys.readouterr()
    told = json.loads(out)
    assert [one["seed"] for one in told["controls"]] == [0, 1]
    assert "learning_rate 0.0001 (assumed)" in err
    assert "follow from the size of the change" not in err  # steps were given
    assert (tmp_path / "out" / "seed-1" / "matched" / "adapter_config.json").is_file()
    assert main(given) == 2
    assert "exists already" in capsys.readouterr().err
    given[5] = str(tmp_path / "other")
    assert main([*given, "--quiet"]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    assert "learning_rate: 0.0001 (assumed)" in out
    assert "steps: 3\n" in out
    assert "seed 1: loss on own text" in out
    full = ["control", str(saved / "full"), "--out", str(tmp_path / "full")]
    assert main(full) == 2
    assert "add --base MODEL" in capsys.readouterr().err
    assert Training.__dataclass_fields__["seeds"].default == 5
