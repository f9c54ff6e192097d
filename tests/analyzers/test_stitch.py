"""Stitched fine-tuned models: identities of Localize-and-Stitch, planted tasks, silence, the learned mask by
hand, bad input.
"""

import copy
import json

import numpy as np
import pytest
import torch

from interp import claims, figures, organisms
from interp.analyzers.graft import Graft
from interp.analyzers.stitch import Stitch, StitchInput
from interp.errors import OptionError, PairError
from interp.experiments import masks
from interp.experiments.questions import Questions
from interp.metrics import Task
from interp.models.grafts import Scope
from interp.models.pair import Pair
from interp.models.stitches import align_scopes, averaged, stitched
from interp.prompts import NO_PROMPTS, Contrast, read_task
from interp.store import Store
from interp.study import Study
from tests import tiny
from tests.analyzers.test_graft import FAST, questions, state, study_of, tasks


def scopes(count, **options):
    base = tiny.llama(3, **FAST)
    fine_tuned = [tiny.perturbed(base, 0.01 * (at + 1), seed=at) for at in range(count)]
    return align_scopes(
        [Pair.from_modules(model, base, tiny.tokenizer()) for model in fine_tuned], **options
    )


def random_masks(some, share=0.3):
    generator = torch.Generator().manual_seed(5)
    return [torch.rand(scope.size, generator=generator) < share for scope in some]


def flat(tensors):
    return torch.cat([tensor.flatten() for tensor in tensors])


def base_of(scope):
    return flat(piece.base for piece in scope.pairs)


def tune_of(scope):
    return flat(piece.tuned for piece in scope.pairs)


# ------------------------------------------------------------------------------------------------ identities


def test_disjoint_masks_give_every_tune_its_own_bit_for_bit():
    some = scopes(3)
    which = torch.randint(0, 4, (some[0].size,), generator=torch.Generator().manual_seed(1))
    made = flat(stitched(some, [which == at for at in range(3)]))
    for at, scope in enumerate(some):
        assert torch.equal(made[which == at], tune_of(scope)[which == at])
        assert not torch.equal(tune_of(scope), base_of(scope))
    assert torch.equal(made[which == 3], base_of(some[0])[which == 3])


def test_identical_masks_give_the_mean_of_the_tunes_on_the_mask():
    some = scopes(3)
    mask, *_ = random_masks(some)
    made, mean = (
        flat(stitched(some, [mask] * 3)),
        torch.stack([tune_of(scope).double() for scope in some]).mean(0),
    )
    torch.testing.assert_close(made[mask], mean.float()[mask], rtol=0, atol=1e-7)
    assert torch.equal(made[~mask], base_of(some[0])[~mask])
    torch.testing.assert_close(flat(averaged(some)), mean.float(), rtol=0, atol=1e-7)


def test_the_weights_of_the_tunes_add_to_nothing_or_to_one():
    """Of fine-tuned models that all moved by 1 from a base of 0, what is stitched is the sum of their weights."""
    base = tiny.llama(3, **FAST)
    tuned = copy.deepcopy(base)
    with torch.no_grad():
        for one, other in zip(base.parameters(), tuned.parameters(), strict=True):
            one.zero_()
            other.fill_(1.0)
    pieces = Scope.from_pair(
        Pair.from_modules(
            tiny.perturbed(tiny.llama(3, **FAST)), tiny.llama(3, **FAST), tiny.tokenizer()
        )
    )
    values = [dict(module.named_parameters()) for module in (base, tuned)]
    made = [type(p)(p.name, p.path, *(part[p.name].data for part in values)) for p in pieces.pairs]
    some = [type(pieces)(pieces.model, tuple(made), pieces.parts) for _ in range(3)]
    chosen = random_masks(some)
    total, claimed = flat(stitched(some, chosen)), torch.stack(chosen).any(0)
    assert claimed.any()
    assert not claimed.all()
    assert torch.equal(total, claimed.float())


def test_one_tune_alone_is_a_plain_graft():
    some = scopes(2)
    mask, _ = random_masks(some)
    nothing = torch.zeros_like(mask)
    with some[0].grafted(mask) as model:
        grafted = state(model.module)
    for both in ([mask, nothing], [mask]):
        with some[0].weights_replaced(stitched(some[: len(both)], both)):
            now = state(some[0].model.module)
        assert all(torch.equal(now[name], grafted[name]) for name in grafted)


def test_the_order_of_the_tunes_does_not_count():
    some = scopes(3)
    chosen = random_masks(some, 0.6)
    one = flat(stitched(some, chosen))
    for order in ([2, 1, 0], [1, 0, 2]):
        other = flat(stitched([some[at] for at in order], [chosen[at] for at in order]))
        torch.testing.assert_close(other, one, rtol=0, atol=1e-7)


def test_tunes_that_moved_other_parameters_share_one_numbering():
    base = tiny.llama(3, **FAST)
    one, two = copy.deepcopy(base), copy.deepcopy(base)
    with torch.no_grad():
        dict(one.named_parameters())["model.layers.0.mlp.up_proj.weight"].add_(0.1)
        dict(two.named_parameters())["model.layers.1.self_attn.q_proj.weight"].add_(0.1)
    first, second = align_scopes(
        [Pair.from_modules(model, base, tiny.tokenizer()) for model in (one, two)]
    )
    names = ["model.layers.0.mlp.up_proj.weight", "model.layers.1.self_attn.q_proj.weight"]
    assert [piece.name for piece in first.pairs] == [piece.name for piece in second.pairs] == names
    up = first.pairs[0].size
    assert first.changes[:up].all()
    assert not first.changes[up:].any()
    assert second.changes[up:].all()
    assert not second.changes[:up].any()


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_an_adapter_is_stitched_to_a_whole_model_as_if_it_were_merged(family, tmp_path):
    base = tiny.FAMILIES[family](3)
    wrapped = tiny.lora(family, copy.deepcopy(base), tmp_path)
    adapter, whole = (
        Pair.from_modules(wrapped, None, tiny.tokenizer()),
        Pair.from_modules(tiny.perturbed(base), base, tiny.tokenizer()),
    )
    digests = {**adapter.digests, "base": whole.digests["base"]}
    adapter = type(adapter)(adapter.tuned, adapter.base, adapter.tokenizer, digests)
    for order in ((adapter, whole), (whole, adapter)):
        some = align_scopes(order)
        alone = Scope.from_pair(adapter)
        ours = some[order.index(adapter)]
        assert torch.equal(ours.changes[ours.changes != 0], alone.changes[alone.changes != 0])
        everything = torch.ones(ours.size, dtype=torch.bool)
        nothing = ~everything
        chosen = [everything if pair is adapter else nothing for pair in order]
        ids = {"input_ids": torch.tensor([[5, 6, 7, 8]])}
        with adapter.tuned.active() as module, torch.no_grad():
            wanted = module(**ids).logits
        with (
            ours.weights_replaced(stitched(some, chosen)),
            ours.model.active() as module,
            torch.no_grad(),
        ):
            torch.testing.assert_close(module(**ids).logits, wanted, rtol=1e-4, atol=1e-4)


def test_tunes_of_two_bases_are_refused():
    pairs = [
        Pair.from_modules(tiny.perturbed(b), b, tiny.tokenizer())
        for b in (tiny.llama(3), tiny.llama(4))
    ]
    with pytest.raises(PairError, match="not fine-tuned from one base"):
        align_scopes(pairs)


# ------------------------------------------------------------------------------------------------ the learned mask


@pytest.mark.parametrize("reg", masks.REGULARISERS)
def test_a_step_of_the_learned_mask_is_the_papers(reg):
    """By autograd through the relaxed mask, and the penalty by hand."""
    base = tiny.exact(tiny.llama(3, **FAST))
    study, _ = study_of(tiny.exact(tiny.perturbed(base, 0.05)), base)
    scope = Scope.from_pair(study.pair)
    asked = Questions.from_prompts(study.pair.tokenizer, study.contrast.positive.prompts, 96)
    start = masks.top_mask(masks.movement_ranking(scope), 500)
    scores = (start.double() * 10 - 5).requires_grad_()
    mask = scores.sigmoid()
    given = {
        p.path: p.base + m * (p.tuned - p.base)
        for p, m in zip(scope.pairs, scope.split(mask), strict=True)
    }

    def logits(batch, keep):
        made = torch.func.functional_call(
            scope.model.module, given, kwargs={"input_ids": batch.ids, "attention_mask": batch.mask}
        )
        return made.logits[:, -keep:]

    loss = asked.loss([*range(len(asked))], logits, scope.model.device).sum() / len(asked)
    (slope,) = torch.autograd.grad(loss, scores)
    flat_part = (mask * (1 - mask)).detach()
    sign = 1.0 if reg == "l1" else torch.where(scores > 0, -1.0, 1.0)
    rate, pull = 4e4, 3.0
    wanted = scores.detach() - rate * slope - pull * flat_part * sign
    options = {"steps": 1, "learning_rate": rate, "penalty": pull, "regulariser": reg}
    found = masks.localised_mask(study, scope, asked, 500, **options)
    clear = wanted.abs() > 1e-6
    assert torch.equal(found[clear], (wanted > 0)[clear])
    # and it could have failed: some left the mask they began with, some stayed
    assert 0 < int((found != start).sum()) < scope.size


def test_the_l1_pull_empties_a_mask_that_nothing_holds_and_the_codes_pull_does_not():
    base = tiny.llama(3, **FAST)
    study, _ = study_of(tiny.perturbed(base, 0.05), base)
    scope, asked = (
        Scope.from_pair(study.pair),
        Questions.from_prompts(study.pair.tokenizer, study.contrast.positive.prompts, 96),
    )
    options = {"steps": 5, "learning_rate": 0.0, "penalty": 500.0}
    assert not masks.localised_mask(study, scope, asked, 500, **options, regulariser="l1").any()
    kept = masks.localised_mask(study, scope, asked, 500, **options, regulariser="binarise")
    assert torch.equal(kept, masks.top_mask(masks.movement_ranking(scope), 500))


# ------------------------------------------------------------------------------------------------ planted, silence


def planted():
    """Two fine-tuned models of one base that each say their own word, each through its own neurons."""
    base = tiny.llama(seed=7, num_hidden_layers=2)
    return base, [tiny.perturbed(base, 0.05, seed=at) for at in range(2)]


def stitch_of(base, fine_tuned, **options):
    located, held_out = tasks()
    pairs = [Pair.from_modules(model, base, tiny.tokenizer(False)) for model in fine_tuned]
    turned = [questions(part.texts, "help", "Sorry") for part in (located, held_out)]
    partners = tuple(StitchInput(pair, *turned) for pair in pairs[1:])
    study = Study(
        pairs[0],
        Contrast(located, NO_PROMPTS),
        Task.from_prompts(pairs[0].tokenizer, located.prompts, "answer-loss"),
    )
    return study, Stitch(held_out=held_out, others=partners, **{"draws": 2, **options})


def test_a_run_is_whole_and_can_be_measured_again(tmp_path):
    base, fine_tuned = planted()
    before = state(base)
    study, analyzer = stitch_of(base, fine_tuned, density=0.2)
    table = analyzer(study)
    assert all(torch.equal(value, before[name]) for name, value in base.state_dict().items())
    assert [column.name for column in table.columns] == ["task", "kind", "metric", "value"]
    store = Store(tmp_path)
    store.write(table)
    table = store.get(table.provenance.key)
    for claim in claims.from_table(table.tables["claims"]):
        claims.check(claim, table)
    kinds = {"model 1", "model 2", "base", "graft 1", "graft 2", "stitched", "average", "random"}
    assert set(table["kind"].tolist()) == kinds
    kept = {
        name: sum(len(w) for n, w in table.arrays.items() if n.startswith(name))
        for name in ("model 1", "model 2")
    }
    assert list(kept.values()) == table.summary["kept"]
    for part in (table, table.tables["overlaps"]):
        assert figures.plot(part).layout.meta["caption"]
    rows = {(row["mask"], row["other"]): row for row in table.tables["overlaps"].rows()}
    assert (
        rows["model 1", "model 2"]["shared"]
        == rows["model 2", "model 1"]["shared"]
        == table.summary["claimed_by_several"]
    )
    json.dumps(table.summary, allow_nan=False)


def test_masks_of_everything_make_the_stitch_the_average():
    base, fine_tuned = planted()
    study, analyzer = stitch_of(base, fine_tuned, density=1.0, scope="all")
    table = analyzer(study)
    losses = {(r["task"], r["kind"]): r["value"] for r in table.rows() if r["metric"] == "loss"}
    for task in (1, 2):
        assert losses[task, "stitched"] == losses[task, "average"] == losses[task, "random"]
        assert losses[task, f"graft {task}"] == pytest.approx(
            losses[task, f"model {task}"], rel=1e-6
        )
        assert losses[task, "stitched"] != losses[task, "base"]


def test_tunes_that_are_the_base_have_nothing_to_stitch():
    base, _ = planted()
    study, analyzer = stitch_of(base, [copy.deepcopy(base), copy.deepcopy(base)])
    table = analyzer(study)
    assert not table.summary["supported"]
    assert table.summary["kept_gain"] == {"stitched": [None, None], "average": [None, None]}
    made = {claim.name: claim for claim in claims.from_table(table.tables["claims"])}
    assert made["keeps-1"].verdict == made["keeps-2"].verdict == claims.NOT_TESTED
    assert "does not clearly answer more of" in made["keeps-2"].sentence
    for claim in made.values():
        assert not claim.supported
        assert "nan" not in claim.sentence
        claims.check(claim, table)


def test_graft_runs_lend_their_masks_in_order():
    base, fine_tuned = planted()
    study, analyzer = stitch_of(base, fine_tuned)
    options = {
        "density": 0.05,
        "sweep": (),
        "steps": 2,
        "relaxed_steps": 0,
        "draws": 1,
        "shuffles": 0,
    }
    second = Study(
        analyzer.others[0].pair, Contrast(analyzer.others[0].selection, NO_PROMPTS), study.metric
    )
    runs = [
        Graft(held_out=analyzer.held_out, **options)(study),
        Graft(held_out=analyzer.others[0].held_out, **options)(second),
    ]
    table = Stitch(held_out=analyzer.held_out, others=analyzer.others, runs=tuple(runs), draws=1)(
        study
    )
    for at, run in enumerate(runs, 1):
        own = {
            name.split("/")[1]: where
            for name, where in run.arrays.items()
            if name.startswith("learned/")
        }
        got = {
            name.split("/")[1]: where
            for name, where in table.arrays.items()
            if name.startswith(f"model {at}/")
        }
        assert own.keys() == got.keys()
        assert all(np.array_equal(own[name], got[name]) for name in own)
    with pytest.raises(OptionError, match="in the order of the models"):
        Stitch(held_out=analyzer.held_out, others=analyzer.others, runs=tuple(runs[::-1]), draws=1)(
            study
        )
    with pytest.raises(OptionError, match="1 graft runs for 2 fine-tuned models"):
        Stitch(held_out=analyzer.held_out, others=analyzer.others, runs=tuple(runs[:1])).require(
            study
        )


@pytest.mark.slow
def test_two_skills_tuned_apart_are_both_there_in_the_stitched_base():
    """Weaker than either tune, stronger than their average on the skill that averaging harms, and
    not by chance.
    """
    pairs = [
        Pair.load(f"organism:skill/{name}", "organism:refusal/base") for name in ("full", "second")
    ]
    halves = [
        read_task(organisms.prompts("skill", "task", name)).given_splits()
        for name in ("first", "second")
    ]
    study = Study(
        pairs[0],
        Contrast(halves[0][0], NO_PROMPTS),
        Task.from_prompts(pairs[0].tokenizer, halves[0][0].prompts),
    )
    table = Stitch(held_out=halves[0][1], others=(StitchInput(pairs[1], *halves[1]),), density=0.3)(
        study
    )
    stitched_gain, average = (table.summary["kept_gain"][kind] for kind in ("stitched", "average"))
    assert min(stitched_gain) >= 0.5
    assert table.tables["random"]["kept_gain"].max() < min(stitched_gain)
    assert stitched_gain[1] > average[1]
    made = {claim.name: claim for claim in claims.from_table(table.tables["claims"])}
    assert made["beats-average"].supported
    assert made["keeps-1"].p == made["keeps-2"].p == pytest.approx(1 / 20)


# ------------------------------------------------------------------------------------------------ the command


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("stitch")
    base = tiny.llama(3, num_hidden_layers=1)
    tiny.save(base, path / "base")
    for name in ("one", "two"):
        tiny.save(tiny.perturbed(base, 0.05, seed=len(name) + (name == "two")), path / name)
    for name, answers in (("one", ("Sorry", "help")), ("two", ("help", "Sorry"))):
        parts = zip(("locate", "verify"), tasks(), strict=True)
        rows = [
            {"prompt": p.text, "answer": answers[0], "wrong_answer": answers[1], "split": split}
            for split, part in parts
            for p in part
        ]
        (path / f"{name}.jsonl").write_text("\n".join(map(json.dumps, rows)))
    (path / "text.txt").write_text("\n".join(tiny.PROMPTS))
    return path


def words(folder, *more):
    line = [
        "stitch",
        folder / "one",
        folder / "two",
        "--base",
        folder / "base",
        "--task",
        folder / "one.jsonl",
    ]
    line += ["--task", folder / "two.jsonl", "--draws", "1", "--store", folder / "store"]
    return [*line, *more]


def test_the_command_keeps_a_run_and_answers_again_from_it(run, folder):
    code, out, err = run(*words(folder, "--negative", folder / "text.txt", "--json"))
    assert code == 0, err
    record = json.loads(out)
    assert not record["cached"]
    table = Store(folder / "store").get(record["run"])
    assert table.summary["measuring"] == [6, 6]
    assert "perplexity" in table["metric"]
    again = json.loads(run(*words(folder, "--negative", folder / "text.txt", "--json"))[1])
    assert (again["cached"], again["run"]) == (True, record["run"])


BAD = {
    "one task too many": (["--task", "one.jsonl"], "2 fine-tuned models and 3 tasks"),
    "a share": (["--density", "0"], "density of a mask is"),
    "a way": (["--localise", "guess"], "localise of Stitch is 'guess'; use movement or learned"),
    "a regulariser": (["--reg", "l2"], "reg of Stitch is 'l2'; use l1 or binarise"),
    "a scope": (["--scope", "neurons"], "unknown --scope"),
    "no run": (["--mask", "1234"], "there is no store"),
    "no base": (["--base", "nowhere"], "nowhere"),
    "no file": (["--negative", "missing.txt"], "no prompt file"),
    "remote": (["--engine", "nnsight", "--remote"], "stitch on this machine"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_one_line_and_leaves_nothing(run, only_line, folder, tmp_path, name):
    more, said = BAD[name]
    more = [folder / word if (folder / word).is_file() else word for word in more]
    code, _, err = run(*words(folder, *more, "--store", tmp_path / "store"))
    assert code == 2
    assert said in only_line(err)
    assert not list((tmp_path / "store").glob("[!.]*"))


# ------------------------------------------------------------------------------------------------ continual training


def test_frozen_weights_stay_bit_for_bit_and_the_rest_moves():
    from benchmarks.continual import alike, freeze
    from organisms.tokens import Example
    from organisms.train import new_model, train

    model = new_model(64, 0)
    before = {name: value.detach().clone() for name, value in model.named_parameters()}
    names = ["model.layers.0.mlp.up_proj.weight", "model.layers.1.self_attn.q_proj.weight"]
    mask = {name: np.arange(0, before[name].numel(), 7) for name in names}
    rng = np.random.default_rng(0)
    examples = [Example(rng.integers(4, 64, 8).tolist(), [0.0] * 4 + [1.0] * 4) for _ in range(8)]
    train(
        model, examples, steps=3, lr=1e-2, seed=0, warmup=1, batch_size=4, mask=freeze(model, mask)
    )
    for name, value in model.named_parameters():
        still = (value == before[name]).flatten()
        frozen = torch.zeros_like(still)
        frozen[torch.from_numpy(mask.get(name, np.array([], int)))] = True
        assert still[frozen].all()
        assert (~still[~frozen]).float().mean() > 0.5, name
    drawn = alike(mask, model, 1)
    assert {name: len(where) for name, where in drawn.items()} == {
        name: len(where) for name, where in mask.items()
    }
    assert all(len(np.unique(where)) == len(where) for where in drawn.values())
    assert not any(np.array_equal(drawn[name], mask[name]) for name in mask)


def test_a_request_follows_every_tune_and_every_task(folder):
    from interp.cli.request_cache import Request
    from interp.cli.stitch import StitchOptions

    def described(fine_tuned, tasks):
        common = StitchOptions(base=str(folder / "base"), task=[folder / task for task in tasks])
        return Request.of(
            "stitch", {"tuned": [str(folder / name) for name in fine_tuned], "common": common}
        ).describe()

    whole = described(("one", "two"), ("one.jsonl", "two.jsonl"))
    assert whole is not None
    assert whole == described(("one", "two"), ("one.jsonl", "two.jsonl"))
    tasks = ("one.jsonl", "two.jsonl")
    for other in (
        (("one", "one"), tasks),
        (("two", "one"), tasks),
        (("one", "two"), tasks[:1] * 2),
        (("one", "two"), tasks[::-1]),
    ):
        assert described(*other) != whole
