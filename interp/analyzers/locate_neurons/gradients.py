"""Methods along the gradient of the metric: ``integrated`` and its kin, ``cross``, ``act-grad``.

F is the metric's number for a positive prompt (the log-odds of refusal at its last token, say), h a neuron's
activation, W its column of the down projection, c = h W its contribution to the residual stream. Scores are means over
prompts of sums over positions, in the metric's unit (nats), signed: positive pushes towards refusal, or towards the
right answer.

integrated         (c - c_base) . dF/dc, averaged over alpha on the path where *all* blocks' MLP outputs go together
                   from the base's (alpha 0) to the tuned model's (alpha 1) inside the tuned model: integrated gradients
                   (Sundararajan et al. 2017) on a joint path, midpoint rule. Every block computes its c live from the
                   stream it gets, so a neuron is credited for what it makes later blocks do, as an ablation would show.
                   Attributions of neurons and biases add up to F(1) - F(0).
integrated-fixed   the same with every c held at its value in the unchanged tuned model, so that a neuron is credited
                   for what it says to the logits directly or through attention, later MLPs for what they pass on.
integrated-zero    as integrated, from MLPs that write nothing instead of the base's: what ``integrated`` means where
                   there is no base. It credits everything the MLPs do, not only what tuning changed.
cross              the same difference times dF/dc in the tuned model as it is: one step, blind where the behaviour has
                   saturated.
act-grad           h . dF/dh in the tuned model; needs no base.

Heads are scored alike: z for h, the attention output projection for the down projection, attention outputs for MLP
outputs; a head's score is the sum over its channels.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from interp.analyzers.locate_neurons.scores import Asked, Scores, chosen
from interp.capture import by_prompt, make_batch
from interp.edit import Blend, Replace
from interp.engines import Batch, Edit, Run
from interp.maths.host import to_host
from interp.maths.moments import sum_of
from interp.maths.precision import widen
from interp.metrics import Objective
from interp.models.anatomy import Anatomy
from interp.models.model import Model
from interp.models.units import Unit
from interp.sites import Site
from interp.study import Study
from interp.table import table

_EPSILON = float(np.finfo(np.float32).eps)
Values = dict[Site, Tensor]
Path = Literal["live", "fixed", "none"]


@dataclass
class _Sums:
    """Running sums over prompts of the channels' attributions and of the magnitudes they cancel from."""

    unit: Unit
    anatomy: Anatomy
    score: Float[Tensor, "L C"]
    magnitude: Float[Tensor, "L C"]
    count: int = 0

    @classmethod
    def empty(cls, model: Model, unit: Unit) -> "_Sums":
        shape = (model.anatomy.n_layers, unit.n_channels(model.anatomy))
        zero = torch.zeros(shape, dtype=torch.float64, device=model.device)
        return cls(unit, model.anatomy, zero, zero.clone())

    def add(self, layer: int, terms: Float[Tensor, "B T N"], sizes: Float[Tensor, "B T N"]) -> None:
        self.score[layer] += sum_of(terms.flatten(0, 1))
        self.magnitude[layer] += sum_of(sizes.flatten(0, 1))

    def finish(self) -> tuple[np.ndarray, np.ndarray]:
        """Mean score of each unit, ``[L, U]``, and the rounding error to expect of it."""
        scale = 1 / max(self.count, 1)
        score, size = (self.unit.gather(self.anatomy, part * scale) for part in (self.score, self.magnitude))
        return to_host(score), 8 * _EPSILON * to_host(size)


def integrated(study: Study, asked: Asked) -> Scores:
    """Integrated gradients along the joint path of all MLP contributions, computed live, from the base's or zero."""
    return _contributions(study, asked, "live", from_zero=study.pair.base is None)


def integrated_zero(study: Study, asked: Asked) -> Scores:
    """Integrated gradients along the joint path on which all MLP outputs grow from zero; needs no base."""
    return _contributions(study, asked, "live", from_zero=True)


def integrated_fixed(study: Study, asked: Asked) -> Scores:
    """Integrated gradients along the straight path between the two models' MLP outputs; needs a base."""
    return _contributions(study, asked, "fixed")


def cross(study: Study, asked: Asked) -> Scores:
    """Contribution difference times the gradient at the tuned model; needs a base."""
    return _contributions(study, asked, "none")


def activation_gradient(study: Study, asked: Asked) -> Scores:
    """Activation times gradient in the tuned model; needs no base."""
    tuned = study.pair.tuned
    sites = [asked.unit.site(layer) for layer in range(tuned.anatomy.n_layers)]
    sums = _Sums.empty(tuned, asked.unit)
    encoded = study.posed("positive")
    for rows in study.progress(study.batches(encoded, tuned, _bytes(tuned, asked.unit)), "act-grad"):
        batch, roles = make_batch(encoded, rows, study.pad_id, tuned.device)
        aim = study.objective("positive", rows)
        run = study.engine.run(tuned, batch, reads=sites, gradients_at=sites, gradient_of=aim.of, keep=aim.keep)
        mask = chosen(roles, asked.positions)[..., None]
        for layer, site in enumerate(sites):
            terms = torch.where(mask, widen(run.values[site]) * widen(run.gradients[site]), 0.0)
            sums.add(layer, terms, terms.abs())
        sums.count += len(rows)
    score, floor = sums.finish()
    words = study.require_metric().words
    return Scores(score, floor, f"activation times gradient of the {words.number}, {words.unit}")


def _bytes(model: Model, unit: Unit) -> int:
    return 16 * model.anatomy.n_layers * (unit.n_channels(model.anatomy) + 2 * model.anatomy.width)


def _contributions(study: Study, asked: Asked, path: Path, from_zero: bool = False) -> Scores:
    tuned, base = study.pair.tuned, None if from_zero else study.pair.require_base("this method")
    layers, unit = range(tuned.anatomy.n_layers), asked.unit
    reads = [site for layer in layers for site in (unit.site(layer), unit.contribution(layer))]
    write = [unit.write_weights(tuned, layer) for layer in layers]
    moved = [
        torch.zeros_like(now) if base is None else now - unit.write_weights(base, layer)
        for layer, now in enumerate(write)
    ]
    encoded, sums = study.posed("positive"), _Sums.empty(tuned, unit)
    found = {name: np.zeros(len(encoded)) for name in ("base", "start", "end", "neurons", "biases")}
    if base is None:
        del found["base"]
    for rows in study.progress(study.batches(encoded, tuned, _bytes(tuned, unit)), f"gradients, {path} path"):
        batch, roles = make_batch(encoded, rows, study.pad_id, tuned.device)
        aim = study.objective("positive", rows)
        runs = {"end": study.engine.run(tuned, batch, reads=reads, keep=aim.keep)}
        if base is None:
            before = {site: torch.zeros_like(value) for site, value in runs["end"].values.items()}
        else:
            runs["base"] = study.engine.run(base, batch, reads=reads, keep=aim.keep)
            before = runs["base"].values
        after = runs["end"].values
        silenced = _between(before, after, 0.0, "fixed", unit)
        runs["start"] = study.engine.run(tuned, batch, edits=silenced, keep=aim.keep)
        mask = chosen(roles, asked.positions)[..., None]
        walk = _Walk(study, batch, aim, before, after, asked, path)
        for layer in layers:
            terms, sizes = walk.terms(layer, write[layer], moved[layer])
            terms, sizes = torch.where(mask, terms, 0.0), torch.where(mask, sizes, 0.0)
            sums.add(layer, terms, sizes)
            told = by_prompt(terms.double().sum((1, 2)), len(rows)).sum(1)
            whole = by_prompt(torch.where(mask, walk.whole[layer], 0.0).double().sum((1, 2)), len(rows)).sum(1)
            found["neurons"][rows] += to_host(told)
            found["biases"][rows] += to_host(whole - told)
        sums.count += len(rows)
        for name, run in runs.items():
            found[name][rows] = to_host(aim.of(run.require_logits()))
    score, floor = sums.finish()
    gap = found["neurons"] + found["biases"] - found["end"] + found["start"]
    words = study.require_metric().words
    short = words.short
    summary = {f"{short}_tuned": found["end"].mean(), "completeness_error": float(np.abs(gap).mean())}
    if base is None:
        summary[f"{short}_tuned_without_{unit.part}_outputs"] = found["start"].mean()
    else:
        summary[f"{short}_base"] = found["base"].mean()
        summary[f"{short}_tuned_with_base_{unit.part}_outputs"] = found["start"].mean()
        summary[f"{unit.part}_share"] = _share(found)
    meaning = f"from {unit.plural} that write nothing" if base is None else "from base to tuned"
    return Scores(
        score,
        floor,
        f"share of the change of the {words.number} {meaning}, {words.unit}",
        tables={"paths": _paths(study, found, unit)},
        summary=summary,
    )


def _share(found: dict[str, np.ndarray]) -> float | None:
    """The part of the rise of the metric that runs through MLP outputs; None where the rise is not clear."""
    rise, through = found["end"] - found["base"], (found["end"] - found["start"]).mean()
    # a share of a rise that is within its own error, or outside 0 to 1, says nothing
    clear = rise.mean() > 2 * rise.std() / max(len(rise) - 1, 1) ** 0.5
    share = float(through / rise.mean()) if clear else float("nan")
    return share if -0.005 <= share <= 1.005 else None


class _Walk:
    """Means along a path, per block: dF/dc, (h - h_base) dF/dh with the size it cancels from, and the whole change."""

    def __init__(
        self, study: Study, batch: Batch, aim: Objective, before: Values, after: Values, asked: Asked, path: Path
    ) -> None:
        self._before, self._after, self._path, self._unit = before, after, path, asked.unit
        layers = range(study.pair.tuned.anatomy.n_layers)
        outputs, inputs = ([place(layer) for layer in layers] for place in (asked.unit.contribution, asked.unit.site))
        shares = [1.0] if path == "none" else [(step + 0.5) / asked.steps for step in range(asked.steps)]
        self.gradient: dict[int, Tensor] = dict.fromkeys(layers, torch.zeros(()))
        self.live: dict[int, Tensor] = dict.fromkeys(layers, torch.zeros(()))
        self.size: dict[int, Tensor] = dict.fromkeys(layers, torch.zeros(()))
        self.whole: dict[int, Tensor] = dict.fromkeys(layers, torch.zeros(()))
        for share in shares:
            run = study.engine.run(
                study.pair.tuned,
                batch,
                reads=[*inputs, *outputs],
                edits=_between(before, after, share, path, asked.unit),
                gradients_at=outputs if path == "fixed" else [*inputs, *outputs],
                gradient_of=aim.of,
                keep=aim.keep,
            )
            for layer in layers:
                self._take(layer, run, share, len(shares))

    def _take(self, layer: int, run: Run, share: float, count: int) -> None:
        site, output = self._unit.site(layer), self._unit.contribution(layer)
        gradient = widen(run.gradients[output]) / count
        self.gradient[layer] = self.gradient[layer] + gradient
        # the value that was read lies a share of the way from the base's
        change = (widen(run.values[output]) - widen(self._before[output])) / share
        self.whole[layer] = self.whole[layer] + gradient * change
        if self._path != "fixed":
            # the blend scales the gradient that reaches h by the share
            reached = widen(run.gradients[site]) / (count * share)
            now, then = widen(run.values[site]), widen(self._before[site])
            self.live[layer] = self.live[layer] + (now - then) * reached
            self.size[layer] = self.size[layer] + (now.abs() + then.abs()) * reached.abs()

    def terms(
        self, layer: int, write: Float[Tensor, "D N"], moved: Float[Tensor, "D N"]
    ) -> tuple[Float[Tensor, "B T N"], Float[Tensor, "B T N"]]:
        """Each channel's share, c - c_base written as (h - h_base) W + h_base (W - W_base), and the size it is made of.

        Written so, it is exactly zero where nothing changed.
        """
        gradient, then = self.gradient[layer], widen(self._before[self._unit.site(layer)])
        rewritten = then * (gradient @ moved)
        if self._path == "fixed":
            now, reached = widen(self._after[self._unit.site(layer)]), gradient @ write
            return (now - then) * reached + rewritten, (now.abs() + then.abs()) * reached.abs()
        return self.live[layer] + rewritten, self.size[layer]


def _between(before: Values, after: Values, share: float, path: Path, unit: Unit) -> list[Edit]:
    """Edits that put every block's output of the units ``share`` of the way from the base's to the tuned model's."""
    sites = [site for site in after if site.hook == unit.output]
    if path == "none":
        return []
    if path == "live":
        return [Blend(site, before[site], share) for site in sites]
    return [Replace(site, torch.lerp(before[site], after[site], share)) for site in sites]


def _paths(study: Study, found: dict[str, np.ndarray], unit: Unit):
    ids = np.array([prompt.id for prompt in study.prompts("positive")])
    words = study.require_metric().words
    start = f"the base's {unit.part} outputs" if "base" in found else f"{unit.plural} that write nothing"
    meanings = {
        "base": f"{words.number} of the base",
        "start": f"{words.number} of the tuned model with {start}",
        "end": f"{words.number} of the tuned model",
        "neurons": f"sum of all {unit.plural}' attributions",
        "biases": f"attribution of the biases of {unit.matrix}",
    }
    names = {
        "base": f"{words.short}_base", "start": f"{words.short}_start", "end": f"{words.short}_tuned",
        "neurons": f"{unit.name}s",
    }  # fmt: skip
    return table(
        "attribution-paths",
        {
            "prompt_id": (ids, "key", "position in the prompt file"),
            **{
                names.get(name, name): (found[name], "measure", meaning, words.unit)
                for name, meaning in meanings.items()
                if name in found
            },
        },
    )
