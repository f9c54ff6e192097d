"""``WrappedProbes``: does the residual stream of the fine-tuned model still tell the old answer?

Linear probes after Jain et al. 2024 (arXiv 2311.12786): at every depth a logistic regression reads
which answer the *base* would give from the stream of each model, at the token where the answer
begins. A capability that is only hidden stays readable. Probes are cross-validated by cluster
within each split; the depth is the deepest one at which the base's own stream tells nearly what it
tells at its best (on the selection split), and everything reported is of the held-out split.

What the paper leaves open is chosen here. The label is the base's answer at its first token that
differs between prompts (``label_token`` for another). Labels that fine-tuning's new answers follow
too are no evidence (a probe for *refuse or comply* reads the new behaviour), so by default only
prompts are probed whose answer fine-tuning changed. The words of the prompt alone may tell the
label: a probe of the prompt's token counts and one of a random start are reported with it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from interp.analyzers.framework import Analyzer, Needs, Result, option
from interp.analyzers.wrapped_probes.compute import (
    RANDOM_START,
    WORDS_OF_PROMPT,
    Probed,
    chosen_depth,
    labelled_answers,
    probe_model,
    shuffled_accuracies,
    word_counts,
)
from interp.analyzers.wrapped_probes.findings import (
    VERDICT,
    answers_table,
    claims_of,
    controls_rows,
    depths_table,
    shuffled_table,
)
from interp.experiments.base_answers import (
    BASE,
    CONTROL,
    RANDOM,
    TUNED,
    WORDS,
    BaseAnswers,
    any_supported,
    model_columns,
)
from interp.experiments.cost import Work
from interp.experiments.discovery.models import each_model, model_names
from interp.experiments.same_base import require_same_base
from interp.models.copies import random_start
from interp.models.model import Model
from interp.models.pair import Pair
from interp.study import Study

PROMPT, ANSWER = "prompt", "answer"
CHANGED, ALL = "changed", "all"
LIMITS = (
    "What a probe reads is in the stream; whether the model uses it, no probe says. A probe fails"
    " where the information is there in another form than a linear one.",
)
NO_CONTROL = "No control fine-tune was probed (--control)."


@dataclass(frozen=True)
class WrappedProbes(Analyzer):
    """Probe both models' streams for the base's answer at every depth; needs a base.

    Returns a table of kind ``wrapped-probes``, one row per model and depth, with ``answers`` (the
    held-out prompts at the chosen depth), ``shuffled`` and, with controls, ``controls``. Where
    fewer than two labels have prompts in enough clusters, there are no rows of ``answers`` and no
    claim but that answers changed.
    """

    name: ClassVar[str] = "wrapped-probes"
    version: ClassVar[int] = 1
    needs: ClassVar[Needs] = Needs(base=True)

    controls: Sequence[Pair] = option(
        (), "Pairs of the same base and a control fine-tune each.", compare=False
    )
    probed: str = option(
        CHANGED,
        "Prompts that are probed: changed (whose answer fine-tuning changed) or all.",
        choices=(CHANGED, ALL),
    )
    read_at: str = option(
        PROMPT,
        "Where the stream is read: prompt (its last token), or answer (after the base's answer up"
        " to the label).",
        choices=(PROMPT, ANSWER),
    )
    label_token: int = option(
        0, "Token of the base's answer that is the label; 0: the first that differs.", ge=0
    )
    permutations: int = option(39, "Shuffles of the labels.", ge=19)

    def require(self, study: Study) -> None:
        """Raise OptionError or PairError for a study or controls that cannot be compared."""
        super().require(study)
        require_same_base(study, self.controls)

    def work(self, study: Study) -> Work:
        """The base's answers, and a pass of every model over the prompts."""
        return Work(passes=5 + len(self.controls), tokens=study.max_new_tokens)

    def run(self, study: Study) -> Result:
        """Probe every model on both splits; the depth is chosen by the base on one."""
        answers = BaseAnswers.from_study(study)
        labelled = labelled_answers(
            answers, self.probed == CHANGED, self.label_token, self.read_at == ANSWER
        )
        names = model_names(study, self.controls)

        def probe(name: str, model: Model) -> Probed:
            return probe_model(answers, labelled, name, model)

        base = probe("base", study.pair.require_base(self.name))
        models = [
            probe(names[number], pair.tuned) for number, pair in each_model(study, self.controls)
        ]
        tuned, controls = models[0], models[1:]
        random = probe(
            RANDOM_START, Model.wrap(RANDOM_START, random_start(study.pair.tuned, study.seed))
        )
        words = Probed(WORDS_OF_PROMPT, *word_counts(answers, labelled))
        depth = chosen_depth(base)
        shuffled = [
            shuffled_accuracies(labelled, one, depth, self.permutations, study.seed)
            for one in (base, tuned)
        ]
        tables = {
            "answers": answers_table(answers, labelled, depth, base, tuned, words, random),
            "shuffled": shuffled_table(*shuffled),
        }
        if controls:
            tables["controls"] = controls_rows(base, controls, depth)
        shown = [
            (model_columns(BASE, base.name), base),
            (model_columns(TUNED, tuned.name), tuned),
            (model_columns(WORDS, words.name), words),
            (model_columns(RANDOM, random.name), random),
            *(
                (model_columns(CONTROL, one.name, number), one)
                for number, one in enumerate(controls)
            ),
        ]
        rows = depths_table(labelled, depth, shown)
        blocks = study.pair.tuned.anatomy.n_layers
        claims = claims_of(answers, labelled, depth, blocks, len(controls))
        return Result(
            rows,
            tables,
            claims,
            {
                **answers.summary,
                "depth": depth,
                "label_token": labelled.token + 1,
                "labels": labelled.n_labels,
                "probed_prompts": [len(labelled.selection), len(labelled.held_out)],
                "largest_label": labelled.largest,
                "told_by_new_answers": labelled.told_by_new_answers,
                "controls": names[1:],
            },
            [*LIMITS, *labelled.notes, *([] if self.controls else [NO_CONTROL])],
            lead=labelled.notes[0] if labelled.n_labels < 2 else "",
            supported=any_supported(claims, rows, tables, VERDICT),
        )
