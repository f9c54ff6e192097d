"""``IntruderScaling``: what intruders do, by scaling their singular values inside the tuned model.

``W(s) = W + (s - 1) sigma u v^T`` for the strongest intruder of every matrix, or for all (Shuttleworth et al., arXiv
2410.21228; PEFT scales all). Measured are the task and, on plain text, the loss: forgetting is how far it lies above
the base's. Two controls at every scale: for each intruder a vector of the same matrix that is none and has the nearest
singular value; and the whole update scaled, since that traces a trade-off of its own.
"""

import math
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np
import torch

from interp import claims
from interp.analyzers.base import Analyzer
from interp.capture import make_batch
from interp.claims import Claim
from interp.engines import Batch
from interp.errors import OptionError, PromptError, UnsupportedModel
from interp.maths import subspaces
from interp.maths.bootstrap import clustered_bootstrap
from interp.maths.host import to_host
from interp.metrics import token_losses
from interp.models.model import Model
from interp.models.rescale import Direction, rescaled, update_scaled
from interp.prompts import Encoded
from interp.sites import MATRICES, Weight
from interp.study import Study
from interp.table import Table, table

SCALES = (0.0, 0.25, 0.5, 0.75, 1.0, 1.25, 1.5, 1.75, 2.0)
KINDS = ("intruder", "neighbour", "update")
HALF, NAN = 0.5, float("nan")


@dataclass(frozen=True)
class IntruderScaling(Analyzer):
    """Scale the intruders of a ``located`` run of ``Intruders`` in the study's tuned model, beside two controls.

    The study's positive prompts measure the task, its negative ones are plain text whose loss is measured; it needs a
    base. ``which`` is ``top1``, the strongest of every matrix, or ``all``. Returns a table of kind
    ``intruder-scaling``, one row per kind and scale.
    """

    name: ClassVar[str] = "intruder-scaling"
    version: ClassVar[int] = 1

    located: Table | None = field(default=None, metadata={"from_parent": True})
    parent: str | None = None
    which: str = "top1"
    scales: tuple[float, ...] = SCALES

    @classmethod
    def of(cls, located: Table, **options) -> "IntruderScaling":
        """The analyzer for a run of ``Intruders``."""
        return cls(located=located, parent=located.provenance.key, **options)

    def __call__(self, study: Study) -> Table:
        """Choose, scale, measure; the model is the same bit for bit afterwards."""
        base = study.pair.require_base("scaling intruders")
        if self.located is None or self.located.kind != "intruders":
            raise OptionError("scaling intruders needs a run of interp intruders; give its table")
        scales = self.require()
        chosen, edited, notes = self._chosen(study)
        texts = _texts(study)
        base_loss = _losses(study, base, texts)
        plain = _numbers(study), _losses(study, study.pair.tuned, texts)
        found = {}
        settings = [(kind, scale) for kind in _possible(study, chosen, notes) for scale in scales]
        for kind, scale in study.progress(settings, "scales"):
            found[kind, scale] = plain
            if scale != 1:
                with _scaled(study, chosen, kind, scale):
                    found[kind, scale] = _numbers(study), _losses(study, study.pair.tuned, texts)
        made = _claims(study, found, scales) if chosen["intruder"] else []
        sentence = " ".join(claim.sentence for claim in made) or (
            "The run found no intruder in a matrix of a block: there was nothing to scale but the update."
        )
        keys = list(found)
        metrics, losses = (np.array([values[part].mean() for values in found.values()]) for part in (0, 1))
        return table(
            self.name,
            {
                "kind": ([k for k, _ in keys], "key", "what is scaled: intruder, neighbour or the whole update"),
                "scale": (np.array([s for _, s in keys]), "measure", "factor on the singular value; 1 changes nothing"),
                "metric": (metrics, "measure", study.metric.words.number, study.metric.words.unit),
                "loss": (losses, "measure", "loss per token of the plain text", "nats"),
                "forgetting": (losses - base_loss.mean(), "measure", "the same less the base's", "nats"),
            },
            provenance=study.provenance(self),
            summary={
                "sentence": sentence,
                "shown": bool(made) and all(claim.shown for claim in made),
                "edited": len(chosen["intruder"]),
                "base_loss": float(base_loss.mean()),
                "tuned_loss": float(plain[1].mean()),
                "tuned_metric": float(plain[0].mean()),
                "positive": len(study.contrast.positive),
                "negative": len(study.contrast.negative),
                "limits": [f"{note[:1].upper()}{note[1:]}." for note in dict.fromkeys(notes)],
            },
            tables={
                "prompts": _each("intruder-scaling-prompts", "value", study.contrast.positive, found, 0, "the metric"),
                "texts": _each("intruder-scaling-texts", "loss", study.contrast.negative, found, 1, "loss per token"),
                "edited": edited,
                "claims": claims.to_table(made),
            },
        )

    def require(self) -> list[float]:
        """The scales in order, 1 among them; raises OptionError for options that mean nothing."""
        if self.which not in ("top1", "all"):
            raise OptionError(f"unknown choice {self.which!r} of intruders; use top1 or all")
        if any(not math.isfinite(scale) or scale < 0 for scale in self.scales) or not set(self.scales) - {1.0}:
            raise OptionError(f"scales {self.scales}: give numbers of 0 or more beside 1, such as 0,0.5,1,1.5")
        return sorted({*map(float, self.scales), 1.0})

    def _chosen(self, study: Study) -> tuple[dict[str, list[Direction]], Table, list[str]]:
        """Directions of both kinds, as a table too, and remarks on intruders that cannot be scaled."""
        rows, options = self.located, self.located.provenance.options
        chosen: dict[str, list[Direction]] = {"intruder": [], "neighbour": []}
        notes, about = [], []
        names = sorted({(int(layer), part) for layer, part in zip(rows["layer"], rows["part"], strict=True)})
        for layer, part in names:
            mine = np.flatnonzero((rows["layer"] == layer) & (rows["part"] == part))
            flags = rows["is_intruder"][mine]
            if not flags.any():
                continue
            if layer < 0 or part not in MATRICES:
                notes.append(f"intruders of {part} cannot be scaled in memory: it is no matrix of a block by itself")
                continue
            found = _triplets(study.pair.tuned, Weight(layer, part), options["side"], len(mine))
            _require_same(rows["sigma"][mine], found.values, Weight(layer, part))
            picked = np.flatnonzero(flags)[: 1 if self.which == "top1" else None]
            free = [int(index) for index in np.flatnonzero(~flags)]
            for index in picked:
                pair = [("intruder", int(index))]
                if free:
                    near = min(free, key=lambda other: abs(rows["sigma"][mine[other]] - rows["sigma"][mine[index]]))
                    free.remove(near)
                    pair.append(("neighbour", near))
                for kind, at in pair:
                    sigma = float(found.values[at])
                    left, right = found.left[:, at].float(), found.right[:, at].float()
                    chosen[kind].append(Direction(Weight(layer, part), left, sigma, right))
                    about.append((kind, layer, part, at + 1, sigma))
        return chosen, _edited(about), notes


def _triplets(model: Model, weight: Weight, side: str, count: int) -> subspaces.Leading:
    matrix = model.weight(weight)
    if side == "left":
        return subspaces.leading(matrix, count)
    found = subspaces.leading(matrix.T, count)
    return subspaces.Leading(found.right, found.values, found.left)


def _require_same(kept: np.ndarray, values: torch.Tensor, weight: Weight) -> None:
    seen = to_host(values)
    if not np.allclose(seen, kept, rtol=1e-2, atol=1e-6):
        raise OptionError(
            f"{weight} has singular values {seen[0]:.4g} ... here and {kept[0]:.4g} ... in the run; "
            "give the model that the run was made of"
        )


def _edited(about: list[tuple]) -> Table:
    kind, layer, part, rank, sigma = zip(*about, strict=True) if about else ((),) * 5
    return table(
        "intruder-scaling-edited",
        {
            "kind": (kind, "key", "intruder, or its neighbour that is none"),
            "layer": (np.array(layer, np.int64), "key", "block"),
            "part": (part, "key", "which matrix of the block"),
            "rank": (np.array(rank, np.int64), "key", "place of the singular vector, from 1"),
            "sigma": (np.array(sigma, np.float64), "measure", "its singular value"),
        },
    )


def _scaled(study: Study, chosen: dict[str, list[Direction]], kind: str, scale: float) -> AbstractContextManager:
    """The tuned model so scaled, for as long as the context lasts."""
    if kind == "update":
        return update_scaled(study.pair, scale)
    return rescaled(study.pair.tuned, chosen[kind], scale)


def _possible(study: Study, chosen: dict[str, list[Direction]], notes: list[str]) -> list[str]:
    """What can be scaled here; a remark where the update cannot."""
    kinds = [kind for kind in KINDS[:2] if chosen[kind]]
    try:
        with update_scaled(study.pair, HALF):
            return [*kinds, "update"]
    except UnsupportedModel as error:
        notes.append(f"the whole update was not scaled, so that control is missing: {error}")
        return kinds


def _numbers(study: Study) -> np.ndarray:
    """The metric of every positive prompt in the tuned model as it is now."""
    posed, model = study.posed("positive"), study.pair.tuned
    found = np.zeros(len(posed))
    for rows in study.batches(posed, model):
        batch, _ = make_batch(posed, rows, study.pad_id, model.device)
        aim = study.objective("positive", rows)
        found[rows] = to_host(aim.of(study.engine.run(model, batch, keep=aim.keep).logits))
    return found


def _texts(study: Study) -> list[Encoded]:
    """The plain texts as tokens, without a template, cut at the context."""
    coded = []
    for prompt in study.contrast.negative:
        ids = study.pair.tokenizer(prompt.text)["input_ids"][: study.pair.tuned.context_length]
        if len(ids) < 2:
            raise PromptError(f"text {prompt.id} has {len(ids)} token(s), so nothing to predict; give longer ones")
        coded.append(Encoded(tuple(ids), (0,) * len(ids)))
    return coded


def _losses(study: Study, model: Model, texts: list[Encoded]) -> np.ndarray:
    """Mean loss per token of every text, in nats."""
    found = np.zeros(len(texts))
    for rows in study.batches(texts, model, 8 * model.anatomy.vocabulary):
        batch = Batch.pad([texts[row].ids for row in rows], study.pad_id, "right", model.device)
        logits = study.engine.run(model, batch, keep=None).logits[:, :-1]
        losses = token_losses(logits, batch.ids[:, 1:], batch.mask[:, 1:])
        found[rows] = to_host(losses.double().sum(1) / batch.mask[:, 1:].sum(1))
    return found


def _each(kind: str, column: str, prompts, found: dict, part: int, meaning: str) -> Table:
    count, keys = len(prompts), list(found)
    return table(
        kind,
        {
            "kind": (np.repeat(np.array([k for k, _ in keys], object), count), "key", "what is scaled"),
            "scale": (np.repeat(np.array([s for _, s in keys]), count), "measure", "factor on the singular value"),
            "prompt_id": (np.tile([p.id for p in prompts], len(keys)), "key", "place in the file"),
            "cluster": (np.tile(np.array(prompts.clusters, object), len(keys)), "key", "resampled together"),
            column: (np.concatenate([values[part] for values in found.values()]), "measure", meaning),
        },
    )


def _claims(study: Study, found: dict, scales: list[float]) -> list[Claim]:
    at = min((scale for scale in scales if scale != 1), key=lambda scale: (abs(scale - HALF), scale))
    clusters = study.contrast.negative.clusters
    mine, plain = found["intruder", at], found["intruder", 1.0]
    fall, low, high = clustered_bootstrap(mine[1] - plain[1], clusters, seed=study.seed)
    control = (NAN, NAN, NAN)
    beside, better = "no vector beside it could be scaled", False
    if ("neighbour", at) in found:
        near = found["neighbour", at][1]
        control = clustered_bootstrap(near - plain[1], clusters, seed=study.seed)
        better = clustered_bootstrap(mine[1] - near, clusters, seed=study.seed)[2] < 0
        beside = f"vectors beside them that are none: {control[0]:+.3f}"
    task = mine[0].mean() - plain[0].mean()
    words = study.metric.words
    told = Claim(
        "forgets-less",
        f"With intruders scaled by {at:g}, the loss on plain text moves by {fall:+.3f} nats per token ({beside}), and "
        f"the {words.number} by {task:+.3g} {words.unit}.",
        fall, low, high, "the nearest vector of the same matrix that is no intruder, scaled alike", *control, NAN, 0,
        "at most", bool(fall < 0 and high < 0 and better), _difference("intruder", at, "intruder", 1.0),
    )  # fmt: skip
    return [told, *_beside_the_update(study, found, at)]


def _beside_the_update(study: Study, found: dict, at: float) -> list[Claim]:
    mine = found["intruder", at]
    kept = {scale: values[0].mean() for (kind, scale), values in found.items() if kind == "update" and scale <= 1}
    if len(kept) < 2:
        return []
    # the update that keeps at least as much of the task, and the least of those; else the one that keeps most
    enough = {scale: value for scale, value in kept.items() if value >= mine[0].mean()}
    scale = min(enough, key=enough.get) if enough else max(kept, key=kept.get)
    other = found["update", scale]
    clusters = study.contrast.negative.clusters
    value, low, high = clustered_bootstrap(mine[1] - other[1], clusters, seed=study.seed)
    return [
        Claim(
            "beats-the-update",
            f"Beside the whole update scaled by {scale:g}, which keeps the task at {other[0].mean():.3g} (intruders by "
            f"{at:g}: {mine[0].mean():.3g}), the loss on plain text is {value:+.3f} nats per token.",
            value, low, high, "the whole update, at the scale that keeps the task as well or barely better", NAN, NAN,
            NAN, NAN, 0, "at most", bool(value < 0 and high < 0),
            _difference("intruder", at, "update", scale),
        )
    ]  # fmt: skip


def _difference(kind: str, at: float, other: str, scale: float) -> dict:
    return {
        "table": "texts", "statistic": "mean", "column": "loss", "cluster": "cluster",
        "where": {"kind": kind, "scale": at}, "minus": {"where": {"kind": other, "scale": scale}},
    }  # fmt: skip
