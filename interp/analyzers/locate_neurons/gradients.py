"""Methods that follow the gradient of the refusal log-odds: ``integrated``, ``cross`` and ``act-grad``.

F is the log-odds of refusal at the last prompt token of a positive prompt, h a neuron's activation, W its column of
the down projection, c = h W its contribution to the residual stream. Scores are means over prompts of sums over
positions, in nats, signed: positive pushes towards refusal.

integrated   (c_tuned - c_base) . mean over alpha of dF/dc, on the path where *all* blocks' MLP outputs go together from
             the base's (alpha 0) to the tuned model's (alpha 1) inside the tuned model (Sundararajan et al. 2017, with
             a joint path and the midpoint rule). Attributions of neurons and of biases add up to F(1) - F(0).
cross        the same difference times dF/dc in the tuned model as it is, later MLPs alive: one step, and blind where
             the behaviour has saturated.
act-grad     h . dF/dh in the tuned model; needs no base.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from interp.analyzers.locate_neurons.scores import Scores, chosen
from interp.capture import make_batch
from interp.edit import Replace
from interp.engines import Batch
from interp.maths.host import to_host
from interp.models.model import Model
from interp.sites import Site, contribution, neurons
from interp.study import Study
from interp.table import table

_EPSILON = float(np.finfo(np.float32).eps)
Values = dict[Site, Tensor]


@dataclass
class _Sums:
    """Running sums over prompts of attributions and of the magnitudes they cancel from."""

    score: Float[Tensor, "L N"]
    magnitude: Float[Tensor, "L N"]
    count: int = 0

    @classmethod
    def empty(cls, model: Model) -> "_Sums":
        shape = (model.anatomy.n_layers, model.anatomy.n_neurons)
        zero = torch.zeros(shape, dtype=torch.float64, device=model.device)
        return cls(zero, zero.clone())

    def add(self, layer: int, terms: Float[Tensor, "B T N"], sizes: Float[Tensor, "B T N"]) -> None:
        self.score[layer] += terms.double().sum((0, 1))
        self.magnitude[layer] += sizes.double().sum((0, 1))

    def finish(self) -> tuple[np.ndarray, np.ndarray]:
        """Mean score, and the rounding error to expect of it."""
        scale = 1 / max(self.count, 1)
        return to_host(self.score * scale), 8 * _EPSILON * to_host(self.magnitude * scale)


def integrated(study: Study, positions: str, steps: int) -> Scores:
    """Integrated gradients along the joint path of all MLP contributions; needs a base."""
    return _contributions(study, positions, steps)


def cross(study: Study, positions: str, steps: int) -> Scores:
    """Contribution difference times the gradient at the tuned model; needs a base."""
    return _contributions(study, positions, None)


def activation_gradient(study: Study, positions: str, steps: int) -> Scores:
    """Activation times gradient in the tuned model; needs no base."""
    tuned = study.pair.tuned
    sites = [neurons(layer) for layer in range(tuned.anatomy.n_layers)]
    sums = _Sums.empty(tuned)
    encoded = study.encoded("positive")
    for rows in study.progress(study.groups("positive", tuned, _bytes(tuned)), "act-grad"):
        batch, roles = make_batch(encoded, rows, study.pad_id, tuned.device)
        run = study.engine.run(tuned, batch, reads=sites, gradients_at=sites, gradient_of=_objective(study))
        mask = chosen(roles, positions)[..., None]
        for layer, site in enumerate(sites):
            terms = torch.where(mask, run.values[site].float() * run.gradients[site].float(), 0.0)
            sums.add(layer, terms, terms.abs())
        sums.count += len(rows)
    score, floor = sums.finish()
    return Scores(score, floor, "activation times gradient of the refusal log-odds, nats")


def _objective(study: Study):
    return lambda logits: study.metric.log_odds(logits[:, -1])


def _bytes(model: Model) -> int:
    return 16 * model.anatomy.n_layers * (model.anatomy.n_neurons + 2 * model.anatomy.width)


def _contributions(study: Study, positions: str, steps: int | None) -> Scores:
    base, tuned = study.pair.require_base("this method"), study.pair.tuned
    layers = range(tuned.anatomy.n_layers)
    reads = [site for layer in layers for site in (neurons(layer), contribution(layer))]
    write = {role: [study.pair[role].write_weights(layer) for layer in layers] for role in ("base", "tuned")}
    encoded, sums = study.encoded("positive"), _Sums.empty(tuned)
    found: dict[str, np.ndarray] = {
        name: np.zeros(len(encoded)) for name in ("base", "start", "end", "neurons", "biases")
    }
    name = "cross" if steps is None else "integrated"
    for rows in study.progress(study.groups("positive", tuned, _bytes(tuned)), name):
        batch, roles = make_batch(encoded, rows, study.pad_id, tuned.device)
        before = study.engine.run(base, batch, reads=reads)
        after = study.engine.run(tuned, batch, reads=reads)
        gradients = _gradients(study, batch, before.values, after.values, steps)
        start = _along(study, batch, before.values, after.values, 0.0)
        mask = chosen(roles, positions)[..., None]
        told = np.zeros((2, len(rows)))
        for layer in layers:
            gradient = gradients[contribution(layer)]
            terms, sizes, whole = _terms(layer, gradient, before.values, after.values, write, mask)
            sums.add(layer, terms, sizes)
            told += np.stack([to_host(terms.double().sum((1, 2))), to_host(whole - terms.double().sum((1, 2)))])
        sums.count += len(rows)
        ends = (before.logits[:, -1], start, after.logits[:, -1])
        for key, logits in zip(("base", "start", "end"), ends, strict=True):
            found[key][rows] = to_host(study.metric.log_odds(logits))
        found["neurons"][rows], found["biases"][rows] = told
    score, floor = sums.finish()
    rise, through = (found["end"] - found["base"]).mean(), (found["end"] - found["start"]).mean()
    return Scores(
        score,
        floor,
        "share of the change of the refusal log-odds from base to tuned, nats",
        tables={"paths": _paths(study, found)},
        summary={
            "log_odds_base": found["base"].mean(),
            "log_odds_tuned": found["end"].mean(),
            "log_odds_tuned_with_base_mlps": found["start"].mean(),
            "mlp_share": through / rise if abs(rise) > 1e-6 else None,
            "completeness_error": float(
                np.abs(found["neurons"] + found["biases"] - found["end"] + found["start"]).mean()
            ),
        },
    )


def _terms(
    layer: int,
    gradient: Float[Tensor, "B T D"],
    before: Values,
    after: Values,
    write: dict[str, list[Float[Tensor, "D N"]]],
    mask: Bool[Tensor, "B T 1"],
) -> tuple[Float[Tensor, "B T N"], Float[Tensor, "B T N"], Float[Tensor, " B"]]:
    """Each neuron's share, the size of what it is a difference of, and the block's whole change times the gradient."""
    gradient = gradient.float()
    now = after[neurons(layer)].float() * (gradient @ write["tuned"][layer])
    then = before[neurons(layer)].float() * (gradient @ write["base"][layer])
    terms = torch.where(mask, now - then, 0.0)
    change = (after[contribution(layer)] - before[contribution(layer)]).float()
    whole = torch.where(mask, gradient * change, 0.0).double().sum((1, 2))
    return terms, torch.where(mask, now.abs() + then.abs(), 0.0), whole


def _path(before: Values, after: Values, alpha: float) -> list[Replace]:
    sites = [site for site in after if site.hook == contribution(0).hook]
    return [Replace(site, torch.lerp(before[site], after[site], alpha)) for site in sites]


def _along(study: Study, batch: Batch, before: Values, after: Values, alpha: float) -> Float[Tensor, "B V"]:
    run = study.engine.run(study.pair.tuned, batch, edits=_path(before, after, alpha))
    return run.logits[:, -1]


def _gradients(study: Study, batch: Batch, before: Values, after: Values, steps: int | None) -> Values:
    """Mean gradient at every MLP output along the path; at the tuned model itself when ``steps`` is None."""
    sites: Sequence[Site] = [site for site in after if site.hook == contribution(0).hook]
    alphas = [None] if steps is None else [(step + 0.5) / steps for step in range(steps)]
    total: Values = {}
    for alpha in alphas:
        edits = [] if alpha is None else _path(before, after, alpha)
        run = study.engine.run(study.pair.tuned, batch, edits=edits, gradients_at=sites, gradient_of=_objective(study))
        for site in sites:
            share = run.gradients[site] / len(alphas)
            total[site] = total[site] + share if site in total else share
    return total


def _paths(study: Study, found: dict[str, np.ndarray]):
    ids = np.array([prompt.id for prompt in study.prompts("positive")])
    return table(
        "attribution-paths",
        {
            "prompt_id": (ids, "key", "position in the prompt file"),
            "log_odds_base": (found["base"], "measure", "refusal log-odds of the base", "nats"),
            "log_odds_start": (found["start"], "measure", "of the tuned model with the base's MLP outputs", "nats"),
            "log_odds_tuned": (found["end"], "measure", "of the tuned model", "nats"),
            "neurons": (found["neurons"], "measure", "sum of all neurons' attributions", "nats"),
            "biases": (found["biases"], "measure", "attribution of the down projections' biases", "nats"),
        },
    )
