"""Residual streams of prompts at every depth, at the last prompt token or over an answer."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from interp.capture import capture
from interp.engines import Batch
from interp.maths.host import to_host
from interp.maths.precision import widen
from interp.models.model import Model
from interp.prompts import COMPLETION, Encoded
from interp.sites import Site
from interp.study import Study


def stream_sites(model: Model) -> list[Site]:
    """The stream before every block, and after the last."""
    layers = range(model.anatomy.n_layers)
    return [
        *(Site(layer, "hook_resid_pre") for layer in layers),
        Site(layers[-1], "hook_resid_post"),
    ]


def read_texts(study: Study, position: str) -> list[Encoded]:
    """All prompts of the study, class by class; for ``position`` "answer" each followed by the
    base's own greedy answer, without the token that ends it.
    """
    prompts = [coded for group in study.classes for coded in study.encoded(group)]
    if position == "prompt":
        return prompts
    answers = study.answers_to(study.classes, "base")
    return [
        coded.with_completion(without_end(study, answer))
        for coded, answer in zip(
            prompts, [one for group in study.classes for one in answers[group]], strict=True
        )
    ]


def without_end(study: Study, answer: Sequence[int]) -> list[int]:
    """An answer without its end token, unless it has no other."""
    ended = len(answer) > 1 and answer[-1] in study.stop_ids
    return list(answer[:-1] if ended else answer)


def mean_states(
    study: Study,
    model: Model,
    texts: Sequence[Encoded],
    groups: Sequence[Sequence[int]],
    name: str,
    depths: Sequence[int] | None = None,
) -> Float[np.ndarray, "n depths D"]:
    """The stream of every text at every depth, or at some: the mean over its answer tokens, or that
    of its last token where it has no answer.

    ``groups``: the batches, the same for all models, so that equal models give equal numbers.
    """
    sites = stream_sites(model)
    sites = sites if depths is None else [sites[depth] for depth in depths]
    states: np.ndarray | None = None
    batches = study.progress(groups, f"streams, {name}")
    for captured in capture(
        study.engine, {"model": model}, texts, batches, sites, pad_id=study.pad_id
    ):
        counted = _counted(captured.batch, captured.roles)
        means = []
        for site in sites:
            values = widen(captured.values["model", site])
            mask = counted.to(values.device)[..., None]
            # padding can hold anything, NaN too
            means.append(torch.where(mask, values, 0.0).sum(1) / mask.sum(1))
        part = to_host(torch.stack(means, 1))
        if states is None:
            states = np.zeros((len(texts), *part.shape[1:]), part.dtype)
        states[to_host(captured.rows)] = part
    assert states is not None
    return states


def _counted(batch: Batch, roles: Tensor) -> Bool[Tensor, "B T"]:
    """The tokens over which a text's stream is averaged."""
    answer = roles == COMPLETION
    last = torch.zeros_like(answer)
    last[:, -1] = True
    return torch.where(answer.any(1, keepdim=True), answer, last) & batch.real
