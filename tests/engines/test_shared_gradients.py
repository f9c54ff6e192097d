"""Gradients of a pass in two parts are those of a pass over whole prompts: sums over cells, and
every row's own.
"""

import functools
from dataclasses import replace

import pytest
import torch

from interp.engines import Batch, Direction, TorchEngine
from interp.engines import shared_gradients as room
from interp.engines.shared_prefix import full_passes
from interp.interventions.edits import Blend, Observe, Replace, Scale
from interp.models.model import Model
from interp.models.pair import Pair
from interp.sites import Site, contribution, neurons
from tests import families, tiny

# Mixtral's experts have no forward-mode derivative: it stays whole
NAMES = ("llama", "gpt2", *families.WITH_NEURONS)
EVERY = pytest.mark.parametrize("name", NAMES)
PREFIX = list(range(20, 32))
ROWS = [[*PREFIX, *rest] for rest in ([5, 6, 7], [8], [9, 5, 5, 6, 33, 40], [5, 8, 7, 6])]
BATCH = Batch.pad(ROWS, 0)
WINDOWS = {name: {"sliding_window": 64} for name in ("mistral", "gemma2", "gemma3")}
SINGLE = ("gemma2",)  # its masks have no number in double precision


class Passes(TorchEngine):
    """The torch engine, keeping the shapes that models are run on."""

    def _pass(self, model, batch, **options):
        seen.append(tuple(batch.ids.shape))
        return super()._pass(model, batch, **options)


seen: list = []
ENGINE = Passes()


def last(logits):
    wide = logits[:, -1].double()
    return wide[:, 3] - wide.logsumexp(-1)


@functools.cache
def model(name: str, seed: int = 0) -> Model:
    if name in tiny.FAMILIES:
        return Model.wrap(name, tiny.exact(tiny.FAMILIES[name](seed=seed)))
    module = families.build(name, seed, **WINDOWS.get(name, {}))
    return Model.wrap(name, module if name in SINGLE else module.double())


def sites(of: Model) -> list[Site]:
    return [site for layer in range(3) for site in (neurons(layer), contribution(layer))]


def outputs(of: Model) -> list[Site]:
    return [site for site in sites(of) if site in {contribution(layer) for layer in range(3)}]


def asked(of: Model, over=None, share=0.3, kind="blend", batch=BATCH, other=1):
    """Between another model's values and the own ones, as locating goes."""
    before = ENGINE.run(model(of.name, other), batch, reads=outputs(of), keep=0).values
    edits = {
        "blend": lambda site: Blend(site, before[site], share),
        "replace": lambda site: Replace(site, before[site] * share),
        "scale": lambda site: Scale(site, torch.tensor([1, 5]), share),
    }[kind]
    return {
        "reads": sites(of),
        "edits": [edits(site) for site in outputs(of)],
        "gradients_at": sites(of),
        "gradient_of": last,
        "over": batch.mask if over is None else over,
        "along": [Direction(site, before[site], share) for site in outputs(of)],
    }


def run(of: Model, options, batch=BATCH):
    seen.clear()
    return ENGINE.run(of, batch, **options)


def close(found, expected, tolerance=1e-9):
    torch.testing.assert_close(found, expected, rtol=tolerance, atol=tolerance)


def assert_same(of: Model, options, batch=BATCH, tolerance=None, divided=True):
    # most families' norms compute in single precision whatever the model's
    tolerance = tolerance or (
        1e-9 if of.name in ("llama", "neox", "gpt2") else 2e-5 if of.name in SINGLE else 2e-6
    )
    ENGINE.run(of, batch, **options)  # the proof at the first use
    found = run(of, options, batch)
    assert len(found.parts) == 1 + divided
    if divided:
        assert set(seen) == {
            (1, batch.prefix_length),
            (len(batch.ids), max(batch.lengths) - batch.prefix_length),
        }
    with full_passes(of):
        expected = run(of, options, batch)
    (whole,) = expected.parts
    assert not expected.values
    assert not found.gradients
    close(found.logits, expected.logits, tolerance)
    close(found.along, expected.along, tolerance)
    for site in options["gradients_at"]:
        total = sum(
            torch.where(part.mask[..., None], part.values[site] * part.gradients[site], 0.0)
            .double()
            .sum((0, 1))
            for part in found.parts
        )
        terms = whole.values[site] * whole.gradients[site]
        close(total, torch.where(whole.mask[..., None], terms, 0.0).double().sum((0, 1)), tolerance)
        if divided:
            first, rest = found.parts
            columns = batch.mask.int().argmax(1, keepdim=True) + torch.arange(batch.prefix_length)
            here = torch.arange(len(batch.ids))[:, None]
            close(first.gradients[site][0], whole.gradients[site][here, columns].sum(0), tolerance)
            close(first.values[site][0], whole.values[site][here, columns][0], tolerance)
            close(
                rest.gradients[site][rest.mask],
                rest.select(whole.gradients[site])[rest.mask],
                tolerance,
            )
            close(
                rest.values[site][rest.mask], rest.select(whole.values[site])[rest.mask], tolerance
            )
    return found, whole


@EVERY
@pytest.mark.parametrize("side", ["left", "right"])
def test_two_parts_are_one_pass(name, side):
    batch = Batch.pad(ROWS, 0, side, length=22) if side == "left" else Batch.pad(ROWS, 0, side)
    of, keep = model(name), 1 if side == "left" else None
    # the last column is padding there: nothing to differentiate for short rows, and all logits kept
    if keep is None:
        batch = Batch.pad([[*row, *[7] * (18 - len(row))] for row in ROWS], 0, side)
    assert_same(of, asked(of, batch=batch), batch)


@EVERY
@pytest.mark.parametrize("kind", ["replace", "scale"])
def test_edits_of_other_kinds(name, kind):
    of = model(name)
    assert_same(of, asked(of, kind=kind))


@EVERY
def test_in_single_precision_to_its_rounding(name):
    of = model(name)
    single, other = (
        Model.wrap(
            f"{name} in single precision",
            (
                tiny.FAMILIES[name](seed=seed)
                if name in tiny.FAMILIES
                else families.build(name, seed, **WINDOWS.get(name, {}))
            ),
        )
        for seed in (0, 1)
    )
    before = ENGINE.run(other, BATCH, reads=outputs(of), keep=0).values
    options = asked(of) | {
        "edits": [Blend(site, before[site], 0.3) for site in outputs(of)],
        "along": [Direction(site, before[site], 0.3) for site in outputs(of)],
    }
    assert_same(single, options, tolerance=2e-5)


def test_a_rows_own_derivative_is_that_of_finite_differences():
    """Of the share at which all outputs stand, one row's number alone."""
    of, step = model("llama"), 1e-5
    found = run(of, asked(of))

    def number(share):
        return last(ENGINE.run(of, BATCH, edits=asked(of, share=share)["edits"]).logits)

    close(found.along, (number(0.3 + step) - number(0.3 - step)) / (2 * step), 1e-6)
    # what the prefix has in it is told apart by row, though its gradients are summed
    first, rest = (
        [each.select_cells(part.select) for each in asked(of)["along"]] for part in found.parts
    )
    apart = found.along - found.parts[1].along(rest)
    close(
        apart.sum(),
        found.parts[0].along([replace(each, reference=each.reference[:1]) for each in first]).sum(),
    )
    assert apart.std() > 1e-6


@pytest.mark.parametrize("name", ["llama", "gpt2", "gemma2", "neox"])
def test_cells_that_are_left_out_add_nothing(name):
    of = model(name)
    later = BATCH.mask & (BATCH.positions >= 10)  # part of the prefix, and all that follows
    found, _ = assert_same(of, asked(of, over=later))
    assert found.parts[0].mask.sum() == 2
    behind = BATCH.mask & (BATCH.positions >= 12)
    found, _ = assert_same(of, asked(of, over=behind))
    assert not found.parts[0].mask.any()
    # the prefix needs no second pass for the derivative of each row then
    for over, passes in ((behind, 2), (later, 3)):
        run(of, asked(of, over=over))
        assert len(seen) == passes


def test_rows_that_differ_in_the_prefix_go_through_whole():
    of = model("llama")
    ENGINE.run(of, BATCH, **asked(of))
    one = BATCH.mask.clone()
    one[0, BATCH.ids.shape[1] - len(ROWS[0])] = False
    for changed in (
        {"over": one},
        {
            "along": [
                Direction(contribution(0), torch.randn(*BATCH.ids.shape, 32, dtype=torch.float64))
            ]
        },
        {"edits": [Observe(contribution(0), lambda value: None)]},
    ):
        assert_same(of, asked(of) | changed, divided=False)


def test_logits_that_lie_in_the_prefix_are_differentiated_whole():
    of = model("llama")
    options = asked(of) | {
        "keep": 2,
        "gradient_of": lambda logits: logits.double().square().mean((1, 2)),
    }
    found = run(of, options)
    assert len(found.parts) == 1
    longer = Batch.pad([[*row, 7] for row in ROWS], 0)
    assert_same(
        of, asked(of, batch=longer) | {key: options[key] for key in ("keep", "gradient_of")}, longer
    )


def test_a_pass_that_asks_for_every_rows_gradients_gets_them():
    of = model("llama")
    found = run(of, {"reads": sites(of), "gradients_at": sites(of), "gradient_of": last})
    assert not found.parts
    assert {value.shape[:2] for value in found.gradients.values()} == {BATCH.ids.shape}


def test_experts_stay_whole():
    of = Model.wrap("mixtral", families.build("mixtral"))
    sites = [Site(layer, "hook_mlp_out") for layer in range(3)]
    before = ENGINE.run(of, BATCH, reads=sites, keep=0).values
    found = run(
        of,
        {
            "reads": sites,
            "gradients_at": sites,
            "gradient_of": last,
            "over": BATCH.mask,
            "along": [Direction(site, value / 2) for site, value in before.items()],
        },
    )
    assert len(found.parts) == 1
    assert found.along.abs().max() > 1e-3


def test_a_model_that_cannot_be_differentiated_so_stays_whole(monkeypatch):
    """A kernel without a forward-mode derivative, and one whose derivative is another."""

    def raises(*_):
        raise NotImplementedError("no forward-mode derivative")

    wrong = lambda gradients, tangents: torch.ones(len(gradients[0]), dtype=torch.float64)  # noqa: E731
    for name, broken in (("_tangents", raises), ("_inner_products", wrong)):
        of = Model.wrap("llama", tiny.exact(tiny.llama(seed=0)))
        with monkeypatch.context() as patched:
            patched.setattr(room, name, broken)
            assert len(run(of, asked(of)).parts) == 1
        assert len(run(of, asked(of)).parts) == 1  # once proven or not, always so
        with full_passes(of):
            close(run(of, asked(of)).along, run(model("llama"), asked(of)).along)


@pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated:FutureWarning")
@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_adapters(family, tmp_path):
    base = tiny.save(tiny.FAMILIES[family](seed=3), tmp_path / "base")
    tiny.lora(family, tiny.FAMILIES[family](seed=3), tmp_path / "adapter", base)
    pair = Pair.load(str(tmp_path / "adapter"), str(base))
    before = ENGINE.run(pair.base, BATCH, reads=outputs(pair.tuned), keep=0).values
    options = {
        "reads": sites(pair.tuned),
        "gradients_at": sites(pair.tuned),
        "gradient_of": last,
        "over": BATCH.mask,
        "edits": [Blend(site, value, 0.3) for site, value in before.items()],
        "along": [Direction(site, value, 0.3) for site, value in before.items()],
    }
    found, _ = assert_same(pair.tuned, options, tolerance=2e-5)
    assert found.along.abs().max() > 1e-3
