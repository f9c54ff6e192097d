"""``Tuco``: the tuning contribution, the share of the blocks' outputs due to fine-tuning (arXiv
2506.23423).

1. The fine-tuned model reads a prompt; its residual stream is kept for that batch.
2. The base's blocks read that stream: ``PTC`` is what they would have added, ``FTC`` what the
   fine-tuned blocks add minus that.
3. Both are summed over blocks as vectors, at the last token of the prompt; TuCo is ``|FTC| / (|PTC|
   + |FTC|)`` of the sums, with L1 norms. The embedding and whatever is outside the blocks are in
   neither.
4. ``beta`` is the largest such share after any block, over all tokens as one vector.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np

from interp.analyzers.base import Analyzer
from interp.analyzers.tuco.classes_by_answer import split_by_answer
from interp.analyzers.tuco.compute import GroupContributions, measure_group, rounding_floor
from interp.analyzers.tuco.findings import claims_of, control_columns, permuted_aucs, prompt_columns
from interp.analyzers.tuco.label_permutations import LabelPermutations
from interp.claims import conclude
from interp.claims.control_fine_tunes import controls_table
from interp.errors import OptionError, UnsupportedModel
from interp.experiments.cost import Work
from interp.experiments.same_base import require_same_base
from interp.experiments.tuning_decomposition import require_local_engine, required_hooks
from interp.models.pair import Pair
from interp.models.pairs_on_demand import tuned_names
from interp.models.unexamined_changes import unexamined_change_notes
from interp.study import Study
from interp.table import Table, table

ORDERS = (1, 2)


@dataclass(frozen=True)
class Tuco(Analyzer):
    """TuCo of every prompt, ``pre_co`` (one minus it), ``output_co`` and ``beta``; needs a base.

    ``granularity``: ``block`` is the paper's; ``sublayer`` runs the base's MLP on the stream after
    the fine-tuned attention, with the same total in another split. ``positions`` of TuCo: the
    ``last`` token, as in the paper, or ``all`` tokens as one vector. ``beta`` is always over all
    tokens, as in the paper, and ``beta_last`` at the last one. ``path``: ``full``, or ``fast``,
    which computes the base's output projections and MLPs for the last token only and so has no
    ``beta``. ``order`` of the norm is 1 or 2; dimensions in ``drop`` are excluded from it.
    ``output`` false omits ``output_co`` and with it a pass of the base on its own stream. With two
    classes, the AUC of positive above negative prompts, over all pairs and over those whose lengths
    differ by at most ``caliper`` tokens, with ``permutations`` of the labels of whole clusters.

    ``by_answer`` splits one class in two: positive prompts are those to which the fine-tuned
    model's greedy answer shows the behaviour; ``keep_text`` keeps these answers. ``controls``:
    pairs of the same base and a control fine-tune each, to compare with; with several, prompts are
    compared with their mean.

    Returns a table of kind ``tuco``, one row per prompt, with ``layers`` (sizes and betas after
    every block), ``floor`` (the fine-tuned model against itself with other padding), for ``all``
    positions ``tokens``, and with ``by_answer`` ``answers`` (whether the behaviour occurs, by
    prompt).
    """

    name: ClassVar[str] = "tuco"
    version: ClassVar[int] = 7

    granularity: str = "block"
    positions: str = "last"
    path: str = "full"
    order: int = 1
    drop: tuple[int, ...] = ()
    output: bool = True
    caliper: int = 1
    permutations: int = 200
    floor_prompts: int = 8
    map_prompts: int = 8
    by_answer: bool = False
    keep_text: bool = False
    controls: Sequence[Pair] = field(default=(), compare=False)

    def check(self) -> None:
        """Raise OptionError for invalid options, before any model is loaded."""
        allowed = {
            "granularity": ("block", "sublayer"),
            "positions": ("last", "all"),
            "path": ("full", "fast"),
            "order": ORDERS,
        }
        for name, values in allowed.items():
            if (value := getattr(self, name)) not in values:
                raise OptionError(f"unknown {name} {value!r}; use {', '.join(map(str, values))}")
        if self.positions == "all" and self.path == "fast":
            raise OptionError(
                "the fast path reads the last token only; use path full for all positions"
            )
        if any(dimension < 0 for dimension in self.drop):
            raise OptionError(
                f"cannot drop dimension {min(self.drop)}; dimensions are counted from 0"
            )

    def require(self, study: Study) -> None:
        """Raise OptionError, PairError or UnsupportedModel for a study that TuCo cannot be measured
        on.
        """
        self.check()
        study.pair.require_base("TuCo")
        require_local_engine(study.engine)
        if self.by_answer:
            study.require_metric("splitting prompts by answer")
            if len(study.classes) > 1:
                raise OptionError(
                    "--by-answer splits one class of prompts, and the study has two; give one"
                )
        require_same_base(study, self.controls)
        anatomy = study.pair.tuned.anatomy
        if missing := [hook for hook in required_hooks() if hook not in anatomy.targets]:
            raise UnsupportedModel(
                f"{anatomy.architecture} has no exact counterpart of {missing[0]}"
            )
        if self.drop and max(self.drop) >= anatomy.width:
            raise OptionError(
                f"cannot drop dimension {max(self.drop)}: the stream has {anatomy.width}"
            )

    def work(self, study: Study) -> Work:
        """Passes of the fine-tuned model, the base's blocks on its stream and the base on its own;
        the same for every control.
        """
        # every pass reads every token
        pairs = 1 + len(self.controls)
        return Work(
            full_logits=(2.5 if self.output else 1.7) * pairs,
            tokens=study.max_new_tokens * self.by_answer,
        )

    def __call__(self, study: Study) -> Table:
        """Decompose the fine-tuned model's stream of every prompt."""
        self.require(study)
        study.require_parts()
        notes, original_study, names, answer_split = (
            list(unexamined_change_notes(study.pair)),
            study,
            ("positive", "negative"),
            None,
        )
        if self.by_answer:
            answer_split = split_by_answer(study, self.keep_text)
            study, names = answer_split.study, answer_split.names
        if len(study.classes) == 2 and not self.controls:
            notes.append(
                "An AUC above one half shows that the classes differ; without a control fine-tune"
                " it cannot be attributed to this fine-tuning."
            )
        results = [measure_group(study, self, group) for group in study.classes]
        controls = [
            [measure_group(study, self, group, self.controls[at]) for group in study.classes]
            for at in range(len(self.controls))
        ]
        floor = rounding_floor(study, self)
        tables, permutations = {"layers": _layers(results), "floor": floor}, None
        tuco = np.concatenate([part.tuco for part in results])
        if self.positions == "all":
            tables["tokens"] = _tokens(results)
        columns = prompt_columns(self, results, controls, names)
        if len(results) == 2:
            labels = [group == "positive" for group in columns["group"][0]]
            permutations = LabelPermutations.from_clusters(
                labels, columns["cluster"][0], columns["tokens"][0]
            )
            tables["permuted"] = permuted_aucs(permutations, self, tuco, study.seed)
        if controls:
            tables["controls"] = controls_table(
                tuned_names(self.controls), control_columns(self, controls, columns)
            )
        if answer_split is not None:
            tables["answers"] = answer_split.answers
        floor_share = float(np.max(floor["tuco"]))
        run = table(
            self.name,
            columns,
            provenance=original_study.provenance(self),
            summary={
                "controls": tuned_names(self.controls),
                "tuco": float(tuco.mean()),
                "output_co": float(np.concatenate([part.output_co for part in results]).mean()),
                "noise_floor": floor_share,
                "largest_error": max(float(part.errors.max()) for part in results),
                "path": self.path,
                "limits": notes,
                **{group: len(study.prompts(group)) for group in study.classes},
            },
            tables=tables,
        )
        claims = claims_of(self, floor_share, len(tuco), names, len(controls), permutations)
        if answer_split is None:
            return conclude(run, claims)
        # with one class the AUC of --by-answer is undefined
        undecided = {} if len(results) == 2 else {"supported": False}
        return conclude(run, claims, lead=answer_split.sentence, **undecided)


def _layers(results: list[GroupContributions]) -> Table:
    """One row per prompt and block."""
    shape = [part.betas_last.shape for part in results]
    places = [np.indices(size) for size in shape]
    ids = [
        np.array([p.id for p in part.prompts])[place[0]].ravel()
        for part, place in zip(results, places, strict=True)
    ]
    groups = [
        part.group
        for part, size in zip(results, shape, strict=True)
        for _ in range(size[0] * size[1])
    ]

    def joined(name: str) -> np.ndarray:
        return np.concatenate([getattr(part, name).ravel() for part in results])

    return table(
        "tuco-layers",
        {
            "group": (groups, "key", "class of the prompt"),
            "prompt_id": (np.concatenate(ids), "key", "position in the prompt file, from 0"),
            "layer": (
                np.concatenate([place[1].ravel() for place in places]),
                "key",
                "block, from 0",
            ),
            "beta": (
                joined("betas"),
                "measure",
                (
                    "share due to fine-tuning in what the blocks up to and including this one"
                    " added, over all tokens; NaN on the fast path"
                ),
            ),
            "beta_last": (joined("betas_last"), "measure", "the same at the last token"),
            "base_size": (
                joined("base_sizes"),
                "measure",
                "norm of what the base's block adds (PTC)",
            ),
            "tuned_size": (
                joined("tuned_sizes"),
                "measure",
                "norm of what the fine-tuned block adds minus that (FTC)",
            ),
            "cosine": (joined("cosines"), "measure", "cosine of PTC and FTC"),
            "error": (
                joined("errors"),
                "measure",
                (
                    "norm of the stream after this block minus embedding and both sums, relative to"
                    " the stream"
                ),
            ),
        },
    )


def _tokens(results: list[GroupContributions]) -> Table:
    """One row per prompt, position and block, of the first prompts of each class."""
    rows = [
        (part.group, part.prompts[row].id, position, text, layer, value)
        for part in results
        for row, (words, shares) in part.tokens.items()
        for position, text in enumerate(words)
        for layer, value in enumerate(shares[:, position].tolist())
    ]
    names = {
        "group": ("key", "class of the prompt"),
        "prompt_id": ("key", "position in the prompt file, from 0"),
        "position": ("key", "token of the prompt, from 0"),
        "token": ("text", "the token"),
        "layer": ("key", "block, from 0"),
        "beta": (
            "measure",
            (
                "share due to fine-tuning in what the blocks up to and including this one added at"
                " this token"
            ),
        ),
    }
    values = zip(*rows, strict=True)
    return table(
        "tuco-tokens",
        {n: (list(v), *about) for (n, about), v in zip(names.items(), values, strict=True)},
    )
