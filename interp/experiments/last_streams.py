"""The residual stream at the last token of texts, at every depth."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float

from interp.capture import capture
from interp.maths.host import to_host
from interp.maths.precision import widen
from interp.models.model import Model
from interp.prompts import Encoded
from interp.sites import Site
from interp.study import Study


def last_streams(
    study: Study, model: Model, texts: Sequence[Encoded], name: str
) -> Float[np.ndarray, "n depths D"]:
    """The stream at the last token of every text, before the first block and after each."""
    layers = range(model.anatomy.n_layers)
    sites = [
        *(Site(layer, "hook_resid_pre") for layer in layers),
        Site(layers[-1], "hook_resid_post"),
    ]
    groups = study.batches(texts, model, 4 * len(sites) * model.anatomy.width)
    parts: list[tuple[np.ndarray, np.ndarray]] = []
    for captured in capture(
        study.engine,
        {"model": model},
        texts,
        study.progress(groups, f"streams, {name}"),
        sites,
        pad_id=study.pad_id,
    ):
        last = [widen(captured.values["model", site][:, -1]) for site in sites]
        parts.append((to_host(captured.rows), to_host(torch.stack(last, 1))))
    order = np.argsort(np.concatenate([rows for rows, _ in parts]), kind="stable")
    return np.concatenate([values for _, values in parts])[order]
