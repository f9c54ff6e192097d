"""Cross-patching: divergences and cells beside plain passes, the cells that have to be exactly 0, silence,
a planted interaction, and the command.
"""

import copy
import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from peft.tuners.tuners_utils import BaseTunerLayer

from interp import claims, organisms
from interp.analyzers.cross_patch import CrossPatch
from interp.analyzers.cross_patch.compute import READOUTS, _cells, cross_patch
from interp.analyzers.cross_patch.compute import CrossPatch as Measured
from interp.analyzers.cross_patch.exchanged import other_prompts
from interp.analyzers.cross_patch.tables import cells_table, divergences_table, layers_table
from interp.engines import Batch, TorchEngine
from interp.errors import OptionError, PairError
from interp.experiments.first_divergence import Divergence, first_divergences
from interp.figures import plot
from interp.models.pair import Pair
from interp.prompts import OneClass, read_prompts
from interp.store import Store
from interp.study import Study
from tests import families, tiny

ENGINE = TorchEngine()
FIVE = ("llama", "gpt2", "gemma2", "phi3", "neox")


def build(name):
    return tiny.FAMILIES[name](7) if name in tiny.FAMILIES else families.build(name)


def study_of(tuned, base, count=6, **options):
    pair = Pair.from_modules(tuned, base, tiny.tokenizer())
    return Study(pair, OneClass(tiny.contrast(count).positive), None, **options)


def measure(study, depths=range(3), tokens=8):
    return cross_patch(study, study.pair, depths, tokens, "pair")


def moved(base, blocks, size=0.03):
    """A child of which only the weights of some blocks are others."""
    child, other = copy.deepcopy(base), dict(tiny.perturbed(base, size).named_parameters())
    path = "transformer.h" if hasattr(base, "transformer") else "model.layers"
    path = "gpt_neox.layers" if hasattr(base, "gpt_neox") else path
    with torch.no_grad():
        for name, value in child.named_parameters():
            if any(name.startswith(f"{path}.{block}.") for block in blocks):
                value.copy_(other[name])
    return child


# ---------------------------------------------------------------------------------------------- truth


def greedy(module, ids, count, stops):
    """A plain loop over whole texts."""
    ids = list(ids)
    for _ in range(count):
        with torch.no_grad():
            ids.append(int(module(input_ids=torch.tensor([ids])).logits[0, -1].argmax()))
        if ids[-1] in stops:
            break
    return ids


def test_events_are_where_plain_greedy_answers_part():
    base = tiny.exact(tiny.llama(7))
    study = study_of(tiny.perturbed(base, 0.002, 3), base, 12)
    found = {
        divergence.row: divergence
        for divergence in first_divergences(study, study.pair, 24, "divergences")
    }
    diverged = set()
    for row, coded in enumerate(study.encoded("positive")):
        one, other = (
            greedy(study.pair[role].module, coded.ids, 24, study.pair.stop_ids)[len(coded.ids) :]
            for role in ("base", "tuned")
        )
        at = next((at for at, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), None)
        if at is None:
            assert row not in found
            continue
        diverged.add(row)
        divergence = found[row]
        assert divergence.answer == tuple(one[:at])
        assert (divergence.base_token, divergence.tuned_token) == (one[at], other[at])
    lengths = [len(divergence.answer) for divergence in found.values()]
    assert 3 < len(diverged) < 12, "some never part"
    assert 0 in lengths
    assert max(lengths) > 16, "of a later round too"


def plain_cells(pair, ids, tokens, depth):
    """The two by two by hooks of torch on whole passes, each model's norm and head in float64."""
    models = [pair.base.module, pair.tuned.module]
    cells = np.zeros((2, 2, 2))
    for upstream in (0, 1):
        for late in (0, 1):
            with torch.no_grad():
                own = models[upstream](input_ids=ids, output_hidden_states=True)
                layer = models[late].model.layers[depth]
                hook = layer.register_forward_pre_hook(
                    lambda _, args, state=own.hidden_states[depth]: (state, *args[1:])
                )
                last: list[torch.Tensor] = []
                end = models[late].model.norm.register_forward_pre_hook(
                    lambda _, args, last=last: last.append(args[0])
                )
                models[late](input_ids=ids)
                hook.remove()
                end.remove()
                for at, reader in enumerate(models):
                    logits = reader.lm_head(reader.model.norm(last[0][:, -1]))[0]
                    cells[at, upstream, late] = logits[tokens[1]] - logits[tokens[0]]
    return cells


def test_cells_are_those_of_plain_passes():
    base = tiny.exact(tiny.llama(7))
    study = study_of(tiny.perturbed(base, 0.03), base)
    measured = measure(study)
    assert len(measured.divergences) == 6
    for at, divergence in enumerate(measured.divergences):
        ids = torch.tensor([divergence.text(study).ids])
        tokens = divergence.base_token, divergence.tuned_token
        for depth in range(3):
            plain = plain_cells(study.pair, ids, tokens, depth)
            np.testing.assert_allclose(measured.margins[:, at, depth], plain, atol=1e-12)
        # native margins: each model's own, of its own token
        assert measured.native[at, 0] == pytest.approx(-measured.margins[0, at, 0, 0, 0], abs=1e-12)
        assert measured.native[at, 1] == pytest.approx(measured.margins[1, at, 0, 1, 1], abs=1e-12)
        assert (measured.native[at] > 0).all()


@pytest.mark.parametrize("name", FIVE)
@pytest.mark.parametrize("split", [1, 2])
def test_a_child_tuned_in_one_half_has_exact_zeros(name, split):
    """Equal blocks on equal streams: not small, but 0, in batches of padded prompts."""
    base = build(name)
    below = measure(study_of(moved(base, range(split)), base))
    assert below.kept.any()
    for readout in READOUTS:
        terms = below.terms(readout)
        for term in ("late_on_base", "late_on_tuned", "interaction"):
            assert not terms[term][:, split:].any()
        assert not terms["upstream_in_base"][:, 0].any()  # the embedding is the base's
        assert terms["late_on_base"][:, :split].any()
        np.testing.assert_array_equal(
            terms["upstream_in_base"][:, split:], terms["shift"][:, split:]
        )
    above = measure(study_of(moved(base, range(split, 3)), base))
    assert above.kept.any()
    for readout in READOUTS:
        terms = above.terms(readout)
        for term in ("upstream_in_base", "upstream_in_tuned", "interaction"):
            assert not terms[term][:, : split + 1].any()
        np.testing.assert_array_equal(
            terms["late_on_base"][:, : split + 1], terms["shift"][:, : split + 1]
        )


def test_an_organism_s_blocks_in_its_base_have_exact_zeros():
    """A real fine-tune, cut at two depths; prompts share a beginning, which is read once."""
    whole = Pair.load("organism:refusal/full", "organism:refusal/base")
    prompts = read_prompts(organisms.prompts("refusal", "verify", "harmful")).spread(8)
    values = dict(whole.tuned.module.named_parameters())
    for split in (2, 4):
        child = copy.deepcopy(whole.base.module)
        with torch.no_grad():
            for name, value in child.named_parameters():
                if any(name.startswith(f"model.layers.{block}.") for block in range(split)):
                    value.copy_(values[name])
        pair = Pair.from_modules(child, whole.base.module, whole.tokenizer)
        measured = measure(Study(pair, OneClass(prompts), None), range(5), 16)
        assert measured.kept.sum() >= 3
        terms = measured.terms("tuned")
        for term in ("late_on_base", "late_on_tuned", "interaction"):
            assert not terms[term][:, split:].any()
            assert term == "interaction" or (np.abs(terms[term][:, 1]) > 1).all()


def test_terms_add_up_and_a_cell_of_one_model_is_its_own_pass():
    base = build("llama")
    study = study_of(tiny.perturbed(base, 0.03), base)
    for readout in READOUTS:
        terms = measure(study).terms(readout)
        parts = terms["late_on_base"] + terms["upstream_in_base"] + terms["interaction"]
        np.testing.assert_allclose(parts, terms["shift"], atol=1e-6)
        other = terms["late_on_tuned"] + terms["upstream_in_base"]
        np.testing.assert_allclose(other, terms["shift"], atol=1e-6)
    # a model's own stream in its own blocks: no cell differs by a bit
    batch = Batch.pad([[5, 6, 7, 8], [9, 10, 11]], 0)
    tokens = torch.tensor([[3, 4], [5, 6]])
    cells = _cells(ENGINE, [study.pair.tuned] * 2, batch, tokens[:, None], range(3))
    assert (cells == cells[:1, :1, :1, :1]).all()


def test_an_interaction_that_was_planted_is_found():
    """Block 0 writes a direction that no stream of the base has, and block 2 reads it and speaks."""
    base = tiny.exact(tiny.llama(7))
    for matrices in tiny.mlps(base):
        matrices["mlp.out"][:, 3] = 0
    prompts = tiny.contrast(6).positive
    direction = torch.linalg.svd(torch.cat(tiny.mlp_inputs(base, 2, prompts.texts)))[2][-1]
    child = copy.deepcopy(base)
    first, last = tiny.mlps(child)[0], tiny.mlps(child)[2]
    read = torch.cat(tiny.mlp_inputs(base, 0, prompts.texts))
    always = torch.linalg.solve(read.T @ read + 1e-3 * torch.eye(32).to(read), read.sum(0))
    first["mlp.gate"][3], first["mlp.in"][3] = 4 * always, always
    first["mlp.out"][:, 3] = 0.05 * direction
    last["mlp.gate"][3] = last["mlp.in"][3] = 30 * direction
    head = child.lm_head.weight.data
    says = head[tiny.tokenizer().convert_tokens_to_ids("\u0120Sorry")] - head.mean(0)
    last["mlp.out"][:, 3] = 0.5 * says / says.norm()
    pair = Pair.from_modules(child, base, tiny.tokenizer(False))
    measured = measure(Study(pair, OneClass(prompts), None))
    assert measured.kept.all()
    shares = measured.shares(1)
    assert shares["interaction"] > 0.95
    assert abs(shares["late_on_base"]) < 0.01
    assert abs(shares["upstream_in_base"]) < 0.05


# ---------------------------------------------------------------------------------------------- properties


def test_an_identical_pair_has_no_event():
    base = build("llama")
    table = CrossPatch(max_new_tokens=8)(study_of(copy.deepcopy(base), base))
    assert len(table) == len(table.tables["cells"]) == len(table.tables["rotations"]) == 0
    assert table.summary["sentence"] == (
        "The greedy answers of both models to 6 prompts do not diverge within 8 tokens: there is"
        " nothing to measure."
    )
    assert table.summary["supported"] is False


def test_events_within_rounding_are_dropped_and_counted():
    base = build("llama")
    study = study_of(tiny.perturbed(base, 0.03), base)
    whole = measure(study)
    native = whole.native.copy()
    native[0, 0], native[3, 1] = 1.9e-6, 1e-9
    some = Measured(whole.divergences, whole.margins, native, 1e-6)
    assert some.kept.tolist() == [False, True, True, False, True, True]
    assert divergences_table(study, some)["kept"].tolist() == some.kept.tolist()
    assert set(cells_table(study, some)["prompt_id"]) == {1, 2, 4, 5}
    layers = layers_table(study, some, ())
    assert set(layers["divergences"][layers["place"] == "all"]) == {4}


def test_the_first_token_is_a_row_of_its_own():
    base = build("llama")
    study = study_of(tiny.perturbed(base, 0.03), base)
    whole = measure(study)
    divergences = [
        Divergence(e.group, e.row, (5,) if at < 2 else (), e.base_token, e.tuned_token)
        for at, e in enumerate(whole.divergences)
    ]
    layers = layers_table(
        study, Measured(divergences, whole.margins, whole.native, whole.noise), ()
    )
    counts = {
        place: set(layers["divergences"][layers["place"] == place])
        for place in ("all", "first", "later")
    }
    assert counts == {"all": {6}, "first": {4}, "later": {2}}
    terms = whole.terms("tuned")
    row = (layers["place"] == "later") & (layers["depth"] == 1) & (layers["readout"] == "tuned")
    share = terms["interaction"][:2, 1].mean() / terms["shift"][:2, 1].mean()
    assert layers["interaction"][row] == pytest.approx(share)


def test_batches_and_padding_change_nothing_but_rounding():
    base = build("llama")
    tuned = tiny.perturbed(base, 0.03)
    one, other = (measure(study_of(tuned, base, batch_size=size)) for size in (None, 1))
    assert one.divergences == other.divergences
    np.testing.assert_allclose(one.margins, other.margins, atol=1e-5)


def test_an_adapter_switched_is_its_merged_model(tmp_path):
    base = build("llama")
    wrapped = tiny.lora("llama", base, tmp_path / "lora")
    switched = Pair.from_modules(wrapped, None, tiny.tokenizer())
    merged = copy.deepcopy(wrapped).merge_and_unload()
    positive = OneClass(tiny.contrast(6).positive)
    one, other = (
        measure(Study(pair, positive, None))
        for pair in (switched, Pair.from_modules(merged, base, tiny.tokenizer()))
    )
    assert one.divergences == other.divergences
    assert one.kept.any()
    np.testing.assert_allclose(one.margins, other.margins, atol=1e-4)


def test_switching_blocks_of_an_adapter_is_patching(tmp_path):
    """A cell is the module with the adapter on below the depth and off from there, or the reverse."""
    pair = Pair.from_modules(
        tiny.lora("llama", build("llama"), tmp_path / "lora"), None, tiny.tokenizer()
    )
    measured = measure(Study(pair, OneClass(tiny.contrast(3).positive), None))
    study = Study(pair, OneClass(tiny.contrast(3).positive), None)
    module = pair.tuned.module
    layers = {
        path: layer for path, layer in module.named_modules() if isinstance(layer, BaseTunerLayer)
    }
    for depth in range(1, 3):
        for upstream in (0, 1):
            for path, layer in layers.items():
                below = int(path.split(".layers.")[1].split(".")[0]) < depth
                layer.enable_adapters(bool(upstream) is below)
            for at, divergence in enumerate(measured.divergences):
                with torch.no_grad():
                    logits = module(torch.tensor([divergence.text(study).ids])).logits[0, -1]
                margin = float(logits[divergence.tuned_token] - logits[divergence.base_token])
                cells = measured.margins[:, at, depth, upstream, 1 - upstream]
                # the adapter is on no norm and no head: one readout
                np.testing.assert_allclose(cells, margin, atol=2e-6)


def test_controls_and_rotations_are_measured_where_their_own_answers_part():
    base = build("llama")
    study = study_of(tiny.perturbed(base, 0.03), base, 8)
    controls = [
        Pair.from_modules(tiny.perturbed(base, 0.03, 10 + at), base, tiny.tokenizer())
        for at in range(5)
    ]
    before = copy.deepcopy(base.state_dict())
    table = CrossPatch(controls, max_new_tokens=8, rotations=20, depth=0.5)(study)
    assert all(torch.equal(value, before[name]) for name, value in base.state_dict().items())
    assert table.summary["boundary"] == 2
    own = cross_patch(study, controls[3], [2], 8, "control")
    shares = table.tables["controls"]
    assert shares["interaction"][3] == pytest.approx(own.shares(0)["interaction"])
    assert shares["divergences"][3] == own.kept.sum()
    rotations = table.tables["rotations"]
    assert rotations["diverged"].all()
    assert len(set(rotations["interaction"].tolist())) == 20
    found = {finding.name: finding for finding in claims.from_table(table.tables["claims"])}
    terms = ("interaction", "late-on-base", "late-on-tuned")
    assert set(found) == {
        f"{term}-beyond-{what}" for term in terms for what in ("rotations", "new-control")
    }
    for finding in found.values():
        claims.check(finding, table)
        assert finding.verdict != "not tested"
    # noise of the same size as the rotations and the controls: nothing stands out
    assert not any(finding.supported for finding in found.values())
    caption = plot(table.tables["layers"]).layout.meta["caption"]
    assert caption.startswith("Where the greedy answers diverge (8 prompts)")


def test_controls_and_rotations_without_a_divergence_leave_the_claims_untested():
    """A control too small to change an answer has no terms; neither claim is missing, nor tested."""
    base = build("llama")
    study = study_of(tiny.perturbed(base, 0.03), base, 8)
    small = [tiny.perturbed(base, 1e-7, 10 + at) for at in range(5)]
    large = tiny.perturbed(base, 0.03, 20)
    for models, diverged in ((small, 0), ([*small[:4], large], 1)):
        pairs = [Pair.from_modules(model, base, tiny.tokenizer()) for model in models]
        table = CrossPatch(pairs, max_new_tokens=4, rotations=0, depth=0.5)(study)
        assert table.summary["controls_diverged"] == diverged
        found = {finding.name: finding for finding in claims.from_table(table.tables["claims"])}
        assert len(found) == 6
        for name, finding in found.items():
            assert finding.verdict == "not tested"
            said = f"answers diverge under {diverged} of 5 controls, and 5 of these are needed"
            assert ("new-control" in name) == (said in finding.reason), finding.reason
            assert "0 draws" not in finding.reason
    still = tiny.perturbed(base, 1e-7)
    rotated = CrossPatch(max_new_tokens=4, rotations=2, depth=0.5)(
        study_of(tiny.perturbed(base, 0.03), base, 2)
    )
    assert rotated.summary["rotations_diverged"] == 2
    assert not CrossPatch(max_new_tokens=4, rotations=2)(study_of(still, base)).summary["diverged"]


def test_tokens_of_other_prompts_are_read_from_the_same_cells():
    base = build("llama")
    study = study_of(tiny.perturbed(base, 0.03), base, 8)
    measured = cross_patch(study, study.pair, range(3), 8, "pair", 5)
    assert measured.exchanged is not None
    chosen = other_prompts(study, measured.divergences, 5)
    pairs = [(one.base_token, one.tuned_token) for one in measured.divergences]
    for at, others in enumerate(chosen.tolist()):
        assert all(pairs[other] != pairs[at] for other in others if other >= 0)
    # an oracle: the fine-tuned model's and the base's own passes are the two native cells
    for at, others in enumerate(chosen.tolist()):
        text = torch.tensor([measured.divergences[at].text(study).ids])
        for draw, other in enumerate(others):
            cells = measured.exchanged[draw, at, 1]
            if other < 0:
                assert np.isnan(cells).all()
                continue
            with torch.no_grad():
                logits = study.pair.tuned.module(text).logits[0, -1]
            margin = float(logits[pairs[other][1]] - logits[pairs[other][0]])
            assert cells[1, 1] == pytest.approx(margin, abs=1e-5)
    assert (chosen >= 0).any()
    table = CrossPatch(max_new_tokens=8, rotations=0, depth=0.5)(study)
    exchanged = table.tables["exchanged"]
    assert len(exchanged) == 19
    first = next(iter(claims.from_table(table.tables["claims"])))
    assert "for the tokens of other prompts" in first.sentence
    # tokens that were not chosen where the fine-tuned model wins prefer it less
    assert exchanged["shift"].mean() < measured.shares(2)["shift"]
    # one pair of tokens everywhere: there is nothing to exchange
    same = [replace(one, base_token=3, tuned_token=4) for one in measured.divergences]
    assert (other_prompts(study, same, 5) == -1).all()


def test_what_cannot_be_cross_patched_is_refused():
    base = build("llama")
    other = Pair.from_modules(tiny.llama(3), tiny.llama(4), tiny.tokenizer())
    study = study_of(tiny.perturbed(base), base)
    with pytest.raises(PairError, match="another base"):
        CrossPatch((other,))(study)
    with pytest.raises(OptionError, match="add --base"):
        CrossPatch()(study_of(base, None))
    with pytest.raises(OptionError, match="use at most 1"):
        CrossPatch(depth=1.5)
    with pytest.raises(OptionError, match="of 3 blocks leaves none to exchange above it; give at"):
        CrossPatch(depth=1.0)(study)


# ------------------------------------------------------------------------------------------- the command


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    root = tmp_path_factory.mktemp("cross-patch")
    base = tiny.llama(7)
    models = {"base": base, "tuned": tiny.perturbed(base), "control": tiny.perturbed(base, 0.02, 9)}
    for name, model in models.items():
        tiny.save(model, root / name)
    (root / "prompts.txt").write_text("\n".join(tiny.PROMPTS), encoding="utf-8")
    return root


def test_the_command_keeps_a_run(run, saved):
    code, out, err = run(
        *("cross-patch", saved / "tuned", "--base", saved / "base"),
        *("--prompts", saved / "prompts.txt", "--control", saved / "control"),
        *("--rotations", 1, "--max-new-tokens", 6, "--store", saved / "runs", "--json", "--quiet"),
    )
    assert (code, err) == (0, "")
    record = json.loads(out)
    table = Store(saved / "runs").get(record["run"])
    assert record["rows"] == len(table) > 0
    for finding in claims.from_table(table.tables["claims"]):
        claims.check(finding, table)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--base", "base"), "give either --prompts"),
        (("--prompts", "prompts.txt"), "cross-patching needs a base model"),
        (("--base", "base", "--prompts", "prompts.txt", "--remote"), "--remote"),
        (("--base", "base", "--prompts", "prompts.txt", "--depth", "2"), "--depth"),
    ],
)
def test_bad_input_is_one_line_and_leaves_nothing(run, only_line, saved, tmp_path, options, said):
    given = [saved / part if part in ("base", "prompts.txt") else part for part in options]
    code, out, err = run("cross-patch", saved / "tuned", "--store", tmp_path / "runs", *given)
    assert (code, out) == (2, "")
    assert said in only_line(err)
    assert not list(tmp_path.glob("runs/[!.]*"))
