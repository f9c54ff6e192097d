"""Directions of the residual stream read as tokens, and examples of texts with a marked token."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from interp.engines import Batch, Engine
from interp.experiments.discovery.tokens import token_labels
from interp.interventions.edits import Replace
from interp.maths.host import to_host
from interp.maths.precision import widen
from interp.models.model import Model
from interp.prompts import Encoded
from interp.sites import Site
from interp.study import Study

CONTEXT = 12
"""Tokens of a text that an example shows before the marked one."""
_CHUNK = 32


@torch.no_grad()
def lens_halves(
    engine: Engine, model: Model, directions: Float[np.ndarray, "n D"]
) -> Float[Tensor, "n V"]:
    """For every direction u half the difference of the logits of u and of -u, through a model's
    last norm and head, both at a root mean square of 1 (logit lens, nostalgebraist 2020); 0 for a
    direction of 0.

    Norms remove the length. Half the difference leaves out what norm and head add to any input.
    """
    sizes = np.sqrt(np.square(directions).mean(1, keepdims=True))
    unit = np.divide(directions, sizes, out=np.zeros_like(directions), where=sizes > 0)
    streams = torch.from_numpy(np.concatenate([unit, -unit])).float().to(model.device)[:, None]
    # norm and head act on every position separately, so that any token can be read
    ids = torch.zeros(streams.shape[:2], dtype=torch.int64, device=model.device)
    batch = Batch(ids, torch.ones_like(ids, dtype=torch.bool))
    last = Site(model.anatomy.n_layers - 1, "hook_resid_post")
    run = engine.run(model, batch, edits=[Replace(last, streams)], keep=None)
    up, down = widen(run.require_logits())[:, 0].chunk(2)
    return (up - down) / 2


def lens_tokens(
    study: Study, directions: Float[np.ndarray, "n D"], count: int
) -> list[tuple[str, str]]:
    """For every direction u, the tokens that u and -u make likelier, each in quotes, by
    ``lens_halves`` in the base.
    """
    model = study.pair.require_base("the logit lens")
    labels: list[tuple[str, str]] = []
    for start in range(0, len(directions), _CHUNK):
        lens = lens_halves(study.engine, model, directions[start : start + _CHUNK])
        most = [
            to_host(lens.topk(min(count, lens.shape[1]), dim=1, largest=largest).indices)
            for largest in (True, False)
        ]
        for one, other in zip(*most, strict=True):
            labels.append((_quoted(study, one), _quoted(study, other)))
    return labels


def _quoted(study: Study, ids: np.ndarray) -> str:
    return " ".join(
        repr(label) for label in token_labels(study.pair.tokenizer, list(map(int, ids)))
    )


def marked_example(study: Study, texts: Sequence[Encoded], text: int, position: int) -> str:
    """The text before the position, its token marked, and a little after it."""
    if text < 0:
        return ""
    ids, decode = list(texts[text].ids), study.pair.tokenizer.decode
    before = decode(ids[max(0, position - CONTEXT) : position])
    after = decode(ids[position + 1 : position + 5])
    return f"{before}«{decode(ids[position : position + 1])}»{after}"
