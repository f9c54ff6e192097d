"""Directions of the residual stream read as tokens, and examples of texts with a marked token."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float

from interp.engines import Batch
from interp.experiments.discovery.tokens import token_labels
from interp.interventions.edits import Replace
from interp.maths.host import to_host
from interp.maths.precision import widen
from interp.prompts import Encoded
from interp.sites import Site
from interp.study import Study

CONTEXT = 12
"""Tokens of a text that an example shows before the marked one."""
_CHUNK = 32


@torch.no_grad()
def lens_tokens(
    study: Study, directions: Float[np.ndarray, "n D"], count: int
) -> list[tuple[str, str]]:
    """For every direction u, the tokens that u and -u make likelier, each in quotes, by the logit
    lens (nostalgebraist 2020) through the base's last norm and head.

    Tokens are ordered by half the difference of the logits of u and of -u, both at a root mean
    square of 1, so that the bias of a norm or a head does not count.
    """
    model = study.pair.require_base("the logit lens")
    last = Site(model.anatomy.n_layers - 1, "hook_resid_post")
    labels: list[tuple[str, str]] = []
    for start in range(0, len(directions), _CHUNK):
        part = torch.from_numpy(directions[start : start + _CHUNK]).float().to(model.device)
        part = part * (part.shape[1] ** 0.5 / part.norm(dim=1, keepdim=True).clamp(min=1e-30))
        both = torch.cat([part, -part])[:, None]
        ids = torch.zeros(both.shape[:2], dtype=torch.int64, device=model.device)
        batch = Batch(ids, torch.ones_like(ids, dtype=torch.bool))
        logits = study.engine.run(model, batch, edits=[Replace(last, both)], keep=None)
        up, down = widen(logits.require_logits())[:, 0].chunk(2)
        lens = (up - down) / 2
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
