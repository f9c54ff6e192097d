"""Sizes of units' contributions, and of their change between the models; random sets are matched on
both.
"""

import numpy as np
import torch

from interp.capture import capture
from interp.experiments.conditions import PatchSource
from interp.maths.host import to_host
from interp.study import Study


def contribution_norms(study: Study, patch_source: PatchSource) -> np.ndarray:
    """Root mean square over tokens of positive prompts of the norm of a unit's contribution ``h
    W``: ``[L, U]``.

    In the base where there is one, so that matching does not depend on tuning.
    """
    role, unit = "base" if study.pair.base is not None else "tuned", patch_source.unit
    model = study.pair[role]
    anatomy, layers = model.anatomy, range(model.anatomy.n_layers)
    sites, width = [unit.site(layer) for layer in layers], unit.width(anatomy)
    # the squared norm of h W is h (W^T W) h: one small matrix per unit
    grams = []
    for layer in layers:
        columns = patch_source.write[role][layer].double().unflatten(1, (-1, width))
        grams.append(torch.einsum("duw,duv->uwv", columns, columns))
    squares, n_tokens = (
        torch.zeros(len(layers), unit.count(anatomy), dtype=torch.float64, device=model.device),
        0,
    )
    # activations are held twice for a moment, in parts and concatenated
    rows = study.groups("positive", model, 8 * anatomy.n_layers * unit.n_channels(anatomy))
    for captured in capture(
        study.engine, {role: model}, study.encoded("positive"), rows, sites, pad_id=study.pad_id
    ):
        real = captured.roles >= 0
        n_tokens += int(to_host(real.sum()))
        for layer, site in enumerate(sites):
            values = captured.values[role, site][real].double().unflatten(-1, (-1, width))
            second_moments = torch.einsum("nuw,nuv->uwv", values, values)
            squares[layer] += (second_moments * grams[layer]).sum((1, 2))
    return to_host((squares / n_tokens).sqrt())


def contribution_changes(study: Study, patch_source: PatchSource) -> np.ndarray:
    """Root mean square over tokens of positive prompts of the norm of a contribution's change:
    ``[L, U]``.

    The change is ``h W`` of the tuned model minus that of the base, on the same text.
    """
    return contribution_sizes(study, patch_source)[1]


def contribution_sizes(study: Study, patch_source: PatchSource) -> tuple[np.ndarray, np.ndarray]:
    """``contribution_norms`` (base) and ``contribution_changes``, from one pass of each model."""
    unit, pair = (
        patch_source.unit,
        {"tuned": study.pair.tuned, "base": study.pair.require_base("a change")},
    )
    anatomy, layers = study.pair.tuned.anatomy, range(study.pair.tuned.anatomy.n_layers)
    sites, width = [unit.site(layer) for layer in layers], unit.width(anatomy)
    grams = []
    for layer in layers:
        columns = torch.stack(
            [patch_source.write[role][layer].double() for role in pair]
        ).unflatten(2, (-1, width))
        grams.append(torch.einsum("aduw,bduv->aubwv", columns, columns))
    device = study.pair.tuned.device
    squares = torch.zeros(2, len(layers), unit.count(anatomy), dtype=torch.float64, device=device)
    rows, n_tokens = (
        study.groups(
            "positive", study.pair.tuned, 12 * anatomy.n_layers * unit.n_channels(anatomy)
        ),
        0,
    )
    for captured in capture(
        study.engine, pair, study.encoded("positive"), rows, sites, pad_id=study.pad_id
    ):
        real = captured.roles >= 0
        n_tokens += int(to_host(real.sum()))
        for layer, site in enumerate(sites):
            activations = torch.stack(
                [captured.values[role, site][real].double().to(device) for role in pair]
            )
            signed = activations.unflatten(-1, (-1, width)) * torch.tensor(
                [1.0, -1.0], device=device
            ).view(2, 1, 1, 1)
            products = torch.einsum("anuw,aubwv,bnuv->abu", signed, grams[layer].to(device), signed)
            squares[0, layer] += products[1, 1]
            squares[1, layer] += products.sum((0, 1))
    norms, changes = to_host((squares.clamp(min=0) / n_tokens).sqrt())
    return norms, changes
