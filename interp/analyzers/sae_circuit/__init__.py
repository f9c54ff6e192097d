"""``SaeCircuit``: which heads have codes that only the positive runs show?

O'Neill and Bui (2024, arXiv 2405.12522). One small autoencoder over the outputs of all heads turns
every head's output on a prompt into an integer, its strongest latent. A head scores by the number
of distinct codes on positive runs that no negative run has. Positive runs are the fine-tuned
model's and negative ones the base's on the same prompts, or both are one model's on two sets of
prompts. The null permutes the labels of whole clusters, with the codes kept; any fine-tuning moves
head outputs, so that the comparison of models also needs control fine-tunes.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from interp.analyzers.framework import Analyzer, Known, Needs, Result, option
from interp.analyzers.sae_circuit.compute import (
    HeadCodes,
    SaeOptions,
    Scores,
    head_codes,
    labellings,
    scored,
)
from interp.analyzers.sae_circuit.findings import claims_of, limits_of
from interp.analyzers.sae_circuit.tables import (
    controls_scores,
    edges_table,
    heads_table,
    permuted_table,
    trials_table,
)
from interp.errors import OptionError
from interp.experiments.cost import Work
from interp.experiments.head_outputs import REDUCTIONS, HeadOutputs, head_outputs
from interp.experiments.label_permutations import LabelPermutations
from interp.experiments.same_base import require_same_base
from interp.maths.statistics import roc_auc
from interp.models.model import Model
from interp.models.pair import Pair
from interp.models.pairs_on_demand import tuned_names
from interp.models.units import HEAD
from interp.prompts import Encoded
from interp.study import Study

COMPARISONS = ("auto", "models", "prompts")
SCALES = ("none", "rms")
PROMPT_TOKENS = 16


@dataclass(frozen=True)
class SaeCircuit(Analyzer):
    """Discrete codes of attention heads that only positive runs show.

    ``comparison``: ``models`` (the fine-tuned model's runs against the base's on all prompts),
    ``prompts`` (the fine-tuned model on positive prompts against negative ones), or ``auto``, which
    is ``prompts`` where there are two classes. ``heads``: (layer, head) of a circuit that is known.
    ``controls``: pairs of the same base and a control fine-tune each, scored by autoencoders of
    their own. Defaults of the autoencoder are the authors'. ``scale`` "rms" divides head outputs by
    their root mean square, which the authors do not. Without an active latent the code is one of
    its own, where the authors' argmax gives latent 0.

    Returns a table of kind ``sae-circuit``, one row per head, with ``trials``, ``permuted``,
    ``edges`` (the first pairs), and with controls ``controls``. Raises UnsupportedModel for a
    family whose heads cannot be read exactly.
    """

    name: ClassVar[str] = "sae-circuit"
    version: ClassVar[int] = 1
    needs: ClassVar[Needs] = Needs()

    controls: Sequence[Pair] = option(
        (), "Pairs of the same base and a control fine-tune each.", compare=False
    )
    comparison: str = option(
        "auto", "Positives against negatives: models, prompts or auto.", choices=COMPARISONS
    )
    heads: tuple[tuple[int, int], ...] = option((), "Heads of a known circuit.")
    reduce: str = option(
        "mean", "Head outputs of a prompt: mean over its tokens, or last.", choices=REDUCTIONS
    )
    width: int = option(200, "Latents of the autoencoder.", ge=2)
    sparsity: float = option(0.02, "Coefficient of the L1 of codes.", ge=0)
    learning_rate: float = option(1e-3, "Rate of Adam.", ge=0)
    epochs: int = option(500, "Steps of training, each on all training rows.", ge=1)
    training_examples: int = option(10, "Runs that an autoencoder is trained on.", ge=1)
    trials: int = option(10, "Autoencoders, each with examples of its own.", ge=1)
    scale: str = option(
        "none", "Head outputs: none, or rms, divided by their root mean square.", choices=SCALES
    )
    edges: bool = option(True, "Score pairs of heads too.")
    draws: int = option(200, "Permutations of the labels.", ge=1)

    def mode(self, classes: int) -> str:
        """``models`` or ``prompts``, for so many classes of prompts."""
        if self.comparison != "auto":
            return self.comparison
        return "prompts" if classes > 1 else "models"

    def check(self, known: Known) -> None:
        """Raise OptionError for options that cannot go together."""
        if self.controls and self.comparison == "prompts":
            raise OptionError(
                "controls are compared with the base, and --comparison prompts reads one model;"
                " leave one of them out"
            )
        if known.shape is None or not self.heads:
            return
        layers, count = known.shape
        for layer, head in self.heads:
            if not (0 <= layer < layers and 0 <= head < count):
                raise OptionError(
                    f"head {layer}.{head} does not exist: the model has {layers} blocks of {count}"
                    " heads, numbered from 0"
                )
        if len(set(self.heads)) == layers * count:
            raise OptionError("all heads of the model are in the known circuit; give some of them")

    def require(self, study: Study) -> None:
        """Raise OptionError, PairError or UnsupportedModel for a study that cannot be scored."""
        super().require(study)
        anatomy = study.pair.tuned.anatomy
        HEAD.require(anatomy)
        self.check(Known(None, (anatomy.n_layers, anatomy.n_heads)))
        if self.mode(len(study.classes)) == "prompts":
            study.require_contrast("--comparison prompts")
            if self.controls:
                raise OptionError(
                    "controls are compared with the base, and two classes of prompts are read by"
                    " one model; give --comparison models, or no --control"
                )
        else:
            HEAD.require(study.pair.require_base("--comparison models").anatomy)
            require_same_base(study, self.controls)

    def work(self, study: Study) -> Work:
        """One pass per side and control; autoencoders by multiplications, about as many as passes
        of prompts of 16 tokens.
        """
        anatomy = study.pair.tuned.anatomy
        prompts = sum(len(study.encoded(group)) for group in study.classes)
        models = 2 if self.mode(len(study.classes)) == "models" else 1
        rows = min(self.training_examples, models * prompts) * anatomy.n_layers * anatomy.n_heads
        steps = 6 * rows * anatomy.width * self.width * self.epochs * self.trials
        weights = 12 * anatomy.n_layers * anatomy.width**2
        sae = steps / (weights * PROMPT_TOKENS * prompts)
        return Work(passes=models + len(self.controls) + sae * (1 + len(self.controls)))

    def run(self, study: Study) -> Result:
        """Score the pair (or the two classes), then every control."""
        anatomy = study.pair.tuned.anatomy
        mode = self.mode(len(study.classes))
        sides = self._sides(study, mode)
        permutations = _permutations(study, mode)
        labels = labellings(permutations, self.draws, study.seed)
        circuit = None
        if self.heads:
            circuit = np.zeros(anatomy.n_layers * anatomy.n_heads, bool)
            circuit[[layer * anatomy.n_heads + head for layer, head in self.heads]] = True
        codes, scores = self._scores(study, sides, labels, circuit, mode)
        rows = heads_table(scores, circuit, anatomy.n_layers)
        tables = {
            "trials": trials_table(codes, scores),
            "permuted": permuted_table(scores),
            "edges": edges_table(scores, anatomy.n_heads),
        }
        if self.controls:
            names = tuned_names(self.controls)
            measured = []
            # indexed each time: a name for one control would keep it in memory beside the next
            for at in range(len(self.controls)):
                side = head_outputs(
                    study, self.controls[at].tuned, _all(study), self.reduce, f"control {at + 1}"
                )
                title = f"control {at + 1}"
                measured.append(self._scores(study, [side, sides[1]], labels, circuit, title)[1])
                del side
            tables["controls"] = controls_scores(names, measured)
        lengths = [sides[0].tokens, sides[1].tokens]
        summary = {
            "comparison": mode,
            "heads": int(rows["score"].size),
            "circuit": 0 if circuit is None else int(circuit.sum()),
            "auc_moderated": None if circuit is None else roc_auc(circuit, rows["moderated"]),
            "beyond": int((rows["p"] <= 0.05).sum()),
            "runs": [len(side.tokens) for side in sides],
            "arrangements": float(min(permutations.n_permutations, 10**300)),
            "silent": float(codes.silent.mean()),
            "explained": float(codes.explained.mean()),
            "mean_tokens": [float(each.mean()) for each in lengths],
            "length_auc": roc_auc(permutations.labels, np.concatenate(lengths)),
            "controls": tuned_names(self.controls),
        }
        first = int(np.argmin(rows["rank"]))
        place = f"{rows['layer'][first]}.{rows['head'][first]}"
        claims = claims_of(summary, place, len(self.controls), self.edges)
        return Result(rows, tables, claims, summary, limits_of(summary, self))

    def _sides(self, study: Study, mode: str) -> list[HeadOutputs]:
        pair = study.pair
        if mode == "prompts":
            return [
                head_outputs(study, pair.tuned, study.encoded(group), self.reduce, group)
                for group in study.classes
            ]
        models: dict[str, Model] = {"tuned": pair.tuned, "base": pair.require_base("this")}
        return [
            head_outputs(study, model, _all(study), self.reduce, role)
            for role, model in models.items()
        ]

    def _scores(
        self,
        study: Study,
        sides: Sequence[HeadOutputs],
        labels: np.ndarray,
        circuit: np.ndarray | None,
        title: str,
    ) -> tuple[HeadCodes, Scores]:
        options = SaeOptions(
            self.width,
            self.sparsity,
            self.learning_rate,
            self.epochs,
            self.training_examples,
            self.trials,
            self.scale,
        )
        codes = head_codes(study, sides, options, title)
        n_layers = sides[0].model.anatomy.n_layers
        return codes, scored(study, codes.codes, labels, circuit, n_layers, self.edges, title)


def _all(study: Study) -> list[Encoded]:
    return [coded for group in study.classes for coded in study.encoded(group)]


def _permutations(study: Study, mode: str) -> LabelPermutations:
    """Whether a run is positive, and what exchanges labels: both runs of a cluster's prompts, or
    clusters of prompts.
    """
    clusters = [prompt.cluster for group in study.classes for prompt in study.prompts(group)]
    if mode == "models":
        labels = [True] * len(clusters) + [False] * len(clusters)
        clusters = clusters * 2
    else:
        labels = [group == "positive" for group in study.classes for _ in study.prompts(group)]
    return LabelPermutations.from_clusters(labels, clusters, np.zeros(len(labels)))


__all__: Sequence[str] = ("SaeCircuit",)
