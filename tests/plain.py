"""What the methods give, by plain torch on the modules themselves, one prompt at a time."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from interp.maths.quadrature import rule
from interp.models.model import Model
from interp.models.units import Unit
from interp.sites import Weight

Number = Callable[[Tensor], Tensor]


def projections(model: Model, unit: Unit) -> list[nn.Module]:
    """The modules through which units write, block by block."""
    layers = range(model.anatomy.n_layers)
    paths = [model.anatomy.place(Weight(layer, unit.matrix)).path for layer in layers]
    return [model.module.get_submodule(path) for path in paths]


def columns(projection: nn.Module) -> Tensor:
    """A projection's matrix, ``[D, C]``."""
    return projection.weight.T if isinstance(projection, Conv1D) else projection.weight


def read(model: Model, unit: Unit, ids: Sequence[int], number: Number, replace=None):
    """By block what projections read and give ``[T, C]``, ``[T, D]``, and the number;
    ``replace(layer, out)``: what the model goes on with.
    """
    kept = []

    def hook(layer):
        def after(_, args, out):
            made = out if replace is None else replace(layer, out)
            made = made if made.requires_grad else made.detach().requires_grad_()
            kept.append((args[0].detach(), made))
            # Falcon writes over what its MLP gives
            return made.clone()

        return after

    handles = [
        part.register_forward_hook(hook(at)) for at, part in enumerate(projections(model, unit))
    ]
    try:
        logits = model.module(input_ids=torch.tensor([list(ids)]), use_cache=False).logits[0, -1]
    finally:
        for handle in handles:
            handle.remove()
    return kept, number(logits[None])[0]


def integrated(
    base: Model,
    tuned: Model,
    unit: Unit,
    prompts: Sequence[Sequence[int]],
    number: Number,
    steps: int = 3,
) -> Tensor:
    """The attribution of every channel ``[L, C]``: mean over prompts of the integral of ``(c -
    c_base) . dF/dc``.
    """
    total = torch.zeros(tuned.anatomy.n_layers, unit.n_channels(tuned.anatomy), dtype=torch.float64)
    for ids in prompts:
        before, _ = read(base, unit, ids, number)
        for share, weight in rule(steps).weights.items():

            def replace(layer, out, share=share, before=before):
                start = before[layer][1].detach()
                return start + share * (out - start)

            here, reached = read(tuned, unit, ids, number, replace)
            gradients = torch.autograd.grad(reached, [out for _, out in here])
            for layer, gradient in enumerate(gradients):
                gradient = gradient.reshape(-1, gradient.shape[-1])
                mine, theirs = (
                    each.reshape(len(gradient), -1) for each in (here[layer][0], before[layer][0])
                )
                pulled = [
                    gradient @ columns(projections(model, unit)[layer]).detach()
                    for model in (tuned, base)
                ]
                total[layer] += (
                    weight * (mine * pulled[0] - theirs * pulled[1]).sum(0).double() / len(prompts)
                )
    return total
