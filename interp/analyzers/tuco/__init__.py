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
from dataclasses import dataclass
from typing import ClassVar

from interp.analyzers.framework import Analyzer, Needs, Result, option
from interp.analyzers.tuco.classes_by_answer import split_by_answer
from interp.analyzers.tuco.compute import measure_group, rounding_floor
from interp.analyzers.tuco.findings import (
    TucoControlRow,
    claims_of,
    control_numbers,
    layer_table,
    permuted_aucs,
    prompt_table,
    token_table,
)
from interp.analyzers.tuco.options import TucoOptions
from interp.claims.control_fine_tunes import controls_table
from interp.errors import OptionError, UnsupportedModel
from interp.experiments.cost import Work
from interp.experiments.label_permutations import LabelPermutations
from interp.experiments.same_base import require_same_base
from interp.experiments.tuning_decomposition import require_local_engine, required_hooks
from interp.models.pair import Pair
from interp.models.pairs_on_demand import tuned_names
from interp.models.unexamined_changes import unexamined_change_notes
from interp.study import Study

NO_CONTROL = (
    "An AUC above one half shows that the classes differ; without a control fine-tune it cannot be"
    " attributed to this fine-tuning."
)


@dataclass(frozen=True)
class Tuco(TucoOptions, Analyzer):
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
    needs: ClassVar[Needs] = Needs(base=True)

    by_answer: bool = option(
        False, "Two classes of --prompts: answers that show the behaviour, and others."
    )
    keep_text: bool = option(False, "Keep the text of the answers.")
    controls: Sequence[Pair] = option(
        (), "Pairs of the same base and a control fine-tune each.", compare=False
    )

    def require(self, study: Study) -> None:
        """Raise OptionError, PairError or UnsupportedModel for a study that TuCo cannot be measured
        on.
        """
        super().require(study)
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
            full_logits=(2.2 if self.output else 1.5) * pairs,
            tokens=study.max_new_tokens * self.by_answer,
        )

    def run(self, study: Study) -> Result:
        """Decompose the fine-tuned model's stream of every prompt."""
        study.require_parts()
        answer_split = split_by_answer(study, self.keep_text) if self.by_answer else None
        names = ("positive", "negative")
        if answer_split is not None:
            study, names = answer_split.study, answer_split.names
        results = [measure_group(study, self, group) for group in study.classes]
        controls = [
            [measure_group(study, self, group, self.controls[at]) for group in study.classes]
            for at in range(len(self.controls))
        ]
        floor = rounding_floor(study, self)
        rows = prompt_table(study, results, controls)
        tables, permutations = {"layers": layer_table(results), "floor": floor}, None
        if self.positions == "all":
            tables["tokens"] = token_table(results)
        if len(results) == 2:
            permutations = LabelPermutations.from_clusters(
                (rows["group"] == "positive").tolist(), rows["cluster"].tolist(), rows["tokens"]
            )
            tables["permuted"] = permuted_aucs(permutations, self, rows["tuco"], study.seed)
        if controls:
            tables["controls"] = controls_table(
                tuned_names(self.controls),
                row=TucoControlRow,
                numbers=control_numbers(self.caliper, controls),
            )
        if answer_split is not None:
            tables["answers"] = answer_split.answers
        floor_share = float(floor["tuco"].max())
        return Result(
            rows,
            tables,
            claims_of(self, floor_share, len(rows), names, len(controls), permutations),
            {
                "controls": tuned_names(self.controls),
                "tuco": float(rows["tuco"].mean()),
                "output_co": float(rows["output_co"].mean()),
                "noise_floor": floor_share,
                "largest_error": max(float(part.errors.max()) for part in results),
                "path": self.path,
                **{group: len(study.prompts(group)) for group in study.classes},
            },
            [
                *unexamined_change_notes(study.pair),
                *([NO_CONTROL] if len(results) == 2 and not controls else []),
            ],
            lead="" if answer_split is None else answer_split.sentence,
            # with one class the AUC of --by-answer is undefined
            supported=False if self.by_answer and len(results) == 1 else None,
        )
