"""Heads patched between models: scores beside hooks written by hand in five families, identities,
planted truth, random groups and controls, and the command.
"""

import copy
import dataclasses
import json

import numpy as np
import pytest
import torch

from interp import claims, organisms
from interp.analyzers.patch_heads import ALL, PatchHeads
from interp.cli.task_options import circuit_groups
from interp.errors import InterpError, OptionError, PairError, PromptError
from interp.experiments.head_patches import (
    HeadPatch,
    first_order,
    head_patch_scores,
    random_groups,
)
from interp.experiments.scored_prompts import MetricPrompts, TaskPrompts
from interp.figures import plot
from interp.metrics import read_behaviour
from interp.models.pair import Pair
from interp.prompts import OneClass, read_prompts
from interp.prompts.task_file import read_task_file
from interp.store import Store
from interp.study import Study
from interp.table import table
from tests import families, tiny

FIVE = ("llama", "gpt2", "gemma2", "phi3", "neox")
OUT = {
    "llama": "model.layers.{}.self_attn.o_proj",
    "gpt2": "transformer.h.{}.attn.c_proj",
    "gemma2": "model.layers.{}.self_attn.o_proj",
    "phi3": "model.layers.{}.self_attn.o_proj",
    "neox": "gpt_neox.layers.{}.attention.dense",
}
HEADS = ((1, 3), (2, 0))
EVERY = tuple((layer, head) for layer in range(3) for head in range(4))
TEXTS = [
    ("open the door . lock new gates please", "door", " window"),
    ("please tell me how to close a window and paint old fences", "window", " gates"),
    ("lock new gates . open a door", "gates", " fences"),
    ("paint old fences and close the window . please lock new", "fences", " door"),
]


def build(name):
    return tiny.FAMILIES[name](7) if name in tiny.FAMILIES else families.build(name)


@pytest.fixture(scope="module")
def task(tmp_path_factory):
    rows = [
        {
            "prompt": ("please " * (at // 4)) + text,
            "answer": answer,
            "cluster": str(at),
            "positions": {"word": ("please " * (at // 4) + text).index(word)},
        }
        for at in range(12)
        for text, word, answer in [TEXTS[at % 4]]
    ]
    path = tmp_path_factory.mktemp("task") / "task.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    return read_task_file(path)


def study_of(tuned, base, task=None, **options):
    pair = tuned if isinstance(tuned, Pair) else Pair.from_modules(tuned, base, tiny.tokenizer())
    if task is not None:
        return Study(pair, OneClass(task.prompts), None, **options)
    positive = OneClass(tiny.contrast(6).positive)
    return Study(pair, positive, tiny.metric(), max_new_tokens=2, **options)


def task_prompts(task, study, position=None):
    return TaskPrompts(task.tokens(study.pair.tokenizer), study.pad_id, position)


def z_by_hand(module, family, ids):
    """The input of every output projection on one text, by plain hooks."""
    found, handles = {}, []
    for layer in range(3):
        part = module.get_submodule(OUT[family].format(layer))
        handles.append(
            part.register_forward_pre_hook(
                lambda _, args, layer=layer: found.__setitem__(layer, args[0].clone())
            )
        )
    with torch.no_grad():
        module(input_ids=torch.tensor([ids]))
    for handle in handles:
        handle.remove()
    return found


def patched_by_hand(module, donor, family, ids, heads, column, answer, what):
    """Probability of the answer with heads of a donor, the donor's own module applied for z+o."""
    z, width = z_by_hand(donor, family, ids), None
    handles = []

    def before(layer):
        def hook(_, args):
            new = args[0].clone()
            width = new.shape[-1] // 4
            for at, head in heads:
                if at == layer:
                    part = slice(head * width, (head + 1) * width)
                    cells = slice(None) if column is None else slice(column, column + 1)
                    new[:, cells, part] = z[layer][:, cells, part] if what == "z" else 0
            return (new,)

        return hook

    def after(layer):
        def hook(_, __, output):
            width = z[layer].shape[-1] // 4
            kept = torch.zeros_like(z[layer])
            cells = slice(None) if column is None else slice(column, column + 1)
            for at, head in heads:
                if at == layer:
                    part = slice(head * width, (head + 1) * width)
                    kept[:, cells, part] = z[layer][:, cells, part]
            part = donor.get_submodule(OUT[family].format(layer))
            return output + part(kept) - part(torch.zeros_like(kept))

        return hook

    del width
    for layer in {layer for layer, _ in heads}:
        part = module.get_submodule(OUT[family].format(layer))
        handles.append(part.register_forward_pre_hook(before(layer)))
        if what == "z+o":
            handles.append(part.register_forward_hook(after(layer)))
    with torch.no_grad():
        logits = module(input_ids=torch.tensor([ids])).logits[0, -1]
    for handle in handles:
        handle.remove()
    return float(logits.double().softmax(-1)[answer]), bool(logits.argmax() == answer)


@pytest.mark.parametrize("family", FIVE)
@pytest.mark.parametrize("position", [None, "word"])
def test_patches_are_those_of_hooks_written_by_hand(family, position, task):
    """Grouped queries, fused projections, biases; one word or all positions; either direction."""
    base = build(family)
    tuned = tiny.perturbed(base, 0.05)
    study = study_of(tuned, base, task)
    prompts = task_prompts(task, study, position)
    whats, sides = ("z", "z+o"), (("base", "tuned"), ("tuned", "base"))
    patches = [HeadPatch(*side, HEADS, what) for what in whats for side in sides]
    scores = head_patch_scores(study, prompts, patches, "patches")
    models = {"base": base, "tuned": tuned}
    for number, patch in enumerate(patches):
        for row, own in enumerate(prompts.rows[:5]):
            column = None if position is None else own.prompt.columns[position]
            value, right = patched_by_hand(
                models[patch.receiver],
                models[patch.donor],
                family,
                own.prompt.ids,
                HEADS,
                column,
                own.answer,
                patch.what,
            )
            assert scores.patched[number, 0, row] == pytest.approx(value, rel=2e-4)
            assert scores.patched[number, 1, row] == right
    assert np.abs(scores.patched[:, 0] - scores.ends[0, 0]).max() > 1e-4


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_an_unmerged_adapter_on_the_output_projection_counts(family, task, tmp_path):
    """A patch through the raw weight would leave the adapter out: the module itself runs."""
    base = build(family)
    wrapped = tiny.lora(family, base, tmp_path / "lora", part="attention")
    merged = copy.deepcopy(wrapped).merge_and_unload()
    switched = Pair.from_modules(wrapped, None, tiny.tokenizer())
    patches = [
        HeadPatch(*side, HEADS, what)
        for what in ("z", "z+o")
        for side in (("base", "tuned"), ("tuned", "base"))
    ]
    found = []
    for study in (study_of(switched, None, task), study_of(merged, base, task)):
        prompts = task_prompts(task, study)
        found.append(head_patch_scores(study, prompts, patches, "patches"))
    np.testing.assert_allclose(found[0].patched[:, 0], found[1].patched[:, 0], rtol=1e-3)
    np.testing.assert_allclose(found[0].ends[:, 0], found[1].ends[:, 0], rtol=1e-3)
    assert np.abs(found[0].patched[0, 0] - found[0].patched[2, 0]).max() > 1e-5


# ---------------------------------------------------------------------------------------- identities


@pytest.mark.parametrize("family", FIVE)
def test_equal_models_change_nothing_bit_for_bit(family, task):
    base = build(family)
    study = study_of(copy.deepcopy(base), base, task)
    patches = [HeadPatch("base", "tuned", heads) for heads in (EVERY, HEADS, ((0, 2),))]
    patches += [dataclasses.replace(patch, receiver="tuned", donor="base") for patch in patches]
    scores = head_patch_scores(study, task_prompts(task, study), patches, "patches")
    for patched in scores.patched:
        np.testing.assert_array_equal(patched, scores.ends[0])
    own = head_patch_scores(
        study, task_prompts(task, study), [HeadPatch("base", "base", EVERY, "z+o")], "z+o"
    )
    np.testing.assert_allclose(own.patched[0], own.ends[0], rtol=1e-4)


def test_all_head_outputs_in_the_base_are_the_hybrid_model(task):
    """The base's embedding, output projections, norms, MLPs and head, with the fine-tuned model's z;
    composed here module by module in float64.
    """
    base, tuned = tiny.exact(build("llama")), tiny.exact(tiny.perturbed(build("llama"), 0.05))
    study = study_of(tuned, base, task)
    prompts = task_prompts(task, study)
    scores = head_patch_scores(study, prompts, [HeadPatch("base", "tuned", EVERY)], "all")
    for row, own in enumerate(prompts.rows):
        z = z_by_hand(tuned, "llama", own.prompt.ids)
        with torch.no_grad():
            stream = base.model.embed_tokens(torch.tensor([own.prompt.ids]))
            for layer, block in enumerate(base.model.layers):
                stream = stream + block.self_attn.o_proj(z[layer])
                stream = stream + block.mlp(block.post_attention_layernorm(stream))
            logits = base.lm_head(base.model.norm(stream))[0, -1]
        expected = float(logits.softmax(-1)[own.answer])
        assert scores.patched[0, 0, row] == pytest.approx(expected, rel=1e-9)
    assert not np.allclose(scores.patched[0, 0], scores.ends[1, 0], rtol=1e-3), "not the donor"


def test_heads_give_the_donor_where_only_what_makes_them_was_tuned(task):
    """With equal output projections, MLPs and norms, all head outputs are the whole change."""
    base = tiny.exact(build("llama"))
    tuned = copy.deepcopy(base)
    other = tiny.exact(tiny.perturbed(base, 0.05))
    with torch.no_grad():
        for mine, theirs in zip(tuned.model.layers, other.model.layers, strict=True):
            for part in ("q_proj", "k_proj", "v_proj"):
                getattr(mine.self_attn, part).weight.copy_(getattr(theirs.self_attn, part).weight)
    study = study_of(tuned, base, task)
    patches = [HeadPatch("base", "tuned", EVERY, what) for what in ("z", "z+o")]
    scores = head_patch_scores(study, task_prompts(task, study), patches, "all")
    for patched in scores.patched:
        np.testing.assert_allclose(patched[0], scores.ends[1, 0], rtol=1e-9)


@pytest.mark.parametrize("family", FIVE)
def test_queries_keys_and_values_together_are_the_outputs(family, task):
    """Whole groups of shared keys and values; each of the three alone does something else."""
    base = build(family)
    study = study_of(tiny.perturbed(base, 0.05), base, task)
    heads = ((0, 0), (0, 1), (0, 2), (0, 3), (2, 2), (2, 3))
    patches = [HeadPatch("base", "tuned", heads, what) for what in ("z", "qkv", "q", "k", "v")]
    scores = head_patch_scores(study, task_prompts(task, study), patches, "parts").patched[:, 0]
    np.testing.assert_allclose(scores[1], scores[0], rtol=1e-4)
    for alone in scores[2:]:
        assert np.abs(alone - scores[0]).max() > 1e-5
    same = study_of(copy.deepcopy(base), base, task)
    scores = head_patch_scores(same, task_prompts(task, same), patches, "parts")
    np.testing.assert_array_equal(scores.patched[1:], scores.ends[:1].repeat(4, 0))


def test_a_word_in_a_beginning_that_all_rows_share_is_patched_in_its_row(tmp_path):
    """What all rows begin with is read once as a rule, where no edit differs by row."""
    rows = [
        {"prompt": f"open the door . {end}", "answer": "door", "positions": {"word": word}}
        for end in ("lock gates", "paint fences", "close a window")
        for word in (0, 5, 9)
    ]
    (tmp_path / "task.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    shared = read_task_file(tmp_path / "task.jsonl")
    base = tiny.exact(build("llama"))
    tuned = tiny.exact(tiny.perturbed(build("llama"), 0.05))
    study = study_of(tuned, base, shared)
    prompts = task_prompts(shared, study, "word")
    patch = HeadPatch("base", "tuned", HEADS)
    scores = head_patch_scores(study, prompts, [patch], "words")
    for row, own in enumerate(prompts.rows):
        column = own.prompt.columns["word"]
        value, _ = patched_by_hand(
            base, tuned, "llama", own.prompt.ids, HEADS, column, own.answer, "z"
        )
        assert scores.patched[0, 0, row] == pytest.approx(value, rel=1e-9)


@pytest.mark.parametrize("position", [None, "word"])
def test_batches_and_padding_do_not_matter(task, position):
    base = tiny.exact(build("llama"))
    tuned = tiny.exact(tiny.perturbed(build("llama"), 0.05))
    found = []
    for size in (1, 5, 12):
        study = study_of(tuned, base, task, batch_size=size)
        prompts = task_prompts(task, study, position)
        patches = [HeadPatch("base", "tuned", HEADS, what) for what in ("z", "z+o")]
        slopes = [first_order(study, prompts, what) for what in ("z", "z+o")]
        found.append((head_patch_scores(study, prompts, patches, "some").patched, slopes))
    for patched, slopes in found[1:]:
        np.testing.assert_allclose(patched, found[0][0], rtol=1e-10)
        np.testing.assert_allclose(slopes, found[0][1], rtol=1e-8, atol=1e-14)


@pytest.mark.parametrize(
    ("what", "position"), [("z", None), ("z", "word"), ("z+o", "word"), ("q", None), ("v", "word")]
)
def test_first_order_is_the_derivative(task, what, position):
    """For a small change, what patching one head changes the metric by."""
    base = tiny.exact(build("llama"))
    tuned = tiny.exact(tiny.perturbed(build("llama"), 1e-6))
    study = study_of(tuned, base, task)
    prompts = task_prompts(task, study, position)
    patches = [HeadPatch("base", "tuned", (head,), what) for head in EVERY]
    patches += [HeadPatch("tuned", "base", (head,), what) for head in EVERY]
    scores = head_patch_scores(study, prompts, patches, "single heads")
    means, ends = scores.patched[:, 0].mean(-1), scores.ends[:, 0].mean(-1)
    slopes = first_order(study, prompts, what).reshape(2, -1)
    size = np.abs(slopes).max()
    np.testing.assert_allclose(slopes[0], means[:12] - ends[0], atol=1e-3 * size)
    np.testing.assert_allclose(slopes[1], ends[1] - means[12:], atol=1e-3 * size)


# --------------------------------------------------------------------------------------------- truth


@pytest.fixture(scope="module")
def attention():
    """Fine-tuning of attention alone, output projections among it: 40 held-out requests."""
    pair = Pair.load("organism:refusal/attention", "organism:refusal/base", device="cpu")
    ranked, measured = (
        OneClass(read_prompts(organisms.prompts("refusal/attention", split, "harmful")).spread(40))
        for split in ("locate", "verify")
    )
    study = Study(pair, measured, read_behaviour("refusal").metric(pair.tokenizer))
    return study, PatchHeads(selection=ranked, draws=19)(study)


def rows_of(table, **where):
    return [row for row in table.rows() if all(row[key] == value for key, value in where.items())]


@pytest.mark.slow
def test_head_outputs_alone_carry_no_refusal_and_with_their_projection_all(attention):
    """Output projections were tuned too: z through the base's writes other directions."""
    _, table = attention
    (outputs,), (written,) = (rows_of(table, kind="all", what=what) for what in ("z", "z+o"))
    assert outputs["inserted_right"] == 0
    assert written["inserted_right"] == 1
    assert written["removed_right"] == 0
    assert written["inserted"] == pytest.approx(1, abs=1e-4)
    assert written["removed"] == pytest.approx(1, abs=1e-4)
    assert written["inserted_right_recovery"] == 1
    assert outputs["inserted"] < 0.6
    found = {finding.name: finding for finding in claims.from_table(table.tables["claims"])}
    assert found["changes"].supported
    for finding in found.values():
        claims.check(finding, table)
    assert "through the donor's output projection give 100.0%" in plot(table).layout.meta["caption"]


@pytest.mark.slow
def test_answers_under_a_patch_are_those_of_the_patched_logits(attention):
    """The share that refuses agrees with the sign of the log-odds where that is far from 0."""
    _, table = attention
    effects = table.tables["effects"]
    for side in ("inserted", "removed"):
        known = ~np.isnan(effects[f"{side}_right"]) & (np.abs(effects[side]) > 8)
        assert known.sum() > 40
        np.testing.assert_array_equal(effects[side][known] > 0, effects[f"{side}_right"][known] > 0)


# ------------------------------------------------------------------------------------ nulls, controls


def test_random_groups_are_distinct_and_as_large():
    own = [(0, 1), (0, 2), (2, 3)]
    made = random_groups(own, EVERY, 39, 0, same_layers=True)
    # other heads alone would give 1 * 3 groups: any group but the same one
    assert made.arrangements == 24
    assert len(set(map(frozenset, made.groups))) == len(made.groups) == 23
    for group in made.groups:
        assert sorted(layer for layer, _ in group) == [0, 0, 2]
        assert len(set(group)) == 3
        assert frozenset(group) != frozenset(own)
    free = random_groups(own, EVERY, 30, 0, same_layers=False)
    assert len(free.groups) == 30
    assert free.arrangements == 85
    assert not any(set(group) & set(own) for group in free.groups)
    layer = [(0, head) for head in range(4)]
    assert random_groups(layer, EVERY, 19, 0, same_layers=True).groups == ()
    assert len(random_groups(layer, EVERY, 19, 0, same_layers=False).groups) == 19
    for none in ((), EVERY):
        assert random_groups(none, EVERY, 19, 0, same_layers=False).groups == ()


def moved(base, size=0.1):
    """A child whose answers to every row of the task are likelier."""
    child = tiny.perturbed(base, size)
    with torch.no_grad():
        last = child.base_model(torch.tensor([[20, 30, 40, 50]])).last_hidden_state[0, -1]
        for word in ("window", "gates", "fences", "door"):
            (index,) = tiny.tokenizer(False)(f" {word}")["input_ids"]
            child.get_output_embeddings().weight[index] += 6 * last / last.square().sum()
    return child


def test_controls_are_patched_as_the_heads_are(task):
    """The fine-tuned model as its own control has its R and N, and the base 0."""
    base = tiny.exact(build("llama"))
    tuned = tiny.exact(moved(build("llama")))
    others = [tiny.exact(tiny.perturbed(build("llama"), 0.05, seed)) for seed in range(5, 8)]
    controls = [
        Pair.from_modules(module, base, tiny.tokenizer())
        for module in (copy.deepcopy(tuned), copy.deepcopy(base), *others)
    ]
    for what in ("z", "z+o"):
        table = PatchHeads(controls, task=task, what=what, groups=(HEADS,), draws=2)(
            study_of(tuned, base, task)
        )
        found = table.tables["controls"]
        (whole,) = rows_of(table, kind="all", what=what)
        (group,) = rows_of(table, kind="group")
        assert np.isfinite(group["inserted"])
        for side in ("inserted", "removed"):
            assert found[f"all_{side}"][0] == pytest.approx(whole[side], abs=1e-9)
            assert found[side][0] == pytest.approx(group[side], abs=1e-9)
            assert found[f"all_{side}"][1] == pytest.approx(0, abs=1e-9)
        names = {finding.name for finding in claims.from_table(table.tables["claims"])}
        assert {"all-inserts-beyond-new-control", "removes-beyond-new-control"} <= names


def test_equal_models_have_no_share_and_no_claim(task):
    base = build("llama")
    table = PatchHeads(task=task, draws=19)(study_of(copy.deepcopy(base), base, task))
    for name in ("inserted", "removed", "inserted_right_recovery"):
        assert np.isnan(table[name]).all()
    assert table.summary["supported"] is False
    assert "not stated as a share" in table.summary["sentence"]
    effects = table.tables["effects"]
    single = effects["what"] == "z"
    np.testing.assert_array_equal(effects["inserted"][single], effects["base"][single])
    plot(table)


@pytest.mark.parametrize("least", [0.0, 1e6])
def test_a_change_that_does_not_count_carries_no_share(least):
    base = build("llama")
    study = study_of(tiny.perturbed(base, 0.05), base)
    table = PatchHeads(draws=2, exact=2, min_change=least)(study)
    found = {finding.name: finding for finding in claims.from_table(table.tables["claims"])}
    needs = {name for name, finding in found.items() if "changes" in finding.claim.requires}
    assert needs >= {"inserts-beyond-random", "removes-beyond-random"}
    assert found["changes"].supported <= (least == 0)
    assert f"counts from {least:g}" in found["changes"].sentence


def test_other_prompts_rank_and_named_groups_are_measured(task):
    base, tuned = build("llama"), moved(build("llama"))
    first, second = task.keep(range(6)), task.keep(range(6, 12))
    study = study_of(tuned, base, second)
    table = PatchHeads(selection=first, task=second, first=2, exact=3, draws=0)(study)
    assert len(rows_of(table, kind="head", exact=True)) == 3
    assert len(rows_of(table, kind="head")) == 12
    ranks = {row["patch"]: row["rank"] for row in rows_of(table, kind="head")}
    assert sorted(ranks.values()) == list(range(1, 13))
    assert (
        table.summary["first"][:2]
        == [name for name, rank in sorted(ranks.items(), key=lambda x: x[1])][:2]
    )
    (group,) = rows_of(table, kind="group")
    assert group["patch"] == "the first 2 heads"
    assert not any("chosen" in limit for limit in table.summary["limits"])
    table = PatchHeads(task=second, groups=(HEADS, ((0, 1),)), exact=1, draws=2)(study)
    assert [row["patch"] for row in rows_of(table, kind="group")] == ["heads 1.3, 2.0", "heads 0.1"]


def test_what_does_not_fit_is_refused(task):
    base = build("llama")
    study = study_of(tiny.perturbed(base), base, task)
    with pytest.raises(OptionError, match=r"head 3\.0 does not exist: .* has 3 blocks of 4 heads"):
        PatchHeads(task=task, groups=(((3, 0),),)).require(study)
    with pytest.raises(PromptError, match="no position 'label'"):
        PatchHeads(task=task, position="label").require(study)
    with pytest.raises(PromptError, match="are not the rows of the task file"):
        PatchHeads(task=task.keep(range(3))).require(study)
    with pytest.raises(OptionError, match="a word of a task file"):
        PatchHeads(position="word").require(study_of(tiny.perturbed(base), base))
    with pytest.raises(OptionError, match="what of PatchHeads is 'x'; use z"):
        PatchHeads(what="x")
    stranger = Pair.from_modules(tiny.llama(3), tiny.llama(4), tiny.tokenizer())
    with pytest.raises(PairError, match="another base"):
        PatchHeads((stranger,), task=task).require(study)
    wide = tiny.llama(3, num_attention_heads=2, num_key_value_heads=2)
    with pytest.raises(InterpError):
        PatchHeads(task=task).require(study_of(wide, base, task))
    with pytest.raises(OptionError, match="needs a metric"):
        PatchHeads().require(dataclasses.replace(study, metric=None))


def test_a_behaviour_is_measured_by_its_metric():
    base = build("llama")
    study = study_of(tiny.perturbed(base, 0.05), base)
    prompts = MetricPrompts(study)
    scores = head_patch_scores(study, prompts, [HeadPatch("base", "tuned", HEADS)], "some")
    for row, coded in enumerate(study.encoded("positive")):
        with torch.no_grad():
            logits = base(input_ids=torch.tensor([coded.ids])).logits[:, -1:]
        expected = float(study.objective("positive", [row]).function(logits)[0])
        assert scores.ends[0, 0, row] == pytest.approx(expected, abs=1e-4)
    assert np.isnan(scores.ends[:, 1]).all()


# --------------------------------------------------------------------------------------- the command


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    root = tmp_path_factory.mktemp("patch-heads")
    base = tiny.llama(7)
    models = {"base": base, "tuned": tiny.perturbed(base), "control": tiny.perturbed(base, 0.02, 9)}
    for name, model in models.items():
        tiny.save(model, root / name)
    texts = [prompt.text for prompt in tiny.contrast(12).positive]
    (root / "prompts.txt").write_text("\n".join(texts), encoding="utf-8")
    (root / "markers.txt").write_text("Sorry\n", encoding="utf-8")
    rows = [{"prompt": text, "answer": "door", "positions": {"word": 0}} for text in texts]
    (root / "task.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    return root


@pytest.mark.parametrize("source", ["positive", "task"])
def test_the_command_ranks_on_one_half_and_measures_on_the_other(run, saved, source):
    prompts = (
        ("--positive", saved / "prompts.txt", "--markers", saved / "markers.txt")
        if source == "positive"
        else ("--task", saved / "task.jsonl", "--position", "word", "--heads", "0.1,2.3")
    )
    code, out, err = run(
        *("patch-heads", saved / "tuned", "--base", saved / "base", *prompts),
        *("--control", saved / "control", "--exact", 2, "--draws", 2),
        *("--store", saved / "runs", "--json", "--quiet"),
    )
    assert (code, err) == (0, "")
    table = Store(saved / "runs").get(json.loads(out)["run"])
    effects = table.tables["effects"]
    assert (effects["patch"] == ALL).sum() == 12
    assert not any("chosen to be large" in limit for limit in table.summary["limits"])
    for finding in claims.from_table(table.tables["claims"]):
        claims.check(finding, table)


def test_groups_of_a_stored_circuit_are_patched_at_their_position(task):
    records = [
        {
            "group": "A",
            "position": "last",
            "layer": 2,
            "head": 1,
            "in_base": True,
            "in_tuned": True,
        },
        {
            "group": "A",
            "position": "last",
            "layer": 2,
            "head": 0,
            "in_base": True,
            "in_tuned": False,
        },
        {
            "group": "B",
            "position": "word",
            "layer": 0,
            "head": 3,
            "in_base": False,
            "in_tuned": True,
        },
    ]
    roles = {"group": "key", "position": "key", "layer": "key", "head": "key"}
    columns = {
        name: (np.array([record[name] for record in records]), roles.get(name, "flag"), name)
        for name in records[0]
    }
    run = table("circuit", columns)
    assert circuit_groups(run, "base", "last") == (((2, 0), (2, 1)),)
    assert circuit_groups(run, "tuned", "all") == (((2, 1),), ((0, 3),))
    with pytest.raises(OptionError, match="no heads at --position label; it has last, word"):
        circuit_groups(run, "base", "label")
    with pytest.raises(OptionError, match="of kind 'tuco'"):
        circuit_groups(table("tuco", columns), "base", "last")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--base", "base"), "give either --positive FILE or --task FILE"),
        (("--positive", "prompts.txt"), "patching heads needs a base model"),
        (("--base", "base", "--positive", "prompts.txt", "--position", "word"), "a task file"),
        (("--base", "base", "--positive", "prompts.txt", "--what", "x"), "use z, z+o, q"),
        (("--base", "base", "--positive", "prompts.txt", "--remote"), "--remote"),
        (("--base", "base", "--task", "task.jsonl", "--behaviour", "refusal"), "give one of them"),
        (("--base", "base", "--task", "task.jsonl", "--position", "label"), "no position 'label'"),
        (("--base", "base", "--task", "task.jsonl", "--heads", "3-1"), "not a list of heads"),
        (("--base", "base", "--task", "task.jsonl", "--heads", "9.1"), "does not exist"),
        (("--base", "base", "--task", "task.jsonl", "--heads", "1.1,1.1"), "names a head twice"),
    ],
)
def test_bad_input_is_one_line_and_leaves_nothing(run, only_line, saved, tmp_path, options, said):
    given = [
        saved / part if part in ("base", "prompts.txt", "task.jsonl") else part for part in options
    ]
    code, out, err = run("patch-heads", saved / "tuned", "--store", tmp_path / "runs", *given)
    assert (code, out) == (2, "")
    assert said in only_line(err)
    assert not list(tmp_path.glob("runs/[!.]*"))
