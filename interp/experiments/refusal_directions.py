"""A direction of the residual stream that separates the classes, and its ablation (Arditi et al.
2024, arXiv 2406.11717).

Candidates are differences of the classes' mean streams in the tuned model, before every block of
the first 80 % and at every template token after the prompt. The one chosen lowers the metric most
among those whose ablation has KL at most 0.1 on negative prompts and whose addition to negative
prompts brings the metric to 0 or above. A share of the direction is removed from the embedding and
from every block's output, once each, so that the stream has less of it by that share at every
depth.
"""

from dataclasses import dataclass
from functools import partial
from itertools import product, takewhile

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from interp.capture import capture, make_batch
from interp.errors import OptionError
from interp.experiments.divergence import divergence
from interp.experiments.records import records_table
from interp.interventions.edits import Add, Project
from interp.interventions.intervention import Intervention
from interp.maths.host import to_host
from interp.models.model import Model
from interp.prompts import DECISION
from interp.rows import LayerRow, columns_of, flag, key, measure
from interp.sites import Site
from interp.study import Study
from interp.table import Table

KL, DEPTH = 0.1, 0.8
NAN = float("nan")


class CandidateRow(LayerRow):
    """A row per candidate."""

    layer: int = key("block before which the stream was read, from 0")
    position: int = key("token, counted from the end: -1 is the last")
    size: float = measure("length of the difference of means")
    number: float = measure("mean metric on positive prompts with the direction ablated")
    kl: float = measure(
        "mean KL per token on negative prompts with it ablated; NaN where not measured", "nats"
    )
    added: float = measure("mean metric on negative prompts with it added")
    criteria_met: bool = flag("meets the criteria")


@dataclass
class Candidate:
    """A direction, the block and position at which it was read, and the effects of ablating and
    adding it.

    ``kl`` is NaN where it was not measured: adding the direction has too little effect, or a better
    candidate meets the criteria.
    """

    layer: int
    position: int
    direction: Float[Tensor, " D"]
    size: float
    number: float = NAN
    kl: float = NAN
    added: float = NAN

    @property
    def criteria_met(self) -> bool:
        """Whether it meets the criteria and may be chosen."""
        return bool(self.kl <= KL and self.added >= 0 and np.isfinite(self.number))


def candidate_directions(study: Study) -> list[Candidate]:
    """Differences of the classes' mean streams before each block, at each template token after the
    prompt.
    """
    model = study.pair.tuned
    layers = range(max(1, int(DEPTH * model.anatomy.n_layers)))
    sites = [Site(layer, "hook_resid_pre") for layer in layers]
    width = min(
        _n_template_tokens(coded.roles)
        for group in ("positive", "negative")
        for coded in study.encoded(group)
    )
    means = {}
    for group in ("positive", "negative"):
        total = torch.zeros(
            len(sites), width, model.anatomy.width, dtype=torch.float64, device=model.device
        )
        rows = study.groups(group, model, 4 * len(sites) * model.anatomy.width)
        for captured in capture(
            study.engine, {"tuned": model}, study.encoded(group), rows, sites, pad_id=study.pad_id
        ):
            for layer, site in enumerate(sites):
                total[layer] += captured.values["tuned", site][:, -width:].double().sum(0)
        means[group] = total / len(study.prompts(group))
    candidates = []
    for layer, column in product(layers, range(width)):
        difference = means["positive"][layer, column] - means["negative"][layer, column]
        if size := float(to_host(difference.norm())):
            candidates.append(Candidate(layer, column - width, difference / size, size))
    return candidates


def _n_template_tokens(roles: tuple[int, ...]) -> int:
    """Number of template tokens after the prompt (at least 1, the last token)."""
    trailing = takewhile(lambda role: role == DECISION, reversed(roles))
    return max(sum(1 for _ in trailing), 1)


def direction_ablation(
    model: Model, direction: Float[Tensor, " D"], share: float = 1.0
) -> Intervention:
    """Remove a share of the direction from the embedding and from every block's output."""
    # not from every block's input too: the share would be removed repeatedly
    layers, hooks = range(model.anatomy.n_layers), ("hook_attn_out", "hook_mlp_out")
    sites = [Site(0, "hook_resid_pre"), *(Site(layer, hook) for layer in layers for hook in hooks)]
    return Intervention(
        f"direction {share:g}",
        {},
        "edits",
        edits=[Project(site, direction, share) for site in sites],
    )


def choose_direction(
    study: Study, candidates: list[Candidate], journal_study: Study | None = None
) -> Candidate:
    """The candidate that lowers the metric most among those that meet the criteria, else among all.

    Results are kept in the journal of ``journal_study``, by default of ``study``, so that an
    interrupted run can be resumed.
    """
    resumable_part = (journal_study or study).part
    if not candidates:
        raise OptionError(
            "both classes have the same mean residual stream everywhere: there is no direction"
            " between them; give other prompts"
        )
    for candidate in study.progress(candidates, "candidate directions"):
        candidate.number, candidate.added = resumable_part(
            f"direction {candidate.layer} {candidate.position}",
            partial(_measure_candidate, study, candidate),
        )
    order = sorted(
        candidates, key=lambda candidate: (candidate.number, candidate.layer, candidate.position)
    )
    # the divergence needs whole answers: it is measured in this order, up to the first candidate
    # that meets the criteria
    eligible = (item for item in order if item.added >= 0 and np.isfinite(item.number))
    for candidate in eligible:
        name = f"direction {candidate.layer} {candidate.position} kl"
        candidate.kl = resumable_part(name, partial(_divergence, study, candidate))
        if candidate.criteria_met:
            return candidate
    return order[0]


def _measure_candidate(study: Study, candidate: Candidate) -> list[float]:
    """Mean metric on positive prompts with the direction ablated, and on negative ones with it
    added.
    """
    ablation = direction_ablation(study.pair.tuned, candidate.direction)
    site = Site(candidate.layer, "hook_resid_pre")
    added = Intervention(
        "added", {}, "edits", edits=[Add(site, candidate.size * candidate.direction)]
    )
    return [
        float(_metric_values(study, *condition).mean())
        for condition in (("positive", ablation), ("negative", added))
    ]


def _divergence(study: Study, candidate: Candidate) -> float:
    """Mean KL per token on negative prompts with the direction ablated."""
    ablation = direction_ablation(study.pair.tuned, candidate.direction)
    return float(divergence(study, ablation, range(len(study.prompts("negative")))).mean())


def _metric_values(study: Study, group: str, intervention: Intervention) -> np.ndarray:
    """The metric of every prompt of a class in the tuned model under fixed edits."""
    model, inputs = study.pair.tuned, study.decision_inputs(group)
    values = np.zeros(len(inputs))
    for rows in study.batches(inputs, model):
        batch, _ = make_batch(inputs, rows, study.pad_id, model.device)
        objective = study.objective(group, rows)
        run = study.engine.run(model, batch, edits=intervention.bind({}), keep=objective.keep)
        values[rows] = to_host(objective.function(run.require_logits()))
    return values


def candidates_table(candidates: list[Candidate]) -> Table:
    """One row per candidate: where it was read, and the values by which it is chosen."""
    columns = columns_of(CandidateRow)
    return records_table(
        CandidateRow,
        "refusal-direction-candidates",
        [{name: getattr(candidate, name) for name in columns} for candidate in candidates],
    )
