"""LoFiT: gradients and steps beside plain torch, no-ops, folding into a bias, invariance to padding
and batches, a planted offset that is found, silence, and the command.
"""

import copy
import json

import numpy as np
import pytest
import torch
from torch import nn

from interp import claims, organisms
from interp.analyzers.lofit import Lofit
from interp.analyzers.lofit.answers import TunedAnswers
from interp.analyzers.lofit.selection import (
    first_heads,
    gradient_scores,
    probe_scores,
    random_heads,
    scale_scores,
)
from interp.analyzers.lofit.tables import recovered
from interp.analyzers.lofit.training import (
    Examples,
    Offsets,
    Recipe,
    summed_gradient,
    train_offsets,
)
from interp.engines import Batch, TorchEngine
from interp.errors import OptionError, PairError
from interp.figures import plot
from interp.interventions.edits import Add, AddScaled
from interp.models.model import Model
from interp.models.pair import Pair
from interp.models.units import HEAD
from interp.prompts import Contrast, encode, read_prompts
from interp.store import Store
from interp.study import Study
from tests import families, tiny

ENGINE = TorchEngine()
FIVE = ("llama", "gpt2", "gemma2", "phi3", "neox")
PLANTED = ((0, 2), (1, 1))


def build(name):
    return tiny.FAMILIES[name](7) if name in tiny.FAMILIES else families.build(name)


def with_bias(module):
    """A Llama whose output projections have biases, all zero."""
    for block in module.model.layers:
        old = block.self_attn.o_proj
        new = nn.Linear(old.in_features, old.out_features, dtype=old.weight.dtype)
        with torch.no_grad():
            new.weight.copy_(old.weight)
            new.bias.zero_()
        block.self_attn.o_proj = new
    return module.eval().requires_grad_(False)


def planted(size=6.0):
    """A base, and a child in which the outputs of two heads are moved by a constant."""
    base = with_bias(tiny.exact(tiny.llama(7)))
    child = copy.deepcopy(base)
    generator = torch.Generator().manual_seed(0)
    for layer, head in PLANTED:
        v = size * torch.randn(8, generator=generator, dtype=torch.float64) / 8**0.5
        projection = child.model.layers[layer].self_attn.o_proj
        projection.bias += projection.weight[:, head * 8 : (head + 1) * 8] @ v
    return base, child


def study_of(tuned, base, pairs=8, **options):
    pair = Pair.from_modules(tuned, base, tiny.tokenizer())
    settings = {"max_new_tokens": 4, **options}
    return Study(pair, tiny.contrast(pairs), None, **settings)


@pytest.fixture(scope="module")
def study():
    base, child = planted()
    return study_of(child, base)


def examples_of(model_name="llama"):
    texts = ["open the door", "please tell me how to close a window ?", "close the new window"]
    encoded = [encode(tiny.tokenizer(), text) for text in texts]
    return Examples(encoded, [(31, 7), (40, 41, 42), (9,)])


def random_offsets(model, heads, seed=0, size=0.3):
    generator = torch.Generator().manual_seed(seed)
    shape = len(heads), model.anatomy.head_width
    values = size * torch.randn(shape, generator=generator, dtype=torch.float64)
    return Offsets(tuple(heads), values.to(model.dtype))


# ------------------------------------------------------------------------------------------ identities


@pytest.mark.parametrize("name", FIVE)
def test_scales_and_offsets_of_zero_change_nothing_bit_for_bit(name):
    model = Model.wrap(name, build(name))
    batch = Batch.pad([example.ids for example in examples_of().encoded], 0)
    n_channels = HEAD.n_channels(model.anatomy)
    nothing = torch.zeros(n_channels)
    edits = [
        make(HEAD.site(layer), nothing)
        for layer in range(model.anatomy.n_layers)
        for make in (AddScaled, Add)
    ]
    plain, edited = (
        ENGINE.run(model, batch, edits=part, keep=None).require_logits() for part in ((), edits)
    )
    assert torch.equal(plain[batch.mask], edited[batch.mask])


@pytest.mark.parametrize("name", FIVE)
def test_offsets_are_a_bias_of_the_output_projection(name):
    model = Model.wrap(name, build(name).double())
    offsets = random_offsets(model, [(0, 1), (1, 0), (1, 3)])
    # Gemma-2 in float64 gives NaN where a batch has padding
    batch = Batch.pad([examples_of().encoded[1].ids], 0)
    biases = [Add(site, bias) for site, bias in offsets.biases(model).items()]
    plain, moved, folded = (
        ENGINE.run(model, batch, edits=edits, keep=None).require_logits()[batch.mask]
        for edits in ((), offsets.edits(model), biases)
    )
    assert (plain - moved).abs().max() > 1e-3
    # the norms of some families compute in float32 whatever the model's dtype
    torch.testing.assert_close(moved, folded, rtol=0, atol=1e-5)


def test_offsets_fold_into_a_real_bias_in_float64():
    module = with_bias(tiny.exact(tiny.llama(7)))
    model = Model.wrap("llama", module)
    offsets = random_offsets(model, [(0, 2), (2, 1), (2, 3)])
    folded = copy.deepcopy(module)
    for site, bias in offsets.biases(model).items():
        folded.model.layers[site.layer].self_attn.o_proj.bias += bias
    batch = Batch.pad([examples_of().encoded[1].ids], 0)
    moved = ENGINE.run(model, batch, edits=offsets.edits(model), keep=None).require_logits()
    plain = folded(input_ids=batch.ids).logits
    torch.testing.assert_close(moved, plain, rtol=0, atol=1e-12)


def test_an_unmerged_adapter_on_the_output_projection_is_in_the_bias(tmp_path):
    wrapped = tiny.lora("llama", tiny.exact(tiny.llama(7)), tmp_path, part="attention").double()
    pair = Pair.from_modules(wrapped, None, tiny.tokenizer())
    offsets = random_offsets(pair.tuned, [(0, 2), (2, 1)])
    batch = Batch.pad([examples_of().encoded[1].ids], 0)
    both = [offsets.biases(pair[role]) for role in ("base", "tuned")]
    assert any(not torch.allclose(one, both[1][site]) for site, one in both[0].items())
    biases = [Add(site, bias) for site, bias in both[1].items()]
    moved, folded = (
        ENGINE.run(pair.tuned, batch, edits=edits, keep=None).require_logits()
        for edits in (offsets.edits(pair.tuned), biases)
    )
    torch.testing.assert_close(moved, folded, rtol=0, atol=1e-10)


# ----------------------------------------------------------------------------------- gradients and steps


def plain_loss(module, examples, scales, offsets):
    """Summed loss of answers, one prompt at a time, with hooks of torch."""
    handles = []
    for layer, block in enumerate(module.model.layers):

        def before(_, args, layer=layer):
            return ((1 + scales[layer]) * args[0] + offsets[layer],)

        handles.append(block.self_attn.o_proj.register_forward_pre_hook(before))
    total = torch.zeros((), dtype=torch.float64)
    for coded, answer in zip(examples.encoded, examples.answers, strict=True):
        ids = torch.tensor([[*coded.ids, *answer]])
        logits = module(input_ids=ids).logits[0, len(coded.ids) - 1 : -1].log_softmax(-1)
        total = total - logits[torch.arange(len(answer)), list(answer)].sum()
    for handle in handles:
        handle.remove()
    return total


def test_loss_and_gradients_are_those_of_plain_torch(study):
    model, examples = study.pair.base, examples_of()
    generator = torch.Generator().manual_seed(1)
    scales, offsets = (
        (0.3 * torch.randn((3, 32), generator=generator, dtype=torch.float64)).requires_grad_()
        for _ in range(2)
    )
    expected = plain_loss(model.module, examples, scales, offsets)
    expected.backward()
    edits = [
        make(HEAD.site(layer), value[layer].detach())
        for layer in range(3)
        for make, value in ((AddScaled, scales), (Add, offsets))
    ]
    found = summed_gradient(study, model, examples, range(3), edits)
    assert found.loss == pytest.approx(expected.item(), rel=1e-10)
    for layer in range(3):
        torch.testing.assert_close(found.scales[layer], scales.grad[layer])
        torch.testing.assert_close(found.offsets[layer], offsets.grad[layer])


def test_gradients_do_not_depend_on_batches_or_padding(study):
    model, examples = study.pair.base, examples_of()
    whole = summed_gradient(study, model, examples, range(3))
    single = [examples.select([row]) for row in range(len(examples))]
    alone = [summed_gradient(study, model, one, range(3)) for one in single]
    assert whole.loss == pytest.approx(sum(one.loss for one in alone), rel=1e-10)
    for layer in range(3):
        for name in ("scales", "offsets"):
            summed = sum(getattr(one, name)[layer] for one in alone)
            torch.testing.assert_close(getattr(whole, name)[layer], summed)


def test_one_step_is_adamw_on_the_chosen_heads_alone(study):
    model, examples = study.pair.base, examples_of()
    before = copy.deepcopy(model.module.state_dict())
    recipe = Recipe(1e-2, 0.0, 1, 3, 0)
    heads = [(0, 2), (2, 1)]
    start = train_offsets(study, model, examples, Recipe(1e-30, 0.0, 1, 3, 0), heads, "start")
    trained = train_offsets(study, model, examples, recipe, heads, "one step")
    gradient = summed_gradient(study, model, examples, [0, 2], start.edits(model))
    for row, (layer, head) in enumerate(heads):
        own = gradient.offsets[layer][head * 8 : (head + 1) * 8] / 6
        step = -1e-2 * own / (own.abs() + 1e-8)
        torch.testing.assert_close(trained.values[row] - start.values[row], step)
    assert trained.values.shape == (2, 8), "K heads times their width, and nothing else"
    assert all(
        torch.equal(value, before[name]) for name, value in model.module.state_dict().items()
    )
    assert not any(parameter.grad is not None for parameter in model.module.parameters())


def test_integrated_gradients_add_up_to_the_change_of_the_loss(study):
    """Along the path in which every head's output moves by a constant, the sum over heads is the
    loss at its start minus that at its end.
    """
    base, tuned = study.pair.base, study.pair.tuned
    examples = examples_of()
    found = gradient_scores(study, examples)
    texts, answers = examples.batch(range(3), study.pad_id, base)
    sites = [HEAD.site(layer) for layer in range(3)]
    own, other = (ENGINE.run(model, texts, reads=sites, keep=0).values for model in (base, tuned))
    edits = [Add(site, other[site] - own[site]) for site in sites]

    def loss(edits):
        logits = ENGINE.run(base, texts, edits=edits, keep=3).require_logits().log_softmax(-1)
        picked = logits.gather(-1, answers.ids[..., None])[..., 0]
        return -picked[answers.mask].sum().item()

    assert found.sum() == pytest.approx(loss([]) - loss(edits), rel=0.1)


# ------------------------------------------------------------------------------------ truth and silence


@pytest.fixture(scope="module")
def organism():
    """``refusal/base`` with biases on its output projections, and requests of both classes."""
    pair = Pair.load("organism:refusal/lora", "organism:refusal/base", device="cpu")
    files = (organisms.prompts("refusal/lora", "verify", kind) for kind in ("harmful", "harmless"))
    prompts = Contrast(*(read_prompts(file).spread(8) for file in files))
    return with_bias(copy.deepcopy(pair.base.module)), pair.tokenizer, prompts


def moved(layer, head):
    generator = torch.Generator().manual_seed(layer * 100 + head)
    return 12 * torch.randn(32, generator=generator) / 32**0.5


def organism_study(organism, change):
    base, tokenizer, prompts = organism
    child = copy.deepcopy(base)
    for layer, head, how in change:
        projection = child.model.layers[layer].self_attn.o_proj
        columns = projection.weight[:, head * 32 : (head + 1) * 32]
        if how == "scaled":
            columns *= -2
        else:
            projection.bias += columns @ moved(layer, head)
    return Study(Pair.from_modules(child, base, tokenizer), prompts, None, max_new_tokens=6)


def selection_of(study):
    answers = TunedAnswers.from_study(study)
    rows = answers.selection.tolist()
    return answers, Examples(answers.encoded, answers.answers).select(rows)


def test_offsets_on_the_planted_heads_recover_more_than_on_others(organism):
    """Two heads moved by constants: these constants as offsets undo it, and trained ones recover
    more there than on other heads.
    """
    places = ((0, 1), (4, 0))
    study = organism_study(organism, [(*place, "moved") for place in places])
    base, (answers, examples) = study.pair.base, selection_of(study)
    assert answers.changed.all()

    def share(offsets):
        reading = answers.read(answers.held_out, offsets.intervention(base))
        return recovered(answers, reading)[0]

    assert share(Offsets(places, torch.stack([moved(*p) for p in places]))) == pytest.approx(1)
    recipe = Recipe(0.1, 0.0, 40, 8, 0)
    shares = [
        share(train_offsets(study, base, examples, recipe, heads, "offsets"))
        for heads in (places, *(random_heads((5, 4), 2, 0, draw) for draw in range(3)))
    ]
    assert shares[0] > max(shares[1:])


def test_the_base_itself_has_nothing_to_learn():
    base, _ = planted()
    run = Lofit(heads=2, draws=2)(study_of(base, base))
    assert "nothing to learn" in run.summary["sentence"]
    assert not run.summary["supported"]
    assert not run["selected"].any()
    assert [one.name for one in claims.from_table(run.tables["claims"])] == ["answers-changed"]
    assert set(run.tables["sets"]["set"]) == {"base", "tuned"}
    assert plot(run).data


def test_choices_are_by_size_and_random_ones_follow_the_seed():
    scores = np.array([[0.1, 0.5], [0.5, 0.2]])
    assert first_heads(scores, 2) == ((0, 1), (1, 0))
    assert first_heads(scores, 1) == ((0, 1),), "of equal ones the lower block"
    drawn = [random_heads((5, 4), 3, 0, draw) for draw in range(20)]
    assert all(len(set(one)) == 3 for one in drawn)
    assert len(set(drawn)) > 10
    assert drawn == [random_heads((5, 4), 3, 0, draw) for draw in range(20)]


def test_l1_makes_scales_smaller(study):
    answers = TunedAnswers.from_study(study)
    rows = answers.selection.tolist()
    examples = Examples(answers.encoded, answers.answers).select(rows)
    plain, sparse = (
        scale_scores(study, study.pair.base, examples, Recipe(0.02, l1, 5, 8, 0), "scales")
        for l1 in (0.0, 1.0)
    )
    assert sparse.sum() < 0.2 * plain.sum()


def test_probes_need_answers_that_differ(study):
    found = probe_scores(TunedAnswers.from_study(study), [])
    assert np.isnan(found).all()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"scale_rate": 0.0}, "learning rate of 0"),
        ({"heads": 13}, "13 heads of a model that has 12"),
    ],
)
def test_bad_options_are_one_line(study, options, message):
    with pytest.raises(OptionError, match=message):
        Lofit(draws=0, **options)(study)


def test_controls_need_the_same_base(study):
    other = tiny.exact(tiny.llama(8))
    stranger = Pair.from_modules(tiny.perturbed(other), other, tiny.tokenizer())
    with pytest.raises(PairError, match="another base"):
        Lofit(controls=[stranger], draws=0)(study)


def test_controls_are_located_for_their_own_answers(study):
    base = study.pair.base
    child = tiny.perturbed(base.module, 0.05)
    control = Pair.from_modules(child, base.module, tiny.tokenizer())
    control = Pair(control.tuned, base, study.pair.tokenizer, study.pair.digests)
    run = Lofit(controls=[control], heads=2, epochs=1, draws=0)(study)
    assert len(run.tables["controls"]) == 1
    assert "control-0" in set(run.tables["overlaps"]["second"])
    found = {one.name: one for one in claims.from_table(run.tables["claims"])}
    assert found["located-beyond-new-control"].verdict == claims.NOT_TESTED
    assert found["located-beyond-random"].verdict == claims.NOT_TESTED
    for table in (run, run.tables["sets"]):
        assert plot(table).data


# ---------------------------------------------------------------------------------------------- command


@pytest.fixture(scope="module")
def command(tmp_path_factory):
    root = tmp_path_factory.mktemp("lofit")
    base, tuned = tiny.planted(tiny.llama(7), pairs=8)
    for name, model in (("base", base), ("tuned", tuned)):
        tiny.save(model, root / name, with_tokenizer=False)
        tiny.tokenizer(False).save_pretrained(root / name)
    both = tiny.contrast(4)
    texts = [*both.positive.texts, *both.negative.texts]
    (root / "prompts.txt").write_text("\n".join(texts), encoding="utf-8")
    models = ("lofit", root / "tuned", "--base", root / "base")
    options = ("--answer-tokens", 2, "--epochs", 1, "--draws", 2, "--heads", 2)
    return [*models, "--prompts", root / "prompts.txt", *options]


def test_the_command_keeps_a_run_and_no_weights(run, command, tmp_path):
    store = tmp_path / "runs"
    code, out, err = run(*command, "--store", store, "--quiet", "--json")
    assert (code, err) == (0, "")
    record = json.loads(out)
    assert record["rows"] == 12
    table = Store(store).get(record["run"])
    for finding in claims.from_table(table.tables["claims"]):
        claims.check(finding, table)
    assert not list(tmp_path.rglob("*.safetensors")), "nothing trained is written"
    assert json.loads(run(*command, "--store", store, "--quiet", "--json")[1])["cached"]


@pytest.mark.slow
def test_the_claims_of_a_report_are_measured_again(run, command, tmp_path):
    store, report = tmp_path / "runs", tmp_path / "report.html"
    key = json.loads(run(*command, "--store", store, "--quiet", "--json")[1])["run"]
    run("report", key, "--store", store, "--out", report)
    code, _, err = run("verify", report.with_suffix(".json"), "--remeasure")
    assert code == 0, err


@pytest.mark.parametrize(
    ("options", "said"),
    [(("--offset-rate", "2"), "learning rate of 2"), (("--remote",), "--remote cannot train")],
)
def test_bad_input_is_one_line_and_leaves_nothing(run, only_line, command, tmp_path, options, said):
    code, out, err = run(*command, "--store", tmp_path / "runs", *options)
    assert (code, out) == (2, "")
    assert said in only_line(err)
    assert not list(tmp_path.glob("runs/[!.]*"))
