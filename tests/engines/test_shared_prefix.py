"""A pass in two parts, and one of some blocks only, give what a pass over whole prompts gives."""

import functools
from contextlib import contextmanager

import pytest
import torch
from transformers import MambaConfig, MambaForCausalLM

from interp.engines import Batch, TorchEngine
from interp.engines.coupled_forward import coupled_forward
from interp.engines.shared_prefix import full_passes
from interp.errors import OptionError
from interp.experiments.pending_answers import common_prefix_length, join_beginnings
from interp.interventions.edits import (
    Ablate,
    Add,
    Blend,
    Observe,
    Project,
    Replace,
    ReplaceByRow,
    Scale,
    StartFromStream,
    Transform,
)
from interp.interventions.generation import KnownBeginnings, generate
from interp.interventions.intervention import Intervention
from interp.interventions.teacher_forcing import (
    Text,
    answer_logits,
    first_columns,
    known_beginnings,
    read_answers,
    read_donor,
    stream_at,
)
from interp.models.caches import CachedPrefix, is_plain
from interp.models.model import Model
from interp.sites import Site, contribution, neurons
from tests import families, tiny

NAMES = ("llama", "gpt2", *families.NAMES)
EVERY = pytest.mark.parametrize("name", NAMES)
PREFIX = list(range(20, 32))
ROWS = [[*PREFIX, *rest] for rest in ([5, 6, 7], [8], [9, 5, 5, 6, 33, 40], [5, 8, 7, 6])]
BATCH = Batch.pad(ROWS, 0)
SITES = [Site(0, "hook_resid_pre"), neurons(1), contribution(1), Site(2, "hook_resid_post")]
STREAMS = [Site(0, "hook_resid_pre"), Site(1, "hook_mlp_out"), Site(2, "hook_resid_post")]
WINDOWS = {name: {"sliding_window": 64} for name in ("mistral", "gemma2", "gemma3")}


class Passes(TorchEngine):
    """The torch engine, counting the cells that models are run on."""

    def _pass(self, model, batch, **options):
        seen.append((tuple(batch.ids.shape), options.get("blocks")))
        return super()._pass(model, batch, **options)


seen: list = []
ENGINE = Passes()


@functools.cache
def model(name: str, seed: int = 0) -> Model:
    built = (
        tiny.FAMILIES[name](seed=seed)
        if name in tiny.FAMILIES
        else families.build(name, seed, **WINDOWS.get(name, {}))
    )
    found = Model.wrap(name, built)
    # the proof that a model's passes may be divided is made once, at its first use
    ENGINE.run(found, BATCH)
    seen.clear()
    return found


@pytest.fixture(autouse=True)
def _fresh():
    seen.clear()


@contextmanager
def whole(of: Model):
    with full_passes(of):
        yield


def close(found, expected, tolerance=2e-5):
    torch.testing.assert_close(found, expected, rtol=tolerance, atol=tolerance)


def sites(of: Model):
    return SITES if of.anatomy.n_neurons else STREAMS


def test_what_rows_share_is_found():
    assert Batch.pad([[1, 2, 3], [1, 2, 4]], 0).prefix_length == 2
    assert Batch.pad([[1, 2, 3], [1, 2]], 0).prefix_length == 1  # of every row one token is left
    assert Batch.pad([[1, 2, 3], [1, 2, 3]], 0).prefix_length == 2
    assert Batch.pad([[1, 2, 3]], 0).prefix_length == 2
    assert Batch.pad([[1], [1, 2]], 0).prefix_length == 0
    assert Batch.pad([[3, 2], [1, 2]], 0).prefix_length == 0
    assert BATCH.prefix_length == len(PREFIX)
    assert BATCH.lengths == tuple(map(len, ROWS))


@EVERY
@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("keep", [0, 1, 3, 9])
def test_two_parts_are_one_pass(name, side, keep):
    of, batch = model(name), Batch.pad(ROWS, 0, side, length=22)
    ENGINE.run(of, batch)  # the proof at the first use
    seen.clear()
    found = ENGINE.run(of, batch, reads=sites(of), keep=keep)
    assert [shape for shape, _ in seen] == [(1, len(PREFIX)), (4, 6)]
    with whole(of):
        expected = ENGINE.run(of, batch, reads=sites(of), keep=keep)
    for site in sites(of):
        close(found.values[site][batch.mask], expected.values[site][batch.mask])
    if not keep:
        assert found.logits is None
        return
    # the last columns of each row, wherever it stands
    for row, ids in enumerate(ROWS):
        alone = Batch.pad([ids], 0)
        own = ENGINE.run(of, alone, keep=None).logits[0, -keep:]
        close(found.logits[row][-len(own) :], own)
    if side == "left":
        real = batch.mask[:, -keep:]
        close(found.logits[real], expected.logits[real])


@EVERY
def test_a_cache_goes_on_as_after_one_pass(name):
    of = model(name)
    steps = {}
    for way in ("parts", "whole"):
        with whole(of) if way == "whole" else pytest.MonkeyPatch.context():
            run = ENGINE.run(of, BATCH, use_cache=True)
            step = Batch(
                torch.full((4, 1), 7),
                torch.cat([BATCH.mask, torch.ones(4, 1, dtype=torch.bool)], 1),
            )
            steps[way] = ENGINE.run(of, step, cache=run.cache, use_cache=True).logits
    close(steps["parts"], steps["whole"])


@EVERY
def test_edits_are_made_in_both_parts(name):
    of = model(name)
    torch.manual_seed(0)
    site, width = Site(1, "hook_resid_pre"), of.module.config.hidden_size
    with whole(of):
        donated = ENGINE.run(of, BATCH, reads=[site]).values[site] * 1.5
    # of the prefix, donors have the same in every row
    shared = ENGINE.run(of, BATCH, reads=[site]).values[site] * 1.5
    direction = torch.nn.functional.normalize(torch.randn(width), dim=0)
    later = BATCH.mask & (BATCH.positions >= 14)
    units = torch.tensor([1, 5])
    edits = {
        "fixed": [Ablate(site, units), Scale(site, units, 2.0), Project(site, direction)],
        "vector": [
            Add(site, torch.randn(width)),
            Replace(Site(2, "hook_resid_pre"), torch.zeros(2), units),
        ],
        "donated": [Replace(site, shared, mask=BATCH.mask)],
        "some": [
            Replace(site, shared[..., :2], units, mask=later),
            Transform(site, lambda value: value * 2, mask=later),
        ],
        "rows": [ReplaceByRow(site, shared[..., :2], units, torch.ones(1, 1, 2, dtype=torch.bool))],
        "blend": [Blend(site, shared, 0.5), Add(Site(2, "hook_resid_pre"), shared)],
    }
    close(donated[BATCH.mask], shared[BATCH.mask])
    for kind, some in edits.items():
        seen.clear()
        found = ENGINE.run(of, BATCH, reads=sites(of)[-1:], edits=some, keep=2)
        assert len(seen) == 2, kind
        with whole(of):
            expected = ENGINE.run(of, BATCH, reads=sites(of)[-1:], edits=some, keep=2)
        close(found.logits[BATCH.mask[:, -2:]], expected.logits[BATCH.mask[:, -2:]])
        last = sites(of)[-1]
        close(found.values[last][BATCH.mask], expected.values[last][BATCH.mask])


def test_rows_edited_differently_in_the_prefix_go_through_whole():
    of, site = model("llama"), Site(1, "hook_resid_pre")
    torch.manual_seed(0)
    different = torch.randn(*BATCH.ids.shape, of.module.config.hidden_size)
    ENGINE.run(of, BATCH)
    looked: list = []
    apart = torch.tensor([[True], [False], [True], [False]])[:, None]
    by_row = ReplaceByRow(site, torch.zeros(1), torch.tensor([3]), apart)
    for edit in (
        Add(site, different),
        by_row,
        Observe(site, lambda value: looked.append(value.shape)),
    ):
        seen.clear()
        found = ENGINE.run(of, BATCH, edits=[edit]).logits
        assert [shape for shape, _ in seen] == [BATCH.ids.shape]
        with whole(of):
            assert torch.equal(found, ENGINE.run(of, BATCH, edits=[edit]).logits)
    assert looked == [(*BATCH.ids.shape, of.module.config.hidden_size)] * 2


def test_what_cannot_be_divided_is_not():
    """Windows shorter than the text, positions scaled by length, recurrent states, single rows,
    little shared.
    """
    short = Model.wrap("mistral", families.build("mistral"))  # a window of 8
    scaled = {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 10000.0}
    dynamic = Model.wrap("llama", tiny.llama(rope_parameters=scaled))
    for of in (short, dynamic):
        seen.clear()
        ENGINE.run(of, BATCH)
        assert [shape for shape, _ in seen] == [BATCH.ids.shape]
    of = model("llama")
    ENGINE.run(of, BATCH)
    for rows in (
        ROWS[:1],
        [row[6:] for row in ROWS],
        [[*PREFIX, *range(5, 30)], [*PREFIX, *range(6, 60)]],
    ):
        seen.clear()
        ENGINE.run(of, Batch.pad(rows, 0))
        assert len(seen) == 1
    config = MambaConfig(
        vocab_size=64,
        hidden_size=32,
        num_hidden_layers=2,
        state_size=4,
        pad_token_id=0,
        eos_token_id=1,
        bos_token_id=1,
    )
    recurrent = MambaForCausalLM(config).eval()
    assert not is_plain(recurrent(input_ids=BATCH.ids, use_cache=True).cache_params)


def test_an_open_lockstep_sees_whole_prompts():
    tuned, base = model("llama"), model("llama", 1)
    ENGINE.run(tuned, BATCH)
    seen.clear()
    with coupled_forward(tuned, base, [0.5] * tuned.anatomy.n_layers):
        mixed = ENGINE.run(tuned, BATCH, use_cache=True).logits
    assert [shape for shape, _ in seen] == [BATCH.ids.shape]
    for row, ids in enumerate(ROWS):
        with coupled_forward(tuned, base, [0.5] * tuned.anatomy.n_layers):
            close(mixed[row], ENGINE.run(tuned, Batch.pad([ids], 0)).logits[0])


# ---------------------------------------------------------------------------------------------- blocks


@EVERY
def test_a_pass_begins_where_the_stream_is_given(name):
    of, site = model(name), Site(2, "hook_resid_pre")
    stream = ENGINE.run(of, BATCH, reads=[site]).values[site]
    later = [Scale(Site(2, "hook_mlp_out"), torch.tensor([0, 3]), 3.0)]
    ENGINE.run(of, BATCH, edits=[StartFromStream(site, stream)])
    for batch in (BATCH, Batch(BATCH.ids, BATCH.mask)):
        seen.clear()
        found = ENGINE.run(of, batch, edits=[StartFromStream(site, stream), *later], keep=2)
        assert {blocks for _, blocks in seen} == {(2, 2)}
        with whole(of):
            close(found.logits, ENGINE.run(of, batch, edits=later, keep=2).logits)
    # below an edit or a read, blocks must run
    for options in (
        {
            "edits": [
                StartFromStream(site, stream),
                Scale(Site(1, "hook_mlp_out"), torch.tensor([0]), 2.0),
            ]
        },
        {"edits": [StartFromStream(site, stream)], "reads": [Site(0, "hook_mlp_out")]},
    ):
        seen.clear()
        ENGINE.run(of, BATCH, **options)
        assert {blocks for _, blocks in seen} == {None}


@EVERY
def test_a_pass_without_a_head_ends_behind_its_last_read(name):
    of, site = model(name), Site(1, "hook_resid_pre")
    ENGINE.run(of, BATCH, reads=[site], keep=0)
    seen.clear()
    found = ENGINE.run(of, BATCH, reads=[site], keep=0).values[site]
    assert {blocks for _, blocks in seen} == {(0, 1)}
    assert not any("forward" in part.__dict__ for part in of.module.modules())
    with whole(of):
        close(
            found[BATCH.mask], ENGINE.run(of, BATCH, reads=[site], keep=0).values[site][BATCH.mask]
        )


def test_blocks_run_again_after_a_pass_that_raised():
    of, site = model("llama"), Site(2, "hook_resid_pre")
    stream = ENGINE.run(of, BATCH, reads=[site]).values[site]
    before = ENGINE.run(of, BATCH).logits

    class Broken(Ablate):
        def apply(self, value):
            raise RuntimeError("broken")

    with pytest.raises(RuntimeError, match="broken"):
        ENGINE.run(
            of,
            BATCH,
            edits=[
                StartFromStream(site, stream),
                Broken(Site(2, "hook_mlp_out"), torch.tensor([0])),
            ],
        )
    assert torch.equal(ENGINE.run(of, BATCH).logits, before)


# ---------------------------------------------------------------------------------------------- answers


def interventions(of: Model, donor: Model):
    units = tiny.by_layer([(1, 3), (1, 7), (2, 0)])
    write = {layer: donor.write_weights(layer) for layer in range(3)}
    return {
        "none": None,
        "zero": Intervention("zero", units),
        "donor": Intervention("donor", units, "donor", donor=donor, write_weights=write),
        "activation": Intervention("activation", units, "activation", donor=donor),
    }


@pytest.mark.parametrize("kind", ["none", "zero", "donor", "activation"])
def test_answers_are_those_of_single_prompts_whatever_is_saved(kind):
    """Shared beginnings, finished rows left out, known beginnings: against one prompt at a time,
    over whole prompts.
    """
    of, donor = model("llama"), model("llama", 1)
    edit = interventions(of, donor)[kind]
    with whole(of), whole(donor):
        longest = [generate(ENGINE, of, Text([row], None, 0, (1,)), 12, edit)[0] for row in ROWS]
        stops = (1, longest[0][3], longest[3][7])
        single = [generate(ENGINE, of, Text([row], None, 0, stops), 12, edit)[0] for row in ROWS]
    assert len({len(answer) for answer in single}) > 1  # rows end at different steps
    text = Text(ROWS, None, 0, stops)
    assert generate(ENGINE, of, text, 12, edit) == single
    drafts = [single[0], single[0][:2], [9, 9, 9], [*single[3][:1], 9, 9]]
    logits, target, real = answer_logits(ENGINE, of, text, drafts, edit)
    begun = known_beginnings(logits, target, real)
    assert begun[0] == single[0]
    # what follows an end token is not part of an answer
    assert all(
        known and known[: len(it)] == it[: len(known)]
        for known, it in zip(begun, single, strict=True)
    )
    assert generate(ENGINE, of, text, 12, edit, beginnings=KnownBeginnings(begun)) == single
    asked = []
    part = generate(
        ENGINE,
        of,
        text,
        12,
        edit,
        lambda row, known: bool(asked.append((row, tuple(known)))),
        KnownBeginnings(begun),
    )
    assert part == single
    assert all(known == tuple(single[row][: len(known)]) for row, known in asked)


@EVERY
def test_keys_and_values_of_a_pass_that_enters_are_those_of_the_whole_pass(name):
    """Of the blocks that it runs; where a cache holds less than every token, none are given."""
    of, text = model(name), Text(ROWS, None, 0, (1,))
    answers = [[5, 6, 7], [8], [9, 9], [5, 6, 7, 8, 9]]
    stream = stream_at(ENGINE, of, text, answers, 1, use_cache=True)
    entered = read_answers(ENGINE, of, text, answers, start_edit=stream.start_edit, use_cache=True)
    whole_pass = read_answers(ENGINE, of, text, answers, use_cache=True)
    close(entered.logits[entered.real], whole_pass.logits[entered.real])
    rows, starts = [3, 0], first_columns(text, answers)
    where, lengths = [starts[row] for row in rows], [len(ROWS[row]) + 1 for row in rows]
    found = CachedPrefix.from_caches(
        [(stream.cache, 1), (entered.cache, of.anatomy.n_layers)], rows, where, lengths
    )
    right = CachedPrefix.from_caches([(whole_pass.cache, None)], rows, where, lengths)
    assert (found is None) == (right is None) == (name in WINDOWS)
    if found is not None:
        for (keys, values), (own_keys, own_values) in zip(found.blocks, right.blocks, strict=True):
            mask = found.mask[:, None, :, None]
            close(keys * mask, own_keys * mask)
            close(values * mask, own_values * mask)


@pytest.mark.parametrize("kind", ["zero", "donor", "activation"])
@pytest.mark.parametrize("entered", [False, True])
def test_answers_go_on_from_keys_and_values_of_what_was_read(kind, entered):
    """From as many tokens as each has in common with a draft, of two passes in one batch; no token
    is read again.
    """
    of, donor = model("llama"), model("llama", 1)
    edit, text = interventions(of, donor)[kind], Text(ROWS, None, 0, (1,))
    right = generate(ENGINE, of, text, 12, edit)
    drafts = [right[0], [*right[1][:2], 9], [9, 9, 9], [*right[3][:1], 9, 9]]
    stream = stream_at(ENGINE, of, text, drafts, 1, use_cache=True) if entered else None
    given = read_donor(ENGINE, edit, text, drafts, use_cache=True)
    read = read_answers(
        ENGINE, of, text, drafts, edit, given.values, stream and stream.start_edit, use_cache=True
    )
    tokens, starts = known_beginnings(*read[:3]), first_columns(text, drafts)
    same = [common_prefix_length(known, draft) for known, draft in zip(tokens, drafts, strict=True)]
    assert same == [12, 2, 0, 1]

    def begun(rows):
        where, lengths = [starts[row] for row in rows], [len(ROWS[row]) + same[row] for row in rows]
        below = [(stream.cache, 1)] if stream else []
        receiver = CachedPrefix.from_caches(
            [*below, (read.cache, of.anatomy.n_layers)], rows, where, lengths
        )
        other = (
            CachedPrefix.from_caches([(given.cache, None)], rows, where, lengths)
            if given.values
            else None
        )
        return KnownBeginnings([tokens[row] for row in rows], receiver, other)

    rows, parts = [2, 3, 1], [begun([2, 3]), begun([1])]
    known = join_beginnings(parts)
    assert not any(kept.blocks for part in parts for kept in (part.receiver, part.donor) if kept)
    seen.clear()
    assert generate(ENGINE, of, text.select(rows), 12, edit, beginnings=known) == [
        right[row] for row in rows
    ]
    assert {shape[1] for shape, _ in seen} == {1}
    with pytest.raises(OptionError, match="already moved to another cache"):
        generate(ENGINE, of, text.select(rows), 12, edit, beginnings=known)
    # where more than one token is known that was not read, all of them are read at once
    again = begun(rows)
    further = KnownBeginnings([right[row][:5] for row in rows], again.receiver, again.donor)
    seen.clear()
    assert generate(ENGINE, of, text.select(rows), 12, edit, beginnings=further) == [
        right[row] for row in rows
    ]
    assert seen[0][0][1] == 5
    assert {shape[1] for shape, _ in seen} == {5, 1}


def test_a_cache_that_does_not_hold_every_token_is_not_gone_on_from():
    of = model("mistral")
    cache = of.module(torch.tensor([ROWS[0]]), use_cache=True).past_key_values
    assert CachedPrefix.from_caches([(cache, None)], [0], [0], [3]) is None


def test_a_pass_over_answers_begins_where_the_stream_is_given():
    of, donor = model("llama"), model("llama", 1)
    edit, text = interventions(of, donor)["donor"], Text(ROWS, None, 0, (1,))
    answers = [[5, 6, 7], [8], [9, 9], [5, 6, 7, 8, 9]]
    plain, _, real = answer_logits(ENGINE, of, text, answers, edit)
    entered, _, _ = answer_logits(
        ENGINE,
        of,
        text,
        answers,
        edit,
        start_edit=stream_at(ENGINE, of, text, answers, 1).start_edit,
    )
    close(entered[real], plain[real])
