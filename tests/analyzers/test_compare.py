"""The first look: numbers beside plain computations, silence on an identical pair, a control, and
the command.
"""

import copy
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from interp import claims, organisms
from interp.analyzers.compare import Compare, compute
from interp.analyzers.compare.compute import lenses, stream_sites
from interp.capture import make_batch
from interp.engines import Batch, TorchEngine, engine_named
from interp.errors import OptionError, PairError, PromptError
from interp.figures import plot
from interp.kinds import KINDS
from interp.maths.alignment import cka_interval, debiased_cka, linear_cka
from interp.models.changes import tensor_changes
from interp.models.pair import Pair
from interp.prompts import OneClass, PromptSet, read_prompts
from interp.store import Store
from interp.study import Study
from tests import families, tiny

ENGINE = TorchEngine()
FIVE = ("llama", "qwen3", "gemma2", "gpt2", "neox")


def build(name):
    return tiny.FAMILIES[name]() if name in tiny.FAMILIES else families.build(name)


def pair_of(name, size=0.02):
    base = build(name)
    return Pair.from_modules(tiny.perturbed(base, size), base, tiny.tokenizer())


def study_of(pair, count=5, **options):
    return Study(pair, OneClass(tiny.contrast(count).positive), None, **options)


def test_a_study_names_what_it_lacks():
    bare = study_of(pair_of("llama"))
    with pytest.raises(OptionError, match="this needs a metric and the study has none"):
        bare.require_metric()
    with pytest.raises(PromptError, match="a probe needs two classes of prompts and there is one"):
        bare.require_contrast("a probe")
    both = tiny.contrast(5)
    assert bare.with_prompts(both).require_contrast() is both


def logits_of(module, ids):
    with torch.no_grad():
        return module(input_ids=torch.tensor([ids])).logits[0].double()


# ---------------------------------------------------------------------------------------------- numbers


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[] if name == "llama" else pytest.mark.slow) for name in FIVE]
)
def test_tokens_and_streams_are_those_of_plain_passes(name):
    pair = pair_of(name)
    study = study_of(pair, 3)
    table = Compare()(study)
    tokens, drift = table.tables["tokens"], table.tables["drift"]
    for row, coded in enumerate(study.encoded("positive")):
        tuned, base = (
            logits_of(pair[role].module, coded.ids).log_softmax(-1) for role in ("tuned", "base")
        )
        kl = (tuned.exp() * (tuned - base)).sum(-1)
        mine = tokens["prompt_id"] == row
        np.testing.assert_allclose(tokens["kl"][mine], kl, rtol=2e-3, atol=1e-5)
        assert tokens["flip"][mine].tolist() == (tuned.argmax(-1) != base.argmax(-1)).tolist()
        assert table["kl"][row] == pytest.approx(kl.mean().item(), rel=1e-3)
        assert table["kl_last"][row] == pytest.approx(kl[-1].item(), rel=1e-3, abs=1e-6)
        assert table["flips"][row] == pytest.approx(tokens["flip"][mine].mean())
        batch = Batch.pad([coded.ids], 0)
        sites = stream_sites(pair.tuned)
        streams = [ENGINE.run(pair[role], batch, reads=sites).values for role in ("tuned", "base")]
        here = drift["prompt_id"] == row
        for depth, site in enumerate(sites):
            x, y = (values[site][0].double() for values in streams)
            found = drift["cosine"][here][depth], drift["norm_ratio"][here][depth]
            assert found[0] == pytest.approx(
                torch.cosine_similarity(x, y, -1).mean().item(), abs=1e-6
            )
            assert found[1] == pytest.approx(
                (x.norm(dim=-1) / y.norm(dim=-1)).mean().item(), rel=1e-5
            )


LENSED = ("gpt2", "gemma2")


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(n, marks=[] if n in LENSED else pytest.mark.slow)
        for n in (*FIVE, "gemma3", "mixtral")
    ],
)
def test_the_lens_at_the_end_is_the_model(name):
    """Final norm, head and soft caps of whatever family, reached without naming them."""
    pair = pair_of(name)
    batch, sites = Batch.pad([[5, 6, 7, 8], [9, 10, 11, 12]], 0), stream_sites(pair.tuned)
    run = ENGINE.run(pair.tuned, batch, reads=sites, keep=1)
    streams = torch.stack([run.values[site][:, -1] for site in sites], 1)
    (lens,) = lenses(ENGINE, [pair.tuned], [streams])
    torch.testing.assert_close(lens[:, -1], run.logits[:, -1], rtol=1e-4, atol=1e-5)
    if name in ("llama", "qwen3"):
        module = pair.tuned.module
        with torch.no_grad():
            plain = module.lm_head(module.model.norm(streams))
        torch.testing.assert_close(lens, plain, rtol=1e-4, atol=1e-5)


def test_nnsight_reads_the_same_lens():
    pair = pair_of("gpt2")
    streams = torch.randn(2, 4, 32, generator=torch.Generator().manual_seed(0))
    found = [
        lenses(engine, [pair.tuned], [streams])[0] for engine in (ENGINE, engine_named("nnsight"))
    ]
    torch.testing.assert_close(*found)


def test_cka_is_that_of_its_definition():
    generator = np.random.default_rng(0)
    x = generator.normal(size=(60, 8))
    y = x @ generator.normal(size=(8, 5)) + 0.5 * generator.normal(size=(60, 5))
    a, b = x - x.mean(0), y - y.mean(0)
    plain = np.linalg.norm(b.T @ a) ** 2 / (np.linalg.norm(a.T @ a) * np.linalg.norm(b.T @ b))
    assert linear_cka(x, y) == pytest.approx(plain)
    turn = np.linalg.qr(generator.normal(size=(8, 8)))[0]
    assert linear_cka(x, 3 * x @ turn + 7) == pytest.approx(1)
    assert debiased_cka(x, x @ turn) == pytest.approx(1)
    # of unrelated rows in many dimensions the plain one sees likeness where the other sees none
    far = [generator.normal(size=(40, 400)) for _ in range(2)]
    assert linear_cka(*far) > 0.85
    assert abs(debiased_cka(*far)) < 0.1
    value, low, high = cka_interval(x, y, np.arange(60) // 2)
    assert value == pytest.approx(plain)
    assert low < value < high + 0.05
    assert np.isnan(linear_cka(np.ones((5, 2)), x[:5]))
    assert np.isnan(cka_interval(x, y, np.zeros(60))[1])
    assert np.isnan(debiased_cka(x[:3], y[:3]))


@pytest.mark.parametrize(
    "name", ["gpt2", *(pytest.param(name, marks=pytest.mark.slow) for name in ("llama", "neox"))]
)
def test_changes_are_of_the_tensors_that_were_changed(name):
    base = build(name)
    tuned = copy.deepcopy(base)
    changed = dict(tuned.named_parameters())
    matrix = next(
        key
        for key in changed
        if key.endswith(("down_proj.weight", "mlp.c_proj.weight", "4h_to_h.weight"))
    )
    changed[matrix].data[0] += 0.5
    norm = next(key for key in reversed(changed) if "norm" in key or "ln_f" in key)
    changed[norm].data[:3] *= 2
    found = [
        change
        for change in tensor_changes(Pair.from_modules(tuned, base, tiny.tokenizer()))
        if change.change
    ]
    assert [(each.layer, each.part) for each in found] == [(0, "mlp.out"), (-1, norm)]
    width = changed[matrix].shape[1]
    assert found[0].change == pytest.approx(0.5 * width**0.5)
    assert found[0].share == pytest.approx(1 / changed[matrix].shape[0])
    total = sum(
        change.size for change in tensor_changes(Pair.from_modules(tuned, base, tiny.tokenizer()))
    )
    own = {id(p): p.numel() for p in base.parameters()}
    assert total >= sum(own.values())


@pytest.mark.slow
def test_an_adapter_changes_what_it_is_put_on(tmp_path):
    wrapped = tiny.lora("llama", tiny.llama(), tmp_path / "lora", part="attention")
    pair = Pair.from_modules(wrapped, None, tiny.tokenizer())
    changed = {change.part for change in tensor_changes(pair) if change.change > 0}
    assert changed == {"attn.q", "attn.v", "attn.o"}
    table = Compare()(study_of(pair, 3))
    assert (table["kl"] > 0).all()
    assert table.tables["drift"]["cosine"][0] == pytest.approx(1)  # the embedding is the base's


# ------------------------------------------------------------------------------------------- properties


@pytest.mark.parametrize("name", ["llama", pytest.param("gpt2", marks=pytest.mark.slow)])
def test_an_identical_pair_is_silent(name):
    base = build(name)
    table = Compare()(study_of(Pair.from_modules(copy.deepcopy(base), base, tiny.tokenizer())))
    assert not table["kl"].any()
    assert not table["flips"].any()
    drift, layers, weights = (table.tables[part] for part in ("drift", "layers", "weights"))
    np.testing.assert_allclose(drift["cosine"], 1, rtol=1e-12)
    assert (drift["norm_ratio"] == 1).all() or np.allclose(drift["norm_ratio"], 1, rtol=1e-14)
    assert not drift["lens_kl"].any()
    np.testing.assert_allclose(layers["cka"], 1)
    assert not weights["change"].any()
    assert not any(claim.supported for claim in claims.from_table(table.tables["claims"]))
    assert table.summary["weights"].startswith("None of")


def test_one_prompt_shows_nothing():
    """No interval, no verdict: a NaN is below no floor and above none."""
    table = Compare()(study_of(pair_of("llama"), 1))
    claim = claims.from_table(table.tables["claims"])[0]
    assert claim.value > claim.threshold
    assert np.isnan(claim.low)
    assert not claim.supported


def test_neither_batches_nor_padding_count():
    pair = pair_of("llama")
    one, other = (Compare()(study_of(pair, batch_size=size)) for size in (None, 1))
    for name in ("kl", "kl_last", "flips"):
        np.testing.assert_allclose(one[name], other[name], rtol=1e-3, atol=1e-6)
    for part in ("drift", "layers"):
        for column in one.tables[part].columns:
            if column.role == "measure":
                np.testing.assert_allclose(
                    one.tables[part][column.name],
                    other.tables[part][column.name],
                    rtol=1e-3,
                    atol=1e-5,
                )
    again = Compare()(study_of(pair))
    assert again.equals(one)
    assert again.provenance.key == one.provenance.key


def test_claims_can_be_measured_again_and_figures_drawn():
    pair = pair_of("llama")
    control = Pair.from_modules(
        tiny.perturbed(pair.base.module, 0.002, 5), pair.base.module, tiny.tokenizer()
    )
    study = Study(pair, tiny.contrast(6), None)
    table = Compare((control,))(study)
    found = {claim.name: claim for claim in claims.from_table(table.tables["claims"])}
    for claim in found.values():
        claims.check(claim, table)
    assert set(found) == {
        "outputs-differ",
        "beyond-control",
        "beyond-new-control",
        "drifts-beyond-control",
        "drifts-beyond-new-control",
        "more-on-positive",
        "more-on-positive-beyond-control",
        "more-on-positive-beyond-new-control",
    }
    assert found["beyond-control"].supported
    assert found["drifts-beyond-control"].supported
    assert found["outputs-differ"].value > found["beyond-control"].control_value
    assert (
        table.tables["weights"]["relative"] > table.tables["weights"]["control_relative"]
    ).mean() > 0.9
    for part in (table, *(table.tables[name] for name in ("layers", "weights", "tokens"))):
        figure = plot(part)
        assert figure.layout.meta["caption"].endswith(".")
        assert json.loads(figure.to_json())["data"]
    # a control that is the tune itself leaves nothing beyond it
    itself = Compare((pair,))(study)
    for claim in claims.from_table(itself.tables["claims"]):
        new = claim.name.endswith("new-control") and not claim.supported
        assert claim.name in ("outputs-differ", "more-on-positive") or new or claim.value == 0
    keys = [
        study.provenance(each).key
        for each in (Compare(), Compare((control,)), Compare((pair,)), Compare(cka_tokens=9))
    ]
    assert len(set(keys)) == 4


def test_what_cannot_be_compared_is_refused():
    pair = pair_of("llama")
    other = Pair.from_modules(tiny.llama(3), tiny.llama(4), tiny.tokenizer())
    with pytest.raises(PairError, match="another base"):
        Compare((other,))(study_of(pair))
    with pytest.raises(OptionError, match="add --base"):
        Compare()(study_of(Pair.from_modules(pair.tuned.module, None, tiny.tokenizer())))
    with pytest.raises(OptionError, match="use at least 4"):
        Compare(cka_tokens=2)(study_of(pair))


def test_tables_of_many_tokens_are_cut_and_samples_bounded():
    study = study_of(pair_of("llama"), 8)
    lengths = [len(coded.ids) for coded in study.encoded("positive")]
    table = Compare(token_rows=sum(lengths[:3]) + 1, cka_tokens=4)(study)
    assert len(table.tables["tokens"]) == sum(lengths[:3])
    assert "over 4 tokens" in table.tables["layers"].column("cka").meaning


@pytest.mark.parametrize("two", [False, True])
def test_twenty_copies_of_each_prompt_change_nothing(two):
    """Six clusters, and every prompt twenty times in a file without clusters: equal claims, floor,
    depths and CKA.
    """
    pair, control = pair_of("llama"), pair_of("llama", 0.002)
    both = tiny.contrast(6)
    prompts = tiny.copied(both if two else OneClass(both.positive), 1)
    once, often = (Study(pair, tiny.copied(prompts, times), None) for times in (1, 20))
    assert len(often.prompts("positive")) == 120
    assert (once.prompts("positive").n_clusters, often.prompts("positive").n_clusters) == (6, 6)
    one, other = (
        Compare((control,), floor_prompts=8, cka_tokens=64)(study) for study in (once, often)
    )
    assert one.summary["noise_floor"] == other.summary["noise_floor"]
    assert one.tables["claims"]["name"].tolist() == other.tables["claims"]["name"].tolist()
    for column in ("value", "low", "high", "control_value", "threshold"):
        mine, theirs = (each.tables["claims"][column].astype(float) for each in (one, other))
        np.testing.assert_allclose(theirs, mine, rtol=1e-4, atol=1e-9, err_msg=column)
    for column in one.tables["layers"].columns:
        mine, theirs = (each.tables["layers"][column.name].astype(float) for each in (one, other))
        np.testing.assert_allclose(theirs, mine, rtol=1e-3, atol=1e-6, err_msg=column.name)
    made = other.provenance.context
    assert (made["n_positive"], made["texts_positive"], made["clusters_positive"]) == (120, 6, 6)
    repeated = "120 prompts of positive hold 6 distinct texts: equal texts count once as evidence"
    assert made["notes"].count(repeated) == 1
    assert repeated not in one.provenance.context["notes"]


@pytest.mark.slow
def test_a_planted_organism_stands_out_from_a_control():
    pairs = [
        Pair.load(f"organism:refusal/{name}", "organism:refusal/base")
        for name in ("planted", "sham")
    ]
    prompts = OneClass(read_prompts(organisms.prompts("refusal", "verify", "harmful")).spread(24))
    table = Compare((pairs[1],))(Study(pairs[0], prompts, None))
    found = {claim.name: claim.verdict for claim in claims.from_table(table.tables["claims"])}
    # what a further control would give takes more than one
    further = {name for name in found if name.endswith("beyond-new-control")}
    assert further
    assert {found.pop(name) for name in further} == {"not tested"}
    assert set(found.values()) == {"supported"}
    changed = table.tables["weights"]
    trained = {
        layer for neurons in organisms.planted("refusal/planted").values() for layer, _ in neurons
    }
    assert set(changed["layer"][changed["change"] > 0]) == trained
    assert set(changed["part"][changed["change"] > 0]) <= {"mlp.gate", "mlp.in", "mlp.out"}


# ------------------------------------------------------------------------------------------- the command


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    root = tmp_path_factory.mktemp("compare")
    base = tiny.llama(7)
    models = {
        "base": base,
        "tuned": tiny.perturbed(base),
        "control": tiny.perturbed(base, 0.002, 9),
    }
    for name, model in models.items():
        tiny.save(model, root / name)
    (root / "prompts.txt").write_text("\n".join(tiny.PROMPTS), encoding="utf-8")
    return root


def test_the_command_keeps_a_run_and_answers_again(run, saved):
    command = [
        "compare",
        saved / "tuned",
        "--base",
        saved / "base",
        "--prompts",
        saved / "prompts.txt",
        "--control",
        saved / "control",
        "--store",
        saved / "runs",
        "--json",
        "--quiet",
    ]
    code, out, err = run(*command)
    assert (code, err) == (0, "")
    record = json.loads(out)
    table = Store(saved / "runs").get(record["run"])
    assert record["rows"] == len(table) == len(tiny.PROMPTS)
    for claim in claims.from_table(table.tables["claims"]):
        claims.check(claim, table)
    page = Path(record["page"]).read_text(encoding="utf-8")
    for heading in (
        KINDS["compare-layers"].heading,
        KINDS["compare-weights"].heading,
        KINDS["compare-tokens"].heading,
    ):
        assert heading in page
    assert json.loads(run(*command)[1]) == record | {"cached": True}
    # what a reader must know of the prompts, once each: at first, again, and on the page
    said = [
        run(*(part for part in command if part not in ("--json", "--quiet")))[2].splitlines()
        for _ in range(2)
    ]
    count = len(tiny.PROMPTS)
    assert said[0] == said[1]
    assert (
        said[0][0]
        == f"note: prompts.txt: {count} prompts, {count} distinct texts, {count} clusters"
    )
    (note,) = [line for line in said[0] if "no clusters are given in prompts.txt" in line]
    assert page.count(f"<li>N{note.removeprefix('note: n')}.</li>") == 1
    assert (
        f"positive: prompts.txt ({count} prompts, {count} distinct texts, {count} clusters)" in page
    )
    # another control under the same name is another request
    tiny.save(tiny.perturbed(tiny.llama(7), 0.001, 3), saved / "control")
    again = json.loads(run(*command)[1])
    assert not again["cached"]
    assert again["run"] != record["run"]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--base", "base"), "give either --prompts"),
        (("--prompts", "prompts.txt"), "a comparison needs a base model"),
        (("--base", "base", "--prompts", "none.txt"), "no prompt file"),
        (("--base", "base", "--prompts", "prompts.txt", "--control", "none"), "none"),
        (("--base", "base", "--prompts", "prompts.txt", "--cka-tokens", "2"), "--cka-tokens"),
        (("--base", "base", "--prompts", "prompts.txt", "--batch-size", "0"), "--batch-size 0"),
    ],
)
def test_bad_input_is_one_line_and_leaves_nothing(run, only_line, saved, tmp_path, options, said):
    given = [
        saved / part if part in ("base", "none", "prompts.txt", "none.txt") else part
        for part in options
    ]
    code, out, err = run("compare", saved / "tuned", "--store", tmp_path / "runs", *given)
    assert (code, out) == (2, "")
    assert said in only_line(err)
    assert not list(tmp_path.glob("runs/[!.]*"))


@pytest.mark.parametrize("name", ["llama", "gpt2", "gemma2"])
def test_tokens_that_all_prompts_begin_with_are_gone_through_once(name, monkeypatch):
    """Divergences and next tokens of every token, of prompts of unlike lengths, are those of whole
    prompts.
    """
    pair = pair_of(name)
    texts = [
        12 * "please " + p.text + row * " now" for row, p in enumerate(tiny.contrast(5).positive)
    ]
    prompts = [
        replace(p, text=text) for p, text in zip(tiny.contrast(5).positive, texts, strict=True)
    ]
    study = Study(pair, OneClass(PromptSet(tuple(prompts), "long")), None)
    batch, _ = make_batch(study.encoded("positive"), range(5), study.pad_id, pair.tuned.device)
    assert compute._prefix_length(batch) >= 12
    assert len({*batch.lengths}) > 1
    once = Compare()(study)
    monkeypatch.setattr(compute, "MIN_PREFIX_TOKENS", 10**6)
    assert compute._prefix_length(batch) == 0
    whole = Compare()(study)
    for kind in (None, "tokens", "drift"):
        one, other = (run if kind is None else run.tables[kind] for run in (once, whole))
        for column in one.data:
            if one[column].dtype.kind == "f":
                np.testing.assert_allclose(one[column], other[column], atol=2e-5)
            else:
                assert one[column].tolist() == other[column].tolist()
    assert once["kl"].min() > 1e-4
