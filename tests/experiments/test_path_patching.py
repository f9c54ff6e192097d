"""Path patching against passes of whole texts, by hand on plain modules in float64, and its
identities, in families with grouped queries, fused projections and adapters.
"""

import random

import numpy as np
import pytest
import torch

from interp.engines import TorchEngine
from interp.errors import OptionError
from interp.experiments.head_groups import (
    DEFAULT_GROUPS,
    HeadGroup,
    heads_at,
    parse_group,
    random_circuit,
    require_chain,
    top_heads,
    without_repeats,
)
from interp.experiments.mean_ablation import Evaluation, mean_outputs
from interp.experiments.path_patching import (
    LOGIT_DIFFERENCE,
    Columns,
    Patching,
    clean_and_corrupt,
    scores_of_group,
)
from interp.interventions.edits import Replace
from interp.models.model import Model
from interp.models.pair import Pair
from interp.prompts import TokenRow, TokenText
from interp.sites import Site
from tests import families, tiny

A, B, C, D = DEFAULT_GROUPS
NAMES = ("last", "label", "mention")
RECEIVERS = {"A": [], "B": [(2, 0), (1, 3)], "C": [(2, 1)], "D": [(2, 1), (1, 2)]}
BUILD = {
    "llama": tiny.llama,
    "gpt2": tiny.gpt2,
    **{
        name: lambda name=name: families.build(name)
        for name in ("qwen2", "gemma2", "olmo2", "phi3", "neox")
    },
}


def rows(count, *, corrupt=True, lengths=(9, 12)):
    """Random token ids with three named columns; ``corrupt`` False: the corrupted text is the same."""
    rng = random.Random(0)

    def text(length):
        ids = tuple(rng.randrange(4, 300) for _ in range(length))
        return TokenText(ids, {"last": length - 1, "label": length - 3, "mention": 2})

    result = []
    for number in range(count):
        length = rng.randint(*lengths)
        clean, other = text(length), text(length)
        answer = rng.randrange(4, 300)
        used = other if corrupt else clean
        result.append(TokenRow(number, str(number), clean, answer, used, {}, {}))
    return result


def corrupted(some):
    """The corrupted texts of rows."""
    return [row.corrupt or row.prompt for row in some]


def patching(model, some, **options):
    return Patching(TorchEngine(), model, some, 0, **options)


@pytest.fixture(scope="module", params=BUILD)
def model(request):
    return Model.wrap(request.param, BUILD[request.param]())


def whole_text_scores(own, group, receivers):
    """The algorithm on whole texts: all attention outputs held, then receivers patched."""
    anatomy, engine = own.model.anatomy, own.engine
    batch = own.batch([row.prompt for row in own.rows])
    width = batch.ids.shape[1]
    at = torch.arange(len(own.rows))
    column = torch.tensor(
        [row.prompt.columns[group.position] + width - len(row.prompt.ids) for row in own.rows]
    )
    corrupt = own.columns([row.corrupt for row in own.rows], [group.position])[group.position].z
    sites = [Site(layer, "attn.hook_z") for layer in range(anatomy.n_layers)]
    clean = engine.run(own.model, batch, reads=sites, keep=1)
    before = own.metric(clean.logits[:, -1], range(len(own.rows)))
    mask = torch.zeros(batch.ids.shape, dtype=torch.bool)
    mask[at, column] = True
    result = np.zeros((len(own.rows), anatomy.n_layers, anatomy.n_heads))
    for layer in range(anatomy.n_layers):
        for head in range(anatomy.n_heads):
            span = slice(head * anatomy.head_width, (head + 1) * anatomy.head_width)
            edits = []
            for number, site in enumerate(sites):
                z = clean.values[site].clone()
                if number == layer:
                    z[at, column, span] = corrupt[:, layer, span]
                edits.append(Replace(site, z))
            channels = own.receiver_channels(receivers, group.via) if group.via else {}
            run = engine.run(own.model, batch, reads=[*channels], edits=edits, keep=1)
            if group.via:
                patches = [
                    Replace(site, run.values[site][..., index], index, mask)
                    for site, index in channels.items()
                ]
                run = engine.run(own.model, batch, edits=patches, keep=1)
            after = own.metric(run.logits[:, -1], range(len(own.rows)))
            result[:, layer, head] = own.change(after, before)
    return result


@pytest.mark.parametrize("group", [A, B, C], ids="ABC")
def test_single_columns_give_what_whole_texts_give(model, group):
    own = patching(model, rows(3))
    found = scores_of_group([own], group, RECEIVERS[group.name]).by_prompt
    wanted = whole_text_scores(own, group, RECEIVERS[group.name])
    np.testing.assert_allclose(found, wanted, atol=2e-5)
    assert np.abs(wanted).max() > 1e-3


def test_a_text_that_is_its_own_corruption_changes_nothing(model):
    own = patching(model, rows(3, corrupt=False))
    for group in DEFAULT_GROUPS:
        found = scores_of_group([own], group, RECEIVERS[group.name]).by_prompt
        np.testing.assert_allclose(found, 0, atol=1e-6)
        estimate = scores_of_group([own], group, RECEIVERS[group.name], attribution=True)
        np.testing.assert_allclose(estimate.by_prompt, 0, atol=1e-6)


def test_attribution_is_the_first_order_of_patching(model):
    own = patching(model, rows(3))
    step = 1e-2
    for group in (A, B, C):
        clean, corrupt = (each[group.position] for each in clean_and_corrupt(own, [group.position]))
        near = Columns(clean.stream, clean.z + step * (corrupt.z - clean.z))
        layers, receivers = range(3), RECEIVERS[group.name]
        exact = (
            own.direct(clean, near, layers)
            if group is A
            else own.composed(clean, near, group, receivers, layers)
        )
        estimate = own.attributed(clean, near, group, receivers)
        np.testing.assert_allclose(estimate, exact, atol=0.05 * np.abs(exact).max())


def test_scores_do_not_depend_on_batches_or_padding():
    model = Model.wrap("llama", tiny.llama())
    some = rows(4)
    for group in DEFAULT_GROUPS:
        together = scores_of_group([patching(model, some)], group, RECEIVERS[group.name])
        apart = scores_of_group(
            [patching(model, [row]) for row in some], group, RECEIVERS[group.name]
        )
        np.testing.assert_allclose(together.by_prompt, apart.by_prompt, atol=1e-5)


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_an_unmerged_adapter_of_the_output_projection_counts(family, tmp_path):
    base = tiny.FAMILIES[family]()
    saved = tiny.save(base, tmp_path / "base")
    wrapped = tiny.lora(family, base, tmp_path / "adapter", saved, part="attention")
    pair = Pair.load(str(tmp_path / "adapter"), str(saved), dtype="float32", device="cpu")
    merged = Model.wrap("merged", wrapped.merge_and_unload())
    some = rows(3)
    for group in DEFAULT_GROUPS:
        receivers = RECEIVERS[group.name]
        with_adapter, by_merged, of_base = (
            scores_of_group([patching(model, some)], group, receivers).by_prompt
            for model in (pair.tuned, merged, pair.require_base("a test"))
        )
        np.testing.assert_allclose(with_adapter, by_merged, atol=1e-4)
        assert np.abs(with_adapter - of_base).max() > 10 * np.abs(with_adapter - by_merged).max()


def test_direct_effects_by_hand_in_float64():
    """No engine: the last column of Llama's blocks written out, attention outputs given."""
    module = tiny.exact(tiny.llama())
    own = patching(Model.wrap("llama", module), rows(2))
    clean, corrupt = (each["last"] for each in clean_and_corrupt(own, ["last"]))
    found = scores_of_group([own], A, []).by_prompt

    def answer(row, z):
        x = clean.stream[row, 0]
        for layer, block in enumerate(module.model.layers):
            x = x + block.self_attn.o_proj.weight @ z[layer]
            hidden = block.post_attention_layernorm(x[None])[0]
            gate = torch.nn.functional.silu(block.mlp.gate_proj.weight @ hidden)
            x = x + block.mlp.down_proj.weight @ (gate * (block.mlp.up_proj.weight @ hidden))
        logits = module.lm_head.weight @ module.model.norm(x[None])[0]
        return float(logits.softmax(-1)[own.rows[row].answer])

    with torch.no_grad():
        for row in range(2):
            before = answer(row, clean.z[row])
            for layer in range(3):
                for head in range(4):
                    z = clean.z[row].clone()
                    z[layer, 8 * head : 8 * head + 8] = corrupt.z[row, layer, 8 * head :][:8]
                    change = (answer(row, z) - before) / before
                    assert found[row, layer, head] == pytest.approx(change, abs=1e-10)


def test_keys_and_values_are_patched_by_group_of_query_heads():
    model = Model.wrap("llama", tiny.llama())  # four heads share two keys and values
    own = patching(model, rows(2))
    width = model.anatomy.head_width
    (queries,) = own.receiver_channels([(2, 3)], "q").values()
    assert queries.tolist() == list(range(3 * width, 4 * width))
    for via in "kv":
        (channels,) = own.receiver_channels([(2, 3)], via).values()
        assert channels.tolist() == list(range(width, 2 * width))
    by_one, by_other = (scores_of_group([own], C, [(2, head)]).by_prompt for head in (2, 3))
    np.testing.assert_array_equal(by_one, by_other)


def test_logit_differences_are_differences():
    model = Model.wrap("llama", tiny.llama())
    some = rows(3)
    wrong = [5, 6, 7]
    own = patching(model, some, score=LOGIT_DIFFERENCE, wrong=wrong)
    logits = torch.randn(3, 300)
    values = own.metric(logits, range(3))
    for row in range(3):
        difference = logits[row, some[row].answer] - logits[row, wrong[row]]
        assert float(values[row]) == pytest.approx(float(difference), abs=1e-5)
    odds = patching(model, some, score=LOGIT_DIFFERENCE).metric(logits, range(3))
    chance = logits.double().softmax(-1)[torch.arange(3), own.answers]
    torch.testing.assert_close(odds, torch.log(chance / (1 - chance)))


def everything(value):
    return {name: np.full((3, 4), value) for name in NAMES}


@pytest.mark.parametrize("lengths", [(9, 9), (8, 12)], ids=["equal", "unequal"])
def test_means_replace_what_is_not_kept_and_nothing_else(lengths):
    model = Model.wrap("llama", tiny.exact(tiny.llama()))
    some = rows(5, lengths=lengths)
    own = patching(model, some)
    batch = own.batch([row.prompt for row in some])
    plain = own.engine.run(model, batch, keep=1).require_logits()[:, -1].argmax(-1)
    some = [
        TokenRow(row.id, row.cluster, row.prompt, int(answer), row.corrupt, {}, {})
        for row, answer in zip(some, plain, strict=True)
    ]
    own = patching(model, some)
    means = mean_outputs([own], NAMES, lambda part: corrupted(part.rows))
    halves = [patching(model, some[:2]), patching(model, some[2:])]
    apart = mean_outputs(halves, NAMES, lambda part: corrupted(part.rows))
    assert means.by_column == (lengths[0] == lengths[1])
    for key, value in means.values.items():
        torch.testing.assert_close(value, apart.values[key])
    evaluation = Evaluation([own], means)
    assert evaluation.full().all()
    assert evaluation.without(everything(False)).all()  # nothing removed: the model itself
    # all heads at named positions, and all elsewhere: by whole tensors of means
    width = batch.ids.shape[1]
    values = means.of([row.prompt for row in some], NAMES, width)
    edits = [Replace(Site(layer, "attn.hook_z"), values[layer]) for layer in range(3)]
    wanted = own.engine.run(model, batch, edits=edits, keep=1).require_logits()[:, -1].argmax(-1)
    nothing_kept = evaluation.circuit(everything(False))
    np.testing.assert_array_equal(nothing_kept, (wanted == own.answers).numpy())


def test_groups_are_read_and_have_to_be_a_chain():
    assert parse_group("B:last:A:q:5") == HeadGroup("B", "last", "A", "q", 5)
    assert parse_group("A:last:logits") == HeadGroup("A", "last")
    for text in ("A", "A:last:logits:q:x", "A::logits", "a:b:c:d:e:f", "A:last:logits::-2"):
        with pytest.raises(OptionError, match="is not a group; write NAME:POSITION"):
            parse_group(text)
    require_chain(DEFAULT_GROUPS)
    wrong = {
        r"not a group before it \(none\)": [B],
        "use q, k or v": [A, HeadGroup("B", "last", "A", "x")],
        "the positions must be": [A, HeadGroup("B", "label", "A", "q")],
        "only heads at 'last'": [HeadGroup("A", "label")],
        "two groups have the name 'A'": [A, A],
        "leave it empty": [HeadGroup("A", "last", "logits", "q")],
        "no group was given": [],
    }
    for said, groups in wrong.items():
        with pytest.raises(OptionError, match=said):
            require_chain(groups)


def test_circuits_of_heads_and_random_ones_of_their_sizes():
    scores = np.array([[0.1, -0.5, -0.2], [-0.9, 0.0, -0.001]])
    assert top_heads(scores, 3) == [(1, 0), (0, 1), (0, 2)]
    assert top_heads(scores, 6) == [(1, 0), (0, 1), (0, 2), (1, 2)]
    assert top_heads(scores, 6, 0.3) == [(1, 0), (0, 1)]
    # a head of two groups at one position is in the later one; at another position it stays
    shared = without_repeats(
        {"A": [(2, 0), (2, 1)], "B": [(2, 1)], "C": [(2, 1)], "D": []}, DEFAULT_GROUPS
    )
    assert shared == {"A": ((2, 0),), "B": ((2, 1),), "C": ((2, 1),), "D": ()}
    rng = np.random.default_rng(0)
    for _ in range(20):
        drawn = random_circuit(shared, DEFAULT_GROUPS, (6, 4), rng, 3)
        assert {name: len(nodes) for name, nodes in drawn.items()} == {
            name: len(nodes) for name, nodes in shared.items()
        }
        assert all(layer in (2, 3) for nodes in drawn.values() for layer, _ in nodes)
        assert not set(drawn["A"]) & set(drawn["B"])
        assert heads_at(drawn, DEFAULT_GROUPS, (6, 4))["last"].sum() == 2
