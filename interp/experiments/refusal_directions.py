"""One direction of the residual stream that tells the classes apart, and how a share of it is taken
away.

The difference of mean streams between the classes is taken away wherever a block reads or writes
the stream (Arditi et al. 2024, arXiv 2406.11717). Candidates are the tuned model's streams before
every block of the first 80 % and at every token of the template after the prompt; the one chosen
lowers the metric most among those with KL at most 0.1 on negative prompts that bring it to 0 or
above when added to them. A share is taken once, where something is written: what the stream holds
of the direction is then less by that share at every depth.
"""

from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from interp.capture import capture, make_batch
from interp.errors import OptionError
from interp.experiments.divergence import divergence
from interp.interventions.edits import Add, Project
from interp.interventions.intervention import Intervention
from interp.maths.host import to_host
from interp.models.model import Model
from interp.prompts import DECISION
from interp.sites import Site
from interp.study import Study
from interp.table import Table, table

KL, DEPTH = 0.1, 0.8
NAN = float("nan")


@dataclass
class Candidate:
    """A direction, where it was read (block; columns from the end), and what ablating and adding it
    does.

    ``kl`` is NaN where it was not read: adding the direction does too little, or a better candidate
    met the criteria.
    """

    layer: int
    position: int
    direction: Float[Tensor, " D"]
    size: float
    number: float = NAN
    kl: float = NAN
    added: float = NAN

    @property
    def met(self) -> bool:
        """Whether it may be chosen."""
        return bool(self.kl <= KL and self.added >= 0 and np.isfinite(self.number))


def candidates_of(study: Study) -> list[Candidate]:
    """Differences of mean streams before each block, at each template token after the prompt."""
    model = study.pair.tuned
    layers = range(max(1, int(DEPTH * model.anatomy.n_layers)))
    sites = [Site(layer, "hook_resid_pre") for layer in layers]
    width = min(
        _tail(coded.roles) for group in ("positive", "negative") for coded in study.encoded(group)
    )
    means = {}
    for group in ("positive", "negative"):
        total = torch.zeros(
            len(sites), width, model.anatomy.width, dtype=torch.float64, device=model.device
        )
        rows = study.groups(group, model, 4 * len(sites) * model.anatomy.width)
        for seen in capture(
            study.engine, {"tuned": model}, study.encoded(group), rows, sites, pad_id=study.pad_id
        ):
            for layer, site in enumerate(sites):
                total[layer] += seen.values["tuned", site][:, -width:].double().sum(0)
        means[group] = total / len(study.prompts(group))
    found = []
    for layer in layers:
        for column in range(width):
            difference = means["positive"][layer, column] - means["negative"][layer, column]
            size = float(to_host(difference.norm()))
            if size:
                found.append(Candidate(layer, column - width, difference / size, size))
    return found


def _tail(roles: tuple[int, ...]) -> int:
    """How many tokens at the end are of the template after the prompt (at least the last)."""
    count = 0
    for role in reversed(roles):
        if role != DECISION:
            break
        count += 1
    return max(count, 1)


def taken_away(model: Model, direction: Float[Tensor, " D"], share: float = 1.0) -> Intervention:
    """Take a share of the direction out of the embedding and of all that blocks write."""
    # not of what every block reads too: a share of it would be taken again and again
    layers, hooks = range(model.anatomy.n_layers), ("hook_attn_out", "hook_mlp_out")
    sites = [Site(0, "hook_resid_pre"), *(Site(layer, hook) for layer in layers for hook in hooks)]
    return Intervention(
        f"direction {share:g}",
        {},
        "edits",
        fixed=[Project(site, direction, share) for site in sites],
    )


def choose(study: Study, candidates: list[Candidate], kept_by: Study | None = None) -> Candidate:
    """The candidate that lowers the metric most among those that meet the criteria, else among all.

    Each is a part of the run of the study ``kept_by``, by default ``study``: a run that is stopped
    goes on from there.
    """
    part = (kept_by or study).part
    if not candidates:
        raise OptionError(
            "the classes have the same mean stream everywhere: there is no direction between them"
        )
    for candidate in study.progress(candidates, "candidate directions"):
        made = part(
            f"direction {candidate.layer} {candidate.position}", partial(_judged, study, candidate)
        )
        candidate.number, candidate.added = made
    order = sorted(
        candidates, key=lambda candidate: (candidate.number, candidate.layer, candidate.position)
    )
    # the divergence takes whole answers: it is read in this order, and of none after the first that
    # may be chosen
    for candidate in (one for one in order if one.added >= 0 and np.isfinite(one.number)):
        name = f"direction {candidate.layer} {candidate.position} kl"
        candidate.kl = part(name, partial(_divergence, study, candidate))
        if candidate.met:
            return candidate
    return order[0]


def _judged(study: Study, candidate: Candidate) -> list[float]:
    """The metric on positive prompts without the direction, and on negative ones with it added."""
    ablation = taken_away(study.pair.tuned, candidate.direction)
    site = Site(candidate.layer, "hook_resid_pre")
    added = Intervention(
        "added", {}, "edits", fixed=[Add(site, candidate.size * candidate.direction)]
    )
    return [
        float(_numbers(study, *asked).mean())
        for asked in (("positive", ablation), ("negative", added))
    ]


def _divergence(study: Study, candidate: Candidate) -> float:
    """Mean KL per token on negative prompts without the direction."""
    ablation = taken_away(study.pair.tuned, candidate.direction)
    return float(divergence(study, ablation, range(len(study.prompts("negative")))).mean())


def _numbers(study: Study, group: str, intervention: Intervention) -> np.ndarray:
    """The metric's number of every prompt of a class in the tuned model under fixed edits."""
    model, posed = study.pair.tuned, study.decision_inputs(group)
    found = np.zeros(len(posed))
    for rows in study.batches(posed, model):
        batch, _ = make_batch(posed, rows, study.pad_id, model.device)
        aim = study.objective(group, rows)
        run = study.engine.run(model, batch, edits=intervention.bind({}), keep=aim.keep)
        found[rows] = to_host(aim.of(run.require_logits()))
    return found


def candidates_table(candidates: list[Candidate]) -> Table:
    """One row per candidate: where it was read, and the numbers that it is chosen by."""
    found = {
        "layer": ("key", "block before which the stream was read"),
        "position": ("key", "token, counted from the end: -1 is the last"),
        "size": ("measure", "length of the difference of means"),
        "number": ("measure", "mean metric on positive prompts with the direction ablated"),
        "kl": (
            "measure",
            "mean KL per token on negative prompts with it ablated, nats; NaN where not needed",
        ),
        "added": ("measure", "mean metric on negative prompts with it added"),
        "met": ("flag", "found to be within the criteria"),
    }
    return table(
        "refusal-direction-candidates",
        {
            name: (np.array([getattr(c, name) for c in candidates]), *described)
            for name, described in found.items()
        },
    )
