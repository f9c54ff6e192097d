"""Conditions under which a model answers: unedited, neurons ablated in four ways, or patched into
the base.

ablate-zero   activations of the located neurons set to zero
ablate-mean   set to their mean over the tokens of negative prompts
ablate-twin   contributions replaced by those on the prompt's twin of the other class, followed by
              the same answer
ablate-base   contributions replaced by those of the base on the same text
patch-tuned   in the base, contributions replaced by those of the tuned model (sufficiency)

A contribution is h W, activation times output weights. The last three take both factors from the
donor, or with ``patch`` "activation" only h (activation patching, Chen et al. 2024, arXiv
2406.14144).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from jaxtyping import Float
from torch import Tensor

from interp.capture import capture
from interp.errors import required
from interp.experiments.base_losses import base_losses
from interp.experiments.unedited_metric import store_metric, unedited_values
from interp.interventions.intervention import Intervention, Kind
from interp.interventions.teacher_forcing import answer_logits
from interp.maths.host import to_host
from interp.maths.moments import Moments
from interp.metrics import is_malformed, repetition_rate
from interp.models.units import NEURON, Unit
from interp.study import GROUPS, Study

NEEDS_BASE = ("ablate-base", "patch-tuned")
# By direction the model that runs (receiver) and the one it is patched from (donor).
RECEIVERS = {"necessity": ("tuned", "base"), "sufficiency": ("base", "tuned")}
# The condition of each direction.
DIRECTIONS = {"necessity": "ablate-base", "sufficiency": "patch-tuned"}
PATCHES: dict[str, Kind] = {"contribution": "donor", "activation": "activation"}
# By origin of activation h and output weights W: contribution patching, activation patching,
# weights only, no patch.
CELLS: dict[tuple[str, str], Kind | None] = {
    ("donor", "donor"): "donor",
    ("donor", "receiver"): "activation",
    ("receiver", "donor"): "weights",
    ("receiver", "receiver"): None,
}
FURTHER_ABLATIONS = ("zero", "mean", "twin")
ABLATIONS = ("ablate-zero", "ablate-mean", "ablate-twin", "ablate-base", "patch-tuned")


@dataclass(frozen=True)
class PatchTarget:
    """The model that answers, and the intervention on it, None for the unedited model."""

    role: str
    intervention: Intervention | None = None

    def require_intervention(self) -> Intervention:
        """The intervention, or OptionError for an unedited model."""
        return required(self.intervention, "an intervention")


class ConditionAnswers(NamedTuple):
    """Answers to the prompts of a class, and the metric's value where each begins."""

    answers: list[list[int]]
    number: np.ndarray


@dataclass
class PatchSource:
    """Where patches take values from: output weights of both models, read once, and activations.

    ``patch``: ``contribution`` (activation and weights of the donor) or ``activation``.
    """

    study: Study
    write: dict[str, dict[int, Float[Tensor, "D N"]]]
    unit: Unit = NEURON
    patch: str = "contribution"

    @classmethod
    def from_study(
        cls, study: Study, unit: Unit = NEURON, patch: str = "contribution"
    ) -> "PatchSource":
        """Read the output matrices of both models."""
        layers = range(study.pair.tuned.anatomy.n_layers)
        roles = ["tuned"] if study.pair.base is None else ["base", "tuned"]
        write = {
            role: {layer: unit.write_weights(study.pair[role], layer) for layer in layers}
            for role in roles
        }
        return cls(study, write, unit, patch)

    @property
    def means(self) -> dict[int, Float[Tensor, " N"]]:
        """Mean activations over the tokens of negative prompts in the tuned model, by layer;
        computed on first use.
        """
        return self.study.cached(("means", self.unit.name), self._means)

    def _means(self) -> dict[int, Float[Tensor, " N"]]:
        study, unit, model = self.study, self.unit, self.study.pair.tuned
        layers = range(model.anatomy.n_layers)
        sites, width = [unit.site(layer) for layer in layers], unit.n_channels(model.anatomy)
        moments = [Moments.empty((width,), model.device) for _ in layers]
        rows = study.progress(
            study.groups("negative", model, 8 * model.anatomy.n_layers * width), "means, negative"
        )
        for captured in capture(
            study.engine,
            {"tuned": model},
            study.encoded("negative"),
            rows,
            sites,
            pad_id=study.pad_id,
        ):
            for layer, site in enumerate(sites):
                moments[layer].update(captured.values["tuned", site][captured.roles >= 0])
        return {layer: moments[layer].mean.float() for layer in layers}

    def condition(self, name: str, units: Sequence[tuple[int, int]]) -> PatchTarget:
        """Receiver and intervention of a condition by name, for some (layer, unit) pairs."""
        if name in ("base", "tuned"):
            return PatchTarget(name)
        pair = self.study.pair
        index = self.unit.channels(pair.tuned.anatomy, units, pair.tuned.device)
        if name == "ablate-zero":
            return PatchTarget("tuned", Intervention(name, index, unit=self.unit))
        if name == "ablate-mean":
            return PatchTarget(
                "tuned", Intervention(name, index, "mean", means=self.means, unit=self.unit)
            )
        if name == "ablate-twin":
            return PatchTarget("tuned", self._from_donor(name, index, "tuned", twin=True))
        if name == "ablate-base":
            return PatchTarget("tuned", self._from_donor(name, index, "base"))
        return PatchTarget("base", self._from_donor(name, index, "tuned"))

    def cell(
        self,
        direction: str,
        units: Sequence[tuple[int, int]],
        activation_from: str,
        weights_from: str,
    ) -> PatchTarget:
        """One cell of the 2 x 2 design: activation h and output weights W, each from ``donor`` or
        ``receiver``.
        """
        receiver, donor = RECEIVERS[direction]
        kind = CELLS[activation_from, weights_from]
        if kind is None:
            return PatchTarget(receiver)
        index = self.unit.channels(
            self.study.pair.tuned.anatomy, units, self.study.pair.tuned.device
        )
        return PatchTarget(
            receiver, self._from_donor(f"{direction}, {kind}", index, donor, kind=kind)
        )

    def _from_donor(
        self,
        name: str,
        index: dict[int, Tensor],
        donor: str,
        twin: bool = False,
        kind: Kind | None = None,
    ) -> Intervention:
        kind = kind or PATCHES[self.patch]
        model = None if kind == "weights" else self.study.pair[donor]
        return Intervention(
            name,
            index,
            kind,
            donor=model,
            twin=twin,
            write_weights=self.write[donor],
            unit=self.unit,
        )


@dataclass(frozen=True)
class ConditionResult:
    """One condition and class, per prompt: arrays of equal length in prompt order.

    ``exhibits``: whether the answer shows the behaviour (it refuses, it is right). ``number``: the
    metric's value, NaN where it has none. ``chance``: how often the answer would show the behaviour
    if answers were shuffled over prompts, where that applies. ``tokens``: length of the answer.
    ``repeats``: share of its 4-grams that occurred before in it. ``base_loss``: negative
    log-likelihood of its tokens in the base, nats per token, NaN without a base. ``divergence``: KL
    divergence of the fine-tuned model's next-token distributions from those under the condition,
    nats per token of its own answer, NaN where not measured. ``texts``: the answers.
    """

    condition: str
    group: str
    exhibits: np.ndarray
    matches_base: np.ndarray
    matches_tuned: np.ndarray
    malformed: np.ndarray
    number: np.ndarray
    tokens: np.ndarray
    repeats: np.ndarray
    base_loss: np.ndarray
    divergence: np.ndarray
    chance: np.ndarray | None = None
    texts: Sequence[str] = ()

    def flipped(self, reference: "ConditionResult") -> np.ndarray:
        """Prompts whose answer shows the behaviour under exactly one of the two conditions."""
        return reference.exhibits != self.exhibits

    def harmed(
        self, tuned: "ConditionResult", base: "ConditionResult | None", behaviour_applies: bool
    ) -> np.ndarray:
        """Prompts whose behaviour is neither the tuned model's nor the base's.

        A flip to the base's behaviour only undoes tuning and is not counted. Without
        ``behaviour_applies`` (the behaviour does not apply to these prompts): those whose answer is
        not the tuned model's.
        """
        if not behaviour_applies:
            return ~self.matches_tuned
        return self.flipped(tuned) if base is None else self.flipped(tuned) & self.flipped(base)

    def lost(self, reference: "ConditionResult") -> np.ndarray:
        """Prompts that showed the behaviour before and now, in a well-formed answer, do not."""
        return reference.exhibits & ~self.exhibits & ~self.malformed


def answer_unedited(study: Study, role: str) -> None:
    """Generate an unedited model's answers to all classes together, and keep the metric's values
    where they begin.
    """
    _answer_classes(study, study.classes, PatchTarget(role))


def evaluate_condition_by_class(
    study: Study,
    name: str,
    receiver: PatchTarget,
    divergence: Mapping[str, Float[np.ndarray, " B"]],
) -> list[ConditionResult]:
    """``evaluate_condition`` for all classes, generated together; ``divergence``: by class."""
    known_answers = _answer_classes(study, study.classes, receiver)
    return [
        evaluate_condition(
            study, name, group, receiver, divergence.get(group), known_answers[group]
        )
        for group in study.classes
    ]


def evaluate_condition(
    study: Study,
    name: str,
    group: str,
    receiver: PatchTarget,
    divergence: Float[np.ndarray, " B"] | None = None,
    known_answers: ConditionAnswers | None = None,
) -> ConditionResult:
    """Answer every prompt of a class under a condition and compare with both models' own answers,
    token by token.

    ``divergence``: as ``interp.experiments.divergence`` measures it, None for none.
    ``known_answers``: the answers, where they are known already.
    """
    own_answers = {
        role: study.answers(role, group)
        for role in ("base", "tuned")
        if role == "tuned" or study.pair.base
    }
    reference_answers = own_answers.get("base", own_answers["tuned"])
    answers, number = known_answers or _answer_classes(study, [group], receiver)[group]
    prompts, texts = study.prompts(group).prompts, [study.decode(answer) for answer in answers]
    stops = study.stop_ids
    return ConditionResult(
        name,
        group,
        study.require_metric().exhibits(prompts, texts, group),
        np.array(
            [
                answer == other
                for answer, other in zip(answers, own_answers.get("base", answers), strict=True)
            ]
        )
        & (study.pair.base is not None),
        np.array(
            [answer == other for answer, other in zip(answers, own_answers["tuned"], strict=True)]
        ),
        np.array(
            [
                is_malformed(answer, stops, bool(other) and other[-1] in stops)
                for answer, other in zip(answers, reference_answers, strict=True)
            ]
        ),
        number,
        np.array([len(answer) for answer in answers]),
        np.array([repetition_rate(answer) for answer in answers]),
        base_losses(study, group, answers),
        np.full(len(answers), np.nan) if divergence is None else divergence,
        study.require_metric().shuffled_baseline(prompts, texts) if group == "positive" else None,
        texts,
    )


def _answer_classes(
    study: Study, groups: Sequence[str], receiver: PatchTarget
) -> dict[str, ConditionAnswers]:
    """Answers to every prompt of some classes, and the metric's values where they begin (NaN for
    none).
    """
    values = {group: np.full(len(study.encoded(group)), np.nan) for group in groups}
    applicable = [group for group in groups if study.require_metric().applies(group)]
    at_start = [group for group in applicable if metric_is_at_answer_start(study, group)]

    def record(items: Sequence[tuple[str, int]], logits: Float[Tensor, "B V"]) -> None:
        for group in at_start:
            at = [place for place, (name, _) in enumerate(items) if name == group]
            rows = [items[place][1] for place in at]
            if rows:
                values[group][rows] = to_host(
                    study.objective(group, rows).function(logits[at][:, None])
                )
                if receiver.intervention is None:
                    store_metric(study, receiver.role, group, rows, values[group][rows])

    answers = study.answers_to(
        groups, receiver.role, receiver.intervention, record if at_start else None
    )
    for group in applicable:
        if receiver.intervention is None:
            values[group] = unedited_values(study, receiver.role, group, range(len(values[group])))
        elif group not in at_start:
            _read_metric(study, group, receiver, values[group])
    return {group: ConditionAnswers(answers[group], values[group]) for group in groups}


def metric_is_at_answer_start(study: Study, group: str) -> bool:
    """Whether the metric needs only the logits at the last prompt token, for all prompts of a
    class.
    """
    inputs, prompts = study.decision_inputs(group), study.encoded(group)
    same = all(
        [each.ids for each in inputs[row].texts] == [prompts[row].ids]
        for row in range(len(prompts))
    )
    return same and (not prompts or study.objective(group, [0]).keep == 1)


def _read_metric(study: Study, group: str, receiver: PatchTarget, values: np.ndarray) -> None:
    """The metric's value of every prompt, from a pass over the texts that it reads."""
    model, inputs, prompts = (
        study.pair[receiver.role],
        study.decision_inputs(group),
        study.encoded(group),
    )
    for rows in study.groups(group, model):
        objective, texts = (
            study.objective(group, rows),
            [(row, each.ids) for row in rows for each in inputs[row].texts],
        )
        # the last token is predicted, not read: any id will do
        suffixes = [[*ids[len(prompts[row].ids) :], study.pad_id] for row, ids in texts]
        text = study.text(group, [row for row, _ in texts])
        logits, _, _ = answer_logits(study.engine, model, text, suffixes, receiver.intervention)
        values[rows] = to_host(objective.function(logits[:, -objective.keep :]))


__all__ = [
    "ABLATIONS",
    "CELLS",
    "DIRECTIONS",
    "FURTHER_ABLATIONS",
    "GROUPS",
    "NEEDS_BASE",
    "PATCHES",
    "RECEIVERS",
    "ConditionResult",
    "PatchSource",
    "PatchTarget",
    "answer_unedited",
    "evaluate_condition",
    "evaluate_condition_by_class",
    "metric_is_at_answer_start",
]
