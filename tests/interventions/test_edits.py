"""Edits: they change what they should and nothing else, and leave nothing behind."""

import copy

import pytest
import torch

from interp.engines import Batch, Edit, TorchEngine
from interp.interventions.edits import Ablate, Add, Blend, Replace, ReplaceByRow, Scale
from interp.interventions.intervention import Intervention, patch_contributions
from interp.models.model import Model
from interp.prompts import encode
from interp.sites import BLOCK_HOOKS, Site, contribution, neurons
from tests import tiny

ENGINE = TorchEngine()
IDS = [list(encode(tiny.tokenizer(), text).ids) for text in tiny.PROMPTS]
BATCH = Batch.pad(IDS, 0)
ALL = {layer: torch.arange(48) for layer in range(3)}


@pytest.fixture(scope="module", params=["llama", "gpt2"])
def family(request):
    return request.param


@pytest.fixture(scope="module")
def model(family):
    return Model.wrap(family, tiny.FAMILIES[family]())


@pytest.fixture(scope="module")
def double(family):
    return Model.wrap(family, tiny.exact(tiny.FAMILIES[family]()))


def logits(model, edits=(), batch=BATCH):
    return ENGINE.run(model, batch, edits=edits, keep=None).logits[batch.mask]


def sites(model):
    return [
        Site(layer, hook)
        for layer in range(3)
        for hook in BLOCK_HOOKS
        if hook in model.anatomy.targets
    ]


def every_edit(layer=1):
    units = torch.tensor([3, 7, 40])
    shape = (*BATCH.ids.shape, 48)
    by_row = torch.nn.functional.one_hot(torch.arange(len(BATCH.ids)) % 3, 3).bool()[:, None]
    return {
        "ablate": Ablate(neurons(layer), units),
        "scale": Scale(neurons(layer), units, 2.5),
        "replace": Replace(neurons(layer), torch.tensor([1.0, -2.0, 3.0]), units),
        "replace at": Replace(neurons(layer), torch.tensor([1.0, -2.0, 3.0]), units, BATCH.mask),
        "replace by row": ReplaceByRow(
            neurons(layer), torch.tensor([1.0, -2.0, 3.0]), units, by_row
        ),
        "add": Add(neurons(layer), torch.zeros(shape).index_fill(-1, units, 0.5)),
        "blend": Blend(neurons(layer), torch.zeros(shape), 0.5),
    }


@pytest.mark.parametrize("name", every_edit())
def test_an_edit_of_neurons_changes_what_it_should_and_nothing_else(model, name):
    edit = every_edit()[name]
    assert isinstance(edit, Edit)
    plain = ENGINE.run(model, BATCH, reads=sites(model), keep=None)
    edited = ENGINE.run(model, BATCH, reads=sites(model), edits=[edit], keep=None)
    # earlier layers, and what comes before the neurons in their own block: bit for bit
    before = [site for site in sites(model) if site.layer == 0]
    before += [
        Site(1, hook) for hook in ("hook_resid_pre", "hook_attn_out", "mlp.hook_pre", "attn.hook_z")
    ]
    for site in before:
        assert torch.equal(plain.values[site], edited.values[site]), site
    # other neurons at that site: bit for bit
    others = torch.tensor([unit for unit in range(48) if unit not in (3, 7, 40)])
    if name != "blend":
        assert torch.equal(
            plain.values[neurons(1)][..., others], edited.values[neurons(1)][..., others]
        )
    assert not torch.equal(plain.values[neurons(1)], edited.values[neurons(1)])
    # and all that follows moves
    for site in (contribution(1), Site(1, "hook_resid_post"), neurons(2)):
        assert not torch.equal(plain.values[site][BATCH.mask], edited.values[site][BATCH.mask]), (
            site
        )
    assert not torch.equal(plain.logits, edited.logits)


@pytest.mark.parametrize("name", every_edit())
def test_an_edit_does_not_write_into_its_input(name):
    edit, value = every_edit()[name], torch.randn(*BATCH.ids.shape, 48)
    before = value.clone()
    changed = edit.apply(value)
    assert torch.equal(value, before)
    assert changed.data_ptr() != value.data_ptr()


def test_what_each_edit_does():
    value = torch.randn(2, 3, 5)
    units = torch.tensor([1, 3])
    site = neurons(0)
    ablated = Ablate(site, units).apply(value)
    assert not ablated[..., units].any()
    torch.testing.assert_close(
        Scale(site, units, -2.0).apply(value)[..., units], -2 * value[..., units]
    )
    new = torch.tensor([7.0, 8.0])
    assert torch.equal(Replace(site, new, units).apply(value)[..., units], new.expand(2, 3, 2))
    whole = torch.randn(2, 3, 5)
    assert torch.equal(Replace(site, whole).apply(value), whole)
    at = torch.tensor([[True, False, False], [False, True, True]])
    part = Replace(site, whole, mask=at).apply(value)
    assert torch.equal(part[at], whole[at])
    assert torch.equal(part[~at], value[~at])
    assert torch.equal(
        Replace(site, whole[..., :2], units).apply(value)[..., units], whole[..., :2]
    )
    chosen = torch.tensor([[True, False], [False, True]])
    by_row = ReplaceByRow(site, new, units, chosen[:, None]).apply(value)
    assert torch.equal(by_row[0, :, 1], new[:1].expand(3))
    assert torch.equal(by_row[1, :, 3], new[1:].expand(3))
    assert torch.equal(by_row[0, :, [0, 2, 3, 4]], value[0, :, [0, 2, 3, 4]])
    assert torch.equal(by_row[1, :, [0, 1, 2, 4]], value[1, :, [0, 1, 2, 4]])
    assert torch.equal(Add(site, whole).apply(value), value + whole)
    torch.testing.assert_close(Blend(site, whole, 0.25).apply(value), 0.75 * whole + 0.25 * value)
    assert torch.equal(Blend(site, whole, 0.0).apply(value), whole)
    assert torch.equal(Blend(site, value, 0.3).apply(value), value)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_edits_that_must_leave_every_bit(family, dtype):
    model = Model.wrap(family, tiny.FAMILIES[family]().to(dtype))
    plain = logits(model)
    assert torch.equal(logits(model, []), plain)
    assert torch.equal(
        logits(model, [Scale(neurons(layer), ALL[layer], 1.0) for layer in range(3)]), plain
    )
    assert torch.equal(
        logits(model, [Ablate(neurons(1), torch.tensor([], dtype=torch.int64))]), plain
    )
    own = ENGINE.run(model, BATCH, reads=[neurons(1)]).values[neurons(1)]
    assert torch.equal(logits(model, [Replace(neurons(1), own)]), plain)
    assert torch.equal(
        logits(model, Intervention("none", {}, "donor", donor=model).bind({})), plain
    )


def test_leaving_an_edit_restores_every_bit(model):
    plain = logits(model)
    for edit in every_edit().values():
        logits(model, [edit])
        assert torch.equal(logits(model), plain)
    parameters = {name: value.clone() for name, value in model.module.state_dict().items()}
    with pytest.raises(RuntimeError):
        logits(model, [Add(neurons(1), torch.zeros(1, 1, 999))])
    assert torch.equal(logits(model), plain)
    assert all(
        torch.equal(value, parameters[name]) for name, value in model.module.state_dict().items()
    )


def test_ablating_all_neurons_is_removing_the_mlp_but_its_bias(double, family):
    edited = logits(double, [Ablate(neurons(1), ALL[1])])
    without = copy.deepcopy(double.module)
    with torch.no_grad():
        if family == "llama":
            without.model.layers[1].mlp.down_proj.weight.zero_()
        else:
            without.transformer.h[1].mlp.c_proj.weight.zero_()
    torch.testing.assert_close(
        edited, logits(Model.wrap("without", without)), rtol=1e-12, atol=1e-12
    )
    bias = 0.0 if family == "llama" else double.module.transformer.h[1].mlp.c_proj.bias
    run = ENGINE.run(double, BATCH, reads=[contribution(1)], edits=[Ablate(neurons(1), ALL[1])])
    torch.testing.assert_close(
        run.values[contribution(1)] - bias, torch.zeros_like(run.values[contribution(1)])
    )


def test_ablating_is_zeroing_columns_of_the_down_projection(double, family):
    units = torch.tensor([0, 5, 47])
    cut = copy.deepcopy(double.module)
    with torch.no_grad():
        if family == "llama":
            cut.model.layers[2].mlp.down_proj.weight[:, units] = 0
        else:
            cut.transformer.h[2].mlp.c_proj.weight[units] = 0
    torch.testing.assert_close(
        logits(double, [Ablate(neurons(2), units)]),
        logits(Model.wrap("cut", cut)),
        rtol=1e-12,
        atol=1e-12,
    )


def donated(donor, units, batch=BATCH):
    read = ENGINE.run(donor, batch, reads=[neurons(layer) for layer in units], keep=0)
    return patch_contributions(
        units, read.values, {layer: donor.write_weights(layer) for layer in range(3)}
    )


@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 1e-5), (torch.bfloat16, 0.15)]
)
def test_a_graft_of_the_models_own_contributions_changes_rounding_only(family, dtype, tolerance):
    build = tiny.FAMILIES[family]
    model = Model.wrap(family, tiny.exact(build()) if dtype == torch.float64 else build().to(dtype))
    units = tiny.by_layer([(0, 3), (0, 9), (2, 40), (1, 1)])
    torch.testing.assert_close(
        logits(model, donated(model, units)), logits(model), rtol=tolerance, atol=tolerance
    )
    torch.testing.assert_close(
        logits(model, donated(model, ALL)), logits(model), rtol=tolerance, atol=tolerance
    )


def only_mlps(family, base):
    """A child whose MLP matrices moved (and no bias: a graft leaves biases the receiver's)."""
    child = copy.deepcopy(base)
    generator = torch.Generator().manual_seed(4)
    with torch.no_grad():
        for name, parameter in child.named_parameters():
            if ".mlp." in name and not (name.endswith("c_proj.bias")):
                parameter += 0.05 * torch.randn(parameter.shape, generator=generator).to(parameter)
    return child


def test_grafting_all_neurons_gives_the_base_where_only_mlps_differ(double, family):
    """The other way round too: necessity and sufficiency of everything are the whole difference."""
    tuned = Model.wrap("tuned", only_mlps(family, double.module))
    assert (logits(tuned) - logits(double)).abs().max() > 0.05
    for receiver, donor in ((tuned, double), (double, tuned)):
        torch.testing.assert_close(
            logits(receiver, donated(donor, ALL)), logits(donor), rtol=1e-11, atol=1e-11
        )


def test_grafting_one_layer_is_swapping_its_mlp(double, family):
    tuned = Model.wrap("tuned", only_mlps(family, double.module))
    hybrid = copy.deepcopy(tuned.module)
    with torch.no_grad():
        for name, parameter in hybrid.named_parameters():
            if ".0.mlp." in name:
                parameter.copy_(double.module.get_parameter(name))
    # block 0 reads the same stream in both models, so the donor's contribution is what its weights
    # would make
    units = {0: torch.arange(48)}
    expected = logits(Model.wrap("hybrid", hybrid))
    torch.testing.assert_close(
        logits(tuned, donated(double, units)), expected, rtol=1e-11, atol=1e-11
    )


def test_several_edits_of_one_site_act_in_order(model):
    units = torch.tensor([2])
    one = [Replace(neurons(1), torch.tensor([3.0]), units), Scale(neurons(1), units, 2.0)]
    read = ENGINE.run(model, BATCH, reads=[neurons(1)], edits=one).values[neurons(1)]
    assert (read[..., 2] == 6.0).all()
    read = ENGINE.run(model, BATCH, reads=[neurons(1)], edits=one[::-1]).values[neurons(1)]
    assert (read[..., 2] == 3.0).all()


def test_gradients_are_taken_behind_the_edit(double):
    """With a site replaced, its gradient is that at the new value: the old one no longer matters."""
    value = ENGINE.run(double, BATCH, reads=[contribution(1)]).values[contribution(1)] * 0.5
    run = ENGINE.run(
        double,
        BATCH,
        reads=[contribution(1)],
        edits=[Replace(contribution(1), value)],
        gradients_at=[contribution(0), contribution(1)],
        gradient_of=lambda kept: kept[:, -1].logsumexp(-1),
    )
    assert torch.equal(run.values[contribution(1)], value)
    assert run.gradients[contribution(1)].any()
    assert run.gradients[contribution(0)].any()  # still reaches the logits through the stream


def test_interventions_bind_to_their_edits(model):
    units = tiny.by_layer([(2, 5), (0, 1), (2, 3)])
    assert list(units) == [0, 2]
    assert units[2].tolist() == [3, 5]
    zero = Intervention("zero", units).bind({})
    assert [(type(edit), edit.site) for edit in zero] == [
        (Ablate, neurons(0)),
        (Ablate, neurons(2)),
    ]
    means = {layer: torch.arange(48.0) for layer in range(3)}
    mean = Intervention("mean", units, "mean", means=means).bind({})
    assert mean[1].values.tolist() == [3.0, 5.0]
    donor = Intervention("donor", units, "donor", donor=model)
    assert list(donor.reads) == [neurons(0), neurons(2)]
    assert list(Intervention("zero", units).reads) == []
    assert tiny.by_layer([]) == {}
