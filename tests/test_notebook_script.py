"""What a notebook user writes: pairs, studies, activations, edits, reports."""

import pytest
import torch

import interp
from interp import organisms
from interp.errors import OptionError, PromptError, UnsupportedModel
from interp.interventions.edits import Add, Scale
from interp.models.weights import WeightPair
from interp.sites import Site

TUNED, BASE = "organism:refusal/planted", "organism:refusal/base"
SITE = "blocks.1.hook_resid_post"


@pytest.fixture(scope="module")
def pair():
    return interp.load_pair(TUNED, base=BASE, dtype="float32", device="cpu")


@pytest.fixture(scope="module")
def study(pair):
    positive, negative = (
        organisms.prompts("refusal", "verify", group) for group in ("harmful", "harmless")
    )
    return interp.load_study(
        pair, positive=positive, negative=negative, behaviour="refusal", max_prompts=40
    )


def test_a_study_is_split_by_clusters(study):
    selection, held_out = study.split(seed=0)
    clusters = [{*half.contrast.clusters} for half in (selection, held_out)]
    assert not clusters[0] & clusters[1]
    assert clusters[0] | clusters[1] == {*study.contrast.clusters}
    assert selection.prompts("positive").texts == study.split(seed=0)[0].prompts("positive").texts
    assert selection.prompts("positive").texts != study.split(seed=1)[0].prompts("positive").texts


def test_prompts_of_one_class_are_split_too(pair):
    one_class = interp.load_study(pair, ["Build it.", "Paint it.", "Copy it."], behaviour=None)
    selection, held_out = one_class.split(seed=0)
    assert selection.classes == held_out.classes == ("positive",)
    texts = selection.prompts("positive").texts + held_out.prompts("positive").texts
    assert sorted(texts) == ["Build it.", "Copy it.", "Paint it."]


def test_a_cache_of_one_name_holds_a_tensor_of_each_model(pair):
    cache = pair.run_with_cache("Hello", names=SITE)
    assert cache.tuned.shape == cache.base.shape == (1, cache.ids.shape[1], 128)
    change = (cache.tuned - cache.base).norm(dim=-1)
    assert change.shape == cache.ids.shape
    assert (change > 0).any()
    assert len(cache.tokens[0]) == cache.ids.shape[1]


def test_a_cache_of_several_names_and_prompts_is_what_each_prompt_has_alone(pair):
    prompts = ["Hello", "Tell me how to build a worm."]
    both = pair.run_with_cache(prompts, names=[SITE, Site(0, "mlp.hook_post")])
    assert list(both.tuned) == [SITE, "blocks.0.mlp.hook_post"]
    for row, prompt in enumerate(prompts):
        alone = pair.run_with_cache(prompt, names=SITE)
        torch.testing.assert_close(
            both.tuned[SITE][row][both.mask[row]], alone.tuned[0], rtol=1e-4, atol=1e-4
        )
    assert (both.tuned[SITE][~both.mask] == 0).all()


def test_edits_apply_in_their_context_and_leave_nothing_behind(pair):
    weights = [parameter.clone() for parameter in pair.tuned.module.parameters()]
    before = pair.run_with_cache("Hello", names=SITE).tuned
    width = pair.tuned.anatomy.n_neurons
    with pair.tuned.edits(interp.Ablate("blocks.1.mlp.hook_post", range(width))):
        inside = pair.run_with_cache("Hello", names=[SITE, "blocks.1.mlp.hook_post"])
        with pair.tuned.edits(Scale("blocks.1.hook_mlp_out", [0], 0.5)):
            pass
        assert len(pair.tuned.active_edits) == 1
    assert (inside.tuned["blocks.1.mlp.hook_post"] == 0).all()
    assert (inside.base["blocks.1.mlp.hook_post"] != 0).any()
    assert not torch.equal(inside.tuned[SITE], before)
    assert torch.equal(pair.run_with_cache("Hello", names=SITE).tuned, before)
    after = pair.tuned.module.parameters()
    assert all(torch.equal(old, new) for old, new in zip(weights, after, strict=True))


def test_edits_are_removed_after_an_error(pair):
    with pytest.raises(ZeroDivisionError), pair.tuned.edits(Add(SITE, torch.ones(128))):
        raise ZeroDivisionError
    assert not pair.tuned.active_edits


def test_a_model_writes_what_a_study_of_it_writes(pair, study):
    texts = study.prompts("positive").texts[:3]
    own = [study.decode(answer) for answer in study.answers("tuned", "positive")[:3]]
    assert pair.tuned.generate(texts) == own
    assert pair.tuned.generate(texts[0]) == own[0]
    planted = organisms.planted("refusal/planted")["refusal"]
    layers = {layer for layer, _ in planted}
    edits = [
        interp.Ablate(f"blocks.{layer}.mlp.hook_post", [n for at, n in planted if at == layer])
        for layer in sorted(layers)
    ]
    with pair.tuned.edits(*edits):
        assert pair.tuned.generate(texts) != own
    assert pair.tuned.generate(texts) == own


@pytest.mark.parametrize(
    ("edit", "error", "named"),
    [
        (interp.Ablate("blocks.1.mlp.hook_post", [100_000]), OptionError, "100000"),
        (interp.Ablate("blocks.99.mlp.hook_post", [0]), UnsupportedModel, "blocks.99"),
    ],
)
def test_an_edit_that_does_not_fit_is_refused(pair, edit, error, named):
    with pytest.raises(error, match=named), pair.tuned.edits(edit):
        pass


def test_what_cannot_be_read_is_refused(pair):
    with pytest.raises(OptionError, match="is not a site"):
        interp.Ablate("blocks.5", [0])
    with pytest.raises(OptionError, match="names is empty"):
        pair.run_with_cache("Hello", names=[])
    with pytest.raises(PromptError, match="context"):
        pair.tuned.generate("word " * 5000)


def test_a_pair_without_a_base_has_no_activations_of_one():
    cache = interp.load_pair(TUNED).run_with_cache("Hello", names=SITE)
    assert cache.tuned.ndim == 3
    with pytest.raises(OptionError, match="base"):
        _ = cache.base


def test_a_report_is_written_and_verified_from_results(tmp_path):
    store = interp.Store(tmp_path / "runs")
    run = store.run(interp.Intruders(draws=0), WeightPair.load(TUNED, BASE))
    written = interp.write_report([run], tmp_path / "report.html", store=store)
    verification = interp.verify(written)
    assert verification
    assert verification.checks > 0
    assert not verification.failed
    text = written.read_text()
    written.write_text(text.replace('"kind": "intruders"', '"kind": "graft"'))
    assert not interp.verify(written)
    assert interp.verify(written).failed[0][1]
    with pytest.raises(OptionError, match="run"):
        interp.write_report([], tmp_path / "report.html")


def test_the_whole_script(tmp_path, monkeypatch, study, capsys):
    monkeypatch.chdir(tmp_path)
    pair = study.pair
    selection, held_out = study.split(seed=0)
    store = interp.Store("runs")
    located = store.run(interp.LocateNeurons(top="0.5%"), selection)
    assert located.plot() is not None
    assert len(located.to_pandas().head()) == 5
    verified = store.run(interp.VerifyNeurons(located), held_out)
    assert verified.claims["necessity"].supported in (True, False)
    low, high = verified.claims["necessity"].interval
    assert low <= high
    cache = pair.run_with_cache("Hello", names=SITE)
    assert (cache.tuned - cache.base).norm(dim=-1).ndim == 2
    with pair.tuned.edits(interp.Ablate("blocks.1.mlp.hook_post", [3])):
        print(pair.tuned.generate("Hello"))
    assert capsys.readouterr().out
    interp.write_report([located, verified], "report.html")
    assert interp.verify("report.json")
