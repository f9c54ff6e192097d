"""Component masks: exact gradients, identities beside hooks written by hand, one planted head that
copies the object, held-out scores with their nulls, and the command.
"""

import copy
import json

import numpy as np
import pytest
import torch

from interp import claims, organisms
from interp.analyzers.component_masking import ComponentMasking
from interp.analyzers.patch_heads import PatchHeads
from interp.errors import OptionError, PromptError
from interp.experiments.component_masks import (
    FitStep,
    Fitting,
    MaskedModel,
    _is_better,
    fit_mask,
    split_rows,
)
from interp.figures import plot
from interp.models.pair import Pair
from interp.prompts import OneClass
from interp.prompts.task_file import read_task_file
from interp.store import Store
from interp.study import Study
from tests import families, tiny

OBJECTS = ("door", "window", "gates", "fences")
FRAMES = (
    "please tell me how to paint the {}",
    "lock new {} and close a",
    "paint old {} . open the",
    "how to lock the {} please",
)
EVERY = tuple((layer, head) for layer in range(3) for head in range(4))
PLANTED = (1, 2)
OUT = {
    "llama": "model.layers.{}.self_attn.o_proj",
    "gpt2": "transformer.h.{}.attn.c_proj",
    "gemma2": "model.layers.{}.self_attn.o_proj",
    "phi3": "model.layers.{}.self_attn.o_proj",
    "neox": "gpt_neox.layers.{}.attention.dense",
}


def text(frame, thing):
    prompt = frame.format(thing)
    return {"prompt": prompt, "positions": {"thing": prompt.index(thing)}}


def rows(same=0):
    """Every object in every frame, with a source of another object (or for some rows the same)."""
    made = []
    for at in range(48):
        own, other = OBJECTS[at % 4], OBJECTS[(at + 1 + at // 16) % 4]
        more = "please " * (at // 16)
        other = own if at < same else other
        source = text(FRAMES[(at // 4 + 1 + at % 2) % 4], other)
        made.append(
            {
                **text(more + FRAMES[at // 4 % 4], own),
                "answer": own,
                "cluster": str(at),
                "sources": {"object": {**source, "target": other}},
            }
        )
    return made


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    path = tmp_path_factory.mktemp("masks") / "task.jsonl"
    path.write_text("\n".join(map(json.dumps, rows())), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def task(path):
    return read_task_file(path)


def copier(strength=12.0, seed=3):
    """A small Llama in which one head copies the object: it attends to all tokens alike, its values
    are the coordinates of the objects, and it writes what the head of the model reads.
    """
    model = tiny.llama(seed, num_key_value_heads=4)
    words = [tiny.tokenizer(False)(f" {word}")["input_ids"] for word in OBJECTS]
    ids = [token for (token,) in words]
    layer, head = PLANTED
    part = slice(8 * head, 8 * head + 8)
    with torch.no_grad():
        embedding, unembedding = model.model.embed_tokens.weight, model.lm_head.weight
        embedding[:, :4] = embedding[:, 24:28] = 0
        unembedding[:, 24:28] = 0
        for block in model.model.layers:
            # nothing else reads objects, or writes where they are read
            for part_of_block in (block.self_attn.v_proj, block.mlp.gate_proj, block.mlp.up_proj):
                part_of_block.weight[:, :4] = part_of_block.weight[:, 24:28] = 0
            for part_of_block in (block.self_attn.o_proj, block.mlp.down_proj):
                part_of_block.weight *= 0.01
                part_of_block.weight[:4] = part_of_block.weight[24:28] = 0
        attention = model.model.layers[layer].self_attn
        attention.q_proj.weight[part] = 0
        attention.v_proj.weight[part] = 0
        attention.o_proj.weight[:, part] = 0
        for at, token in enumerate(ids):
            embedding[token] = 0
            embedding[token, at] = 1
            attention.v_proj.weight[part][at, at] = 1
            attention.o_proj.weight[24 + at, part.start + at] = strength
            unembedding[token] = 0
            unembedding[token, 24 + at] = 10
    return model


def study_of(tuned, base, task, **options):
    pair = tuned if isinstance(tuned, Pair) else Pair.from_modules(tuned, base, tiny.tokenizer())
    return Study(pair, OneClass(task.prompts), None, **options)


def masked_of(module, task, position="last", heads=EVERY, **options):
    study = study_of(copy.deepcopy(module), module, task, **options)
    tokens = task.tokens(study.pair.tokenizer)
    return MaskedModel(study, study.pair["base"], tokens, "object", position, heads)


def build(name):
    return tiny.FAMILIES[name](7) if name in tiny.FAMILIES else families.build(name)


def logit_by_hand(module, family, row, position, shares):
    """The target's logit with z blended at one column, by plain hooks; ``shares``: m by head."""
    found = {}

    def keep(layer):
        return lambda _, args: found.__setitem__(layer, args[0].clone())

    def blend(layer):
        def hook(_, args):
            new, column = args[0].clone(), row.prompt.columns[position]
            width = new.shape[-1] // 4
            for (at, head), m in shares.items():
                if at == layer:
                    part = slice(head * width, (head + 1) * width)
                    other = found[layer][0, row.sources["object"].columns[position], part]
                    new[0, column, part] = m * new[0, column, part] + (1 - m) * other
            return (new,)

        return hook

    logits = None
    for ids, hook in ((row.sources["object"].ids, keep), (row.prompt.ids, blend)):
        parts = [module.get_submodule(OUT[family].format(layer)) for layer in range(3)]
        handles = [p.register_forward_pre_hook(hook(at)) for at, p in enumerate(parts)]
        with torch.no_grad():
            logits = module(input_ids=torch.tensor([ids])).logits[0, -1]
        for handle in handles:
            handle.remove()
    return float(logits[row.targets["object"]])


@pytest.mark.parametrize("family", OUT)
@pytest.mark.parametrize("position", ["last", "thing"])
def test_the_loss_is_that_of_hooks_written_by_hand(family, position, task):
    """m = 1 is the model itself, m = 0 a plain exchange, and in between a blend."""
    module = build(family)
    masked = masked_of(module, task, position)
    generator = np.random.default_rng(0)
    for shares in (
        dict.fromkeys(EVERY, 1.0),
        dict.fromkeys(EVERY, 0.0),
        dict(zip(EVERY, generator.uniform(size=12).tolist(), strict=True)),
    ):
        loss, _ = masked.loss_and_gradient([0, 5, 17], shares, 0.1)
        by_hand = np.mean(
            [
                logit_by_hand(module, family, masked.rows[row], position, shares)
                for row in (0, 5, 17)
            ]
        )
        expected = -by_hand + 0.1 * sum(1 - m for m in shares.values())
        assert loss == pytest.approx(expected, abs=2e-4)


@pytest.mark.parametrize("position", ["last", "thing"])
@pytest.mark.parametrize("name", ["llama", "gpt2"])
def test_the_gradient_is_exact_and_reaches_masks_alone(name, position, task):
    module = tiny.exact(build(name)) if name == "llama" else build(name).double()
    masked = masked_of(module, task, position)
    before = copy.deepcopy(module.state_dict())
    generator = np.random.default_rng(1)
    shares = dict(zip(EVERY, generator.uniform(0.2, 0.8, 12).tolist(), strict=True))
    batch = [0, 9, 30, 41]
    _, gradient = masked.loss_and_gradient(batch, shares, 0.01)
    step = 1e-5
    for head in EVERY:
        ends = [
            masked.loss_and_gradient(batch, {**shares, head: shares[head] + sign * step}, 0.01)[0]
            for sign in (1, -1)
        ]
        assert gradient[head] == pytest.approx((ends[0] - ends[1]) / (2 * step), abs=1e-7)
    model = masked.model.module
    assert all(parameter.grad is None for parameter in model.parameters())
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


def test_no_head_patched_is_the_model_and_own_values_change_nothing(task):
    module = build("llama")
    masked = masked_of(module, task)
    numbers = range(len(masked.rows))
    with torch.no_grad():
        own = [
            int(module(input_ids=torch.tensor([row.prompt.ids])).logits[0, -1].argmax())
            for row in masked.rows
        ]
    np.testing.assert_array_equal(masked.predictions(numbers), own)
    sizes = [masked_of(module, task, "thing", batch_size=size) for size in (1, 5, 48)]
    first, *others = [one.predictions(numbers, EVERY[:7]) for one in sizes]
    for other in others:
        np.testing.assert_array_equal(other, first)


@pytest.mark.parametrize("penalty", [0.003, 0.01, 0.1, 1.0])
@pytest.mark.parametrize("ties", ["more", "fewer"])
def test_the_planted_head_alone_is_selected(task, penalty, ties):
    masked = masked_of(copier(), task)
    train, validation, test = split_rows([row.cluster for row in masked.rows], (2, 1, 1), 0)
    assert masked.accuracy(test) == 0
    assert masked.accuracy(test, [PLANTED]) == 1
    others = [head for head in EVERY if head != PLANTED]
    assert masked.accuracy(test, others) == 0
    fitting = Fitting(penalty=penalty, epochs=20, batch=8, ties=ties)
    mask = fit_mask(masked, train, validation, fitting, 0, "planted")
    assert mask.heads == (PLANTED,)
    assert mask.values[PLANTED] < 0.5
    assert mask.steps[0] == FitStep(0, 0, 0.0)


def test_where_patching_costs_more_than_it_gives_no_head_is_selected(task):
    masked = masked_of(copier(strength=0.0), task)
    train, validation, _ = split_rows([row.cluster for row in masked.rows], (2, 1, 1), 0)
    mask = fit_mask(masked, train, validation, Fitting(penalty=1.0, epochs=10), 0, "nothing")
    assert mask.heads == ()


def test_equally_good_masks_are_decided_by_their_size():
    new, old = FitStep(4, 3, 0.5), FitStep(2, 2, 0.5)
    assert _is_better(new, old, "more")
    assert not _is_better(new, old, "fewer")
    assert _is_better(FitStep(4, 1, 0.6), old, "more")


def test_rows_of_a_cluster_stay_together():
    clusters = [str(at // 3) for at in range(60)]
    parts = split_rows(clusters, (2, 1, 1), 4)
    assert sorted(row for part in parts for row in part) == list(range(60))
    assert [len(part) for part in parts] == [30, 15, 15]
    owners = [{clusters[row] for row in part} for part in parts]
    assert sum(map(len, owners)) == len(set.union(*owners)) == 20


# ---------------------------------------------------------------------------------------- the analyzer


def test_claims_of_the_planted_head(task):
    """The fine-tuned model copies more strongly; a control is the base again."""
    base, tuned = copier(strength=0.05), copier()
    controls = [
        Pair.from_modules(tiny.perturbed(base, 1e-4, seed), base, tiny.tokenizer())
        for seed in range(5)
    ]
    analyzer = ComponentMasking(
        controls, task, "object", epochs=20, fit_batch=8, ties="fewer", draws=19
    )
    table = analyzer(study_of(tuned, base, task))
    chosen = {(row["found"], row["layer"], row["head"]) for row in table.rows() if row["selected"]}
    assert ("tuned", *PLANTED) in chosen
    assert table.summary["selected"]["tuned"] == ["1.2"]
    scores = {
        (row["found"], row["model"], row["heads"]): row["score"]
        for row in table.tables["scores"].rows()
    }
    assert scores["base", "tuned", "none"] == 0
    assert scores["tuned", "tuned", "selected"] == 1
    assert scores["base", "tuned", "all"] == 1
    found = {finding.name: finding for finding in claims.from_table(table.tables["claims"])}
    for name in ("tuned-heads-beyond-permuted",):
        assert found[name].supported, name
    assert found["transfer-beyond-random"].value <= 1
    assert found["tuned-heads-beyond-random"].value == 1
    # eleven other single heads: the least p is 1 / 12, which is no test at 5 %
    assert found["tuned-heads-beyond-random"].p == pytest.approx(1 / 12)
    for finding in found.values():
        claims.check(finding, table)
    assert "Selected heads" in plot(table).layout.meta["caption"]


def test_heads_that_only_break_the_answer_carry_nothing(tmp_path):
    """Targets that have nothing to do with the source are hit by chance, by no random head, and as
    often from any other row's source.
    """
    made, generator = rows(), np.random.default_rng(5)
    for row in made:
        others = [thing for thing in OBJECTS if thing != row["answer"]]
        row["sources"]["object"]["target"] = str(generator.choice(others))
    file = tmp_path / "task.jsonl"
    file.write_text("\n".join(map(json.dumps, made)), encoding="utf-8")
    task = read_task_file(file)
    base = copier()
    table = ComponentMasking(
        task=task, source="object", epochs=20, fit_batch=8, ties="fewer", draws=39
    )(study_of(tiny.perturbed(base, 1e-4), base, task))
    found = {finding.name: finding for finding in claims.from_table(table.tables["claims"])}
    assert found["base-heads-beyond-random"].value > 0.1, "more than unpatched, and yet"
    assert found["base-heads-beyond-permuted"].p > 0.05
    assert not any(finding.supported for finding in found.values())
    (row,) = [
        row
        for row in table.tables["scores"].rows()
        if (row["found"], row["model"], row["heads"]) == ("base", "base", "all")
    ]
    assert 0.1 < row["score"] < 0.6


@pytest.mark.slow
def test_what_carries_the_object_in_the_organism_is_what_patching_between_models_ranks_first():
    """Entity tracking: the object at the last token, held-out contexts, and the unpatched score."""
    file = organisms.data_root() / "prompts" / "entities" / "boxes.jsonl"
    whole = read_task_file(file)
    part = whole.keep(whole.prompts.spread_rows(160))
    pair = Pair.load("organism:entities/full", "organism:entities/base", device="cpu")
    study = Study(pair, OneClass(part.prompts), None)
    table = ComponentMasking(task=part, source="object", ties="fewer", draws=19)(study)
    scores = {
        (row["found"], row["model"], row["heads"]): row["score"]
        for row in table.tables["scores"].rows()
    }
    assert scores["base", "base", "none"] == scores["base", "tuned", "none"] == 0
    assert scores["tuned", "tuned", "selected"] > 0.9
    assert scores["base", "base", "selected"] > 0.3
    found = {finding.name: finding for finding in claims.from_table(table.tables["claims"])}
    for name in ("tuned-heads-beyond-random", "tuned-heads-beyond-permuted"):
        assert found[name].supported, name
    patched = PatchHeads(task=part, position="last", draws=0, exact=1)(study)
    assert set(table.summary["selected"]["tuned"]) & set(patched.summary["first"][:3])


def test_equal_models_have_equal_masks_and_no_difference(task):
    base = copier()
    table = ComponentMasking(task=task, source="object", epochs=10, fit_batch=8, draws=3)(
        study_of(copy.deepcopy(base), base, task)
    )
    assert table.summary["selected"]["base"] == table.summary["selected"]["tuned"]
    transfer = table.tables["transfer"]
    np.testing.assert_array_equal(transfer["base_gain"], transfer["tuned_gain"])
    assert table.summary["verdicts"]["more-in-tuned"] == "not supported"


def test_rows_that_an_unpatched_model_answers_so_are_left_out(tmp_path):
    """A target that is the row's own answer would count as carried."""
    file = tmp_path / "task.jsonl"
    file.write_text("\n".join(map(json.dumps, rows(same=8))), encoding="utf-8")
    table = ComponentMasking(
        task=read_task_file(file), source="object", epochs=2, fit_batch=8, draws=0
    )(study_of(copier(), copier(0.05), read_task_file(file)))
    assert table.summary["left_out"] == 8
    assert sum(table.summary[f"{part}_rows"] for part in ("train", "validation", "test")) == 40
    assert any("8 rows whose target" in limit for limit in table.summary["limits"])


def test_an_unmerged_adapter_on_the_output_projection_counts(task, tmp_path):
    base = build("llama")
    wrapped = tiny.lora("llama", base, tmp_path / "lora", part="attention")
    merged = copy.deepcopy(wrapped).merge_and_unload()
    switched = Pair.from_modules(wrapped, None, tiny.tokenizer())
    shares = dict.fromkeys(EVERY, 0.3)
    found = []
    for pair in (switched, Pair.from_modules(merged, base, tiny.tokenizer())):
        study = study_of(pair, None, task)
        tokens = task.tokens(pair.tokenizer)
        for role in ("base", "tuned"):
            masked = MaskedModel(study, pair[role], tokens, "object", "last", EVERY)
            loss, gradient = masked.loss_and_gradient([0, 5, 17], shares, 0.01)
            found.append([loss, *gradient.values()])
    np.testing.assert_allclose(found[0], found[2], atol=1e-4)
    np.testing.assert_allclose(found[1], found[3], atol=2e-3)
    assert not np.allclose(found[0], found[1], atol=1e-2)


def test_what_does_not_fit_is_refused(task):
    study = study_of(copier(), copier(0.05), task)
    with pytest.raises(OptionError, match="needs a task file"):
        ComponentMasking(source="object").require(study)
    with pytest.raises(OptionError, match=r"source 'box' is not one that every row has \(object\)"):
        ComponentMasking(task=task, source="box").require(study)
    with pytest.raises(PromptError, match="no position 'label'"):
        ComponentMasking(task=task, source="object", position="label").require(study)
    with pytest.raises(OptionError, match=r"head 3\.0 does not exist"):
        ComponentMasking(task=task, source="object", heads=((3, 0),)).require(study)
    few = task.keep(range(2))
    with pytest.raises(PromptError, match="2 clusters of rows"):
        ComponentMasking(task=few, source="object")(study_of(copier(), copier(), few))


# ----------------------------------------------------------------------------------------- the command


@pytest.fixture(scope="module")
def saved(tmp_path_factory, path):
    root = tmp_path_factory.mktemp("component-masking")
    models = {"base": copier(0.05), "tuned": copier(), "control": copier(0.06)}
    for name, model in models.items():
        tiny.save(model, root / name)
    (root / "task.jsonl").write_text(path.read_text("utf-8"), encoding="utf-8")
    return root


def test_the_command_learns_masks_in_both_models(run, saved):
    code, out, err = run(
        *("component-masking", saved / "tuned", "--base", saved / "base"),
        *("--task", saved / "task.jsonl", "--source", "object", "--fit-batch", 8, "--epochs", 10),
        *("--control", saved / "control", "--draws", 2, "--heads", "0.1,1.2,2.3"),
        *("--store", saved / "runs", "--json", "--quiet"),
    )
    assert (code, err) == (0, "")
    table = Store(saved / "runs").get(json.loads(out)["run"])
    assert len(table) == 6
    assert len(table.tables["controls"]) == 1
    for finding in claims.from_table(table.tables["claims"]):
        claims.check(finding, table)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ((), "give --task FILE"),
        (("--task", "task.jsonl"), "give --source NAME"),
        (("--task", "task.jsonl", "--source", "box", "--base", "base"), "not one that every row"),
        (("--task", "task.jsonl", "--source", "object"), "component masking needs a base model"),
        (("--task", "task.jsonl", "--source", "object", "--heads", "1"), "not a list of heads"),
        (("--task", "task.jsonl", "--source", "object", "--ties", "x"), "use more or fewer"),
        (("--task", "task.jsonl", "--source", "object", "--remote"), "--remote"),
    ],
)
def test_bad_input_is_one_line_and_leaves_nothing(run, only_line, saved, tmp_path, options, said):
    given = [saved / part if part in ("base", "task.jsonl") else part for part in options]
    code, out, err = run("component-masking", saved / "tuned", "--store", tmp_path / "runs", *given)
    assert (code, out) == (2, "")
    assert said in only_line(err)
    assert not list(tmp_path.glob("runs/[!.]*"))
