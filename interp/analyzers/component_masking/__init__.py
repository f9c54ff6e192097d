"""``ComponentMasking``: which heads at a word carry a kind of information, in either model?

Desiderata-based component masking (DCM; arXiv 2307.03637, as used by Prakash et al. 2024, arXiv
2402.14811): a mask over attention heads at a named word is learned, so that patching them from a
source prompt makes the model give the source's target. The target says what information that is.
The mask is learned in both models; the base's heads are then patched in the fine-tuned model and in
controls. The unpatched score is always reported: rows whose target is their own answer, which a model
gives without a patch, are left out (in the published data one row in seven is such a row).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil
from typing import ClassVar

import numpy as np

from interp.analyzers.component_masking.findings import claims_of
from interp.analyzers.component_masking.tables import (
    ROLES,
    ExchangedGainRow,
    HeldOut,
    Tested,
    answers_table,
    controls_of,
    fit_table,
    gains,
    masks_table,
    permuted_table,
    random_table,
    scores_table,
    transfer_table,
)
from interp.analyzers.framework import Analyzer, Needs, Result, option, sign_flips
from interp.errors import OptionError, PromptError
from interp.experiments.component_masks import (
    FittedMask,
    Fitting,
    MaskedModel,
    fit_mask,
    split_rows,
)
from interp.experiments.cost import Work
from interp.experiments.head_patches import Head, random_groups
from interp.experiments.same_base import require_same_base
from interp.models.model import Model
from interp.models.pair import Pair
from interp.models.pairs_on_demand import tuned_names
from interp.models.units import HEAD
from interp.prompts import OneClass, TaskFile, TokenRow
from interp.study import Study

EXCHANGES, LEAST_STEPS = 999, 60
SHARES = (2, 1, 1)
PARTS = ("train", "validation", "test")
LIMIT = (
    "A selected head can carry the target at this word; heads that were not selected may too, where"
    " others are enough."
)


@dataclass(frozen=True)
class ComponentMasking(Analyzer):
    """Masks over heads by a source's target; needs a base and a task file, whose rows are the
    study's positive prompts.

    ``heads``: the (block, head) pairs that can be patched, by default all. Half of the clusters
    train the mask, a quarter chooses it, a quarter tests it. ``epochs`` None: 2, as published, or as
    many as give 60 batches. ``ties``: of masks with equal validation accuracy the one with more
    heads is kept, as published, or with fewer. Returns a table of kind ``component-masking``, one
    row per head and model in which a mask was learned, with ``scores``, ``answers``, ``transfer``,
    ``random``, ``permuted``, ``exchanged``, ``fit`` and, with controls, ``controls``. Raises
    PromptError for rows without the source or the word, and where too few rows are left.
    """

    name: ClassVar[str] = "component-masking"
    version: ClassVar[int] = 1
    needs: ClassVar[Needs] = Needs(base=True)

    controls: Sequence[Pair] = option(
        (), "Pairs of the same base and a control fine-tune each.", compare=False
    )
    task: TaskFile | None = option(None, "A task file.")
    source: str = option("", "The source prompts that heads are patched from.")
    position: str = option("last", "last, or a named word at which heads are patched.")
    heads: Sequence[Head] = option((), "Heads that can be patched.")
    penalty: float = option(0.01, "Penalty of every patched head, in logits.", ge=0)
    learning_rate: float = option(0.1, "Step of Adam.", ge=0)
    epochs: int | None = option(None, "Times that training rows are seen.", ge=1)
    fit_batch: int = option(32, "Rows in a training batch.", ge=1)
    ties: str = option(
        "more", "Of masks that are equally good: more heads, or fewer.", choices=("more", "fewer")
    )
    draws: int = option(
        39, "Random sets of as many heads, and exchanges of sources; 0: none.", ge=0
    )

    def require(self, study: Study) -> None:
        """Raise OptionError or PromptError for a study whose heads cannot be masked so."""
        super().require(study)
        HEAD.require(study.pair.tuned.anatomy)
        require_same_base(study, self.controls)
        if self.task is None:
            raise OptionError("component masking needs a task file; give --task FILE")
        self.task.require_of(study.prompts("positive"))
        if self.source not in self.task.source_names:
            known = ", ".join(self.task.source_names) or "none"
            raise OptionError(
                f"source {self.source!r} is not one that every row has ({known}); give --source NAME"
            )
        self.task.require_positions([self.position])
        self.task.require_sources(self.source, [self.position])
        anatomy = study.pair.tuned.anatomy
        for layer, head in self.heads:
            if not (0 <= layer < anatomy.n_layers and 0 <= head < anatomy.n_heads):
                raise OptionError(
                    f"head {layer}.{head} does not exist: {study.pair.tuned.name} has"
                    f" {anatomy.n_layers} blocks of {anatomy.n_heads} heads, both from 0"
                )

    def work(self, study: Study) -> Work:
        """In both models the epochs over half of the rows, and passes over a quarter for every mask
        that is tried and every random set.
        """
        rows = len(study.prompts("positive"))
        epochs, steps = self._epochs(rows // 2)
        tried = ceil(steps / 4)
        passes = 2 * (1 + 0.25 * (tried + 3)) + 0.25 * 6 * self.draws
        return Work(passes=passes + len(self.controls), gradients=epochs)

    def run(self, study: Study) -> Result:
        """Learn a mask in both models, and patch its heads in both and in controls."""
        rows, same = self._rows(study)
        parts = self._split(rows, study.seed)
        anatomy = study.pair.tuned.anatomy
        every = [(at, head) for at in range(anatomy.n_layers) for head in range(anatomy.n_heads)]
        pool = sorted({(int(layer), int(head)) for layer, head in self.heads}) or every
        masked = {role: self._masked(study, study.pair[role], rows, pool) for role in ROLES}
        masks: dict[str, FittedMask] = {}
        for role in ROLES:
            fitting = self._fitting(len(parts["train"]))
            masks[role] = fit_mask(
                masked[role], parts["train"], parts["validation"], fitting, study.seed, role
            )
        test = HeldOut([rows[at] for at in parts["test"]], masked["base"].targets(parts["test"]))
        random = {
            role: random_groups(masks[role].heads, pool, self.draws, study.seed, same_layers=False)
            for role in ROLES
        }
        wanted = [("base", "base"), ("base", "tuned"), ("tuned", "tuned")]
        tested = [
            _tested(
                study,
                masked[model],
                parts["test"],
                found,
                model,
                masks[found],
                random[found].groups,
                self.draws,
            )
            for found, model in wanted
        ]
        names = tuned_names(self.controls)
        positive = study.with_prompts(
            OneClass(study.prompts("positive").keep([self._place(study, row) for row in test.rows]))
        )
        tables = {
            "scores": scores_table(tested, test),
            "answers": answers_table(tested, test),
            "transfer": transfer_table(tested[0], tested[1], test),
            "random": random_table(tested, test),
            "permuted": permuted_table(tested, test),
            "exchanged": sign_flips(
                positive,
                ExchangedGainRow,
                EXCHANGES,
                difference=gains(tested[1], test) - gains(tested[0], test),
            ),
            "fit": fit_table(masks),
        }
        if names:
            controls = self._controls(study, rows, parts["test"], pool, masks["base"])
            tables["controls"] = controls_of(names, controls, tested[0], test)
        counts = {role: len(masks[role].heads) for role in ROLES}
        summary = {
            "source": self.source,
            "position": self.position,
            **{f"{name}_rows": len(parts[name]) for name in PARTS},
            "left_out": same,
            "selected": {
                role: [f"{at}.{head}" for at, head in masks[role].heads] for role in ROLES
            },
            "controls": names,
        }
        claims = claims_of(
            self.source,
            self.position,
            counts,
            random,
            self.draws,
            len(names),
        )
        limits = [LIMIT]
        if same:
            limits.append(f"{same} rows whose target is their own answer were left out.")
        lead = "" if claims else "No mask of heads gives the target more often than none patched."
        return Result(masks_table(masks), tables, claims, summary, limits, lead=lead)

    def _place(self, study: Study, row: TokenRow) -> int:
        places = study.cached(
            "places", lambda: {p.id: at for at, p in enumerate(study.prompts("positive"))}
        )
        return places[row.id]

    def _rows(self, study: Study) -> tuple[list[TokenRow], int]:
        """Rows as tokens without those whose target is the answer, and the number of these."""
        assert self.task is not None
        pair = study.pair
        rows = self.task.tokens(pair.tokenizer, pair.tuned.context_length)
        kept = [row for row in rows if row.targets[self.source] != row.answer]
        return kept, len(rows) - len(kept)

    def _split(self, rows: Sequence[TokenRow], seed: int) -> dict[str, list[int]]:
        parts = split_rows([row.cluster for row in rows], SHARES, seed)
        if not all(parts):
            raise PromptError(
                f"{len({row.cluster for row in rows})} clusters of rows whose target is not their"
                " answer cannot be split into training, validation and test rows; give more rows"
            )
        return dict(zip(PARTS, parts, strict=True))

    def _epochs(self, rows: int) -> tuple[int, int]:
        """Epochs, and the batches of all of them."""
        batches = max(ceil(rows / self.fit_batch), 1)
        epochs = self.epochs or max(2, ceil(LEAST_STEPS / batches))
        return epochs, ceil(epochs * rows / self.fit_batch)

    def _fitting(self, rows: int) -> Fitting:
        epochs, _ = self._epochs(rows)
        return Fitting(self.penalty, self.learning_rate, epochs, self.fit_batch, ties=self.ties)

    def _masked(
        self, study: Study, model: Model, rows: Sequence[TokenRow], pool: Sequence[Head]
    ) -> MaskedModel:
        return MaskedModel(study, model, rows, self.source, self.position, pool)

    def _controls(
        self,
        study: Study,
        rows: Sequence[TokenRow],
        test: Sequence[int],
        pool: Sequence[Head],
        mask: FittedMask,
    ) -> list[Tested]:
        found, kept = [], [rows[at] for at in test]
        # indexed each time: a name for one control would keep it in memory beside the next
        for at in study.progress(range(len(self.controls)), "controls"):
            masked = self._masked(study, self.controls[at].tuned, kept, pool)
            found.append(_tested(study, masked, range(len(kept)), "base", "control", mask, ()))
        return found


def _tested(
    study: Study,
    masked: MaskedModel,
    rows: Sequence[int],
    mask_name: str,
    model: str,
    mask: FittedMask,
    random: Sequence[tuple[Head, ...]],
    permutations: int = 0,
) -> Tested:
    """Most likely tokens of test rows under each set of heads, and from exchanged sources."""
    sets = {"none": (), "selected": mask.heads, "all": masked.heads}
    tokens = {name: masked.predictions(rows, heads) for name, heads in sets.items()}
    drawn = [
        masked.predictions(rows, heads)
        for heads in study.progress(random, f"random heads, {model}")
    ]
    generator = np.random.default_rng(study.seed)
    orders = [generator.permutation(len(rows)) for _ in range(permutations if mask.heads else 0)]
    permuted = [
        masked.predictions(rows, mask.heads, [rows[at] for at in order])
        for order in study.progress(orders, f"exchanged sources, {model}")
    ]
    return Tested(mask_name, model, mask.heads, len(masked.heads), tokens, drawn, permuted)


__all__: Sequence[str] = ("ComponentMasking",)
