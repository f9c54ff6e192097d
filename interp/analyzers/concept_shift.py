"""``ConceptShift``: which concepts of a base's hidden states fine-tuning moves, and whether each
moves distinctly.

1. Hidden states of a site at content tokens are read in all models, at the same tokens.
2. On one half of the clusters, concepts are k-means clusters of the base's states, and their shifts
   are measured.
3. On the other half, concepts of each fine-tuned model are found: are shifted concepts closer to
   them?
4. The same for control fine-tunes: any fine-tuning moves concepts, so the claim is that this model
   moves them further.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from interp.analyzers.framework import Analyzer, Known, Needs, Result, option
from interp.capture import capture
from interp.experiments.same_base import require_same_base
from interp.maths.host import to_host
from interp.models.model import Model
from interp.models.pair import Pair
from interp.models.pairs_on_demand import tuned_names
from interp.prompts import CONTENT, PromptSet, content_roles, positions_within_clusters
from interp.rows import columns_of, key, measure, rows_table, text
from interp.sae.analysis import concept_shift as shifts
from interp.sae.analysis.concept_shift_claims import (
    ConceptRow,
    ConceptShifts,
    claims_of,
    control_columns,
    shift_columns,
)
from interp.sae.analysis.token_labels import Texts
from interp.sites import Site
from interp.study import Study
from interp.table import Table


class TokenRow:
    """A row per frequent token of a concept."""

    concept: int = key("number of the concept, by decreasing size")
    rank: int = key("by decreasing count, from 0")
    token_id: int = key("the token's id")
    token: str = text("the token")
    count: int = measure("number of times it occurs in the concept")


@dataclass(frozen=True)
class ConceptShift(Analyzer):
    """Shifts of ``concepts`` concepts of ``site`` on the study's prompts (arXiv 2501.03012).

    Without ``controls``, fine-tunes of the same base in the same way on neutral data, no claim is
    supported: the model's shifts have to exceed theirs. Returns a table of kind ``concept-shift``,
    one row per concept, with ``words`` (most frequent tokens of a concept).
    """

    name: ClassVar[str] = "concept-shift"
    version: ClassVar[int] = 4
    needs: ClassVar[Needs] = Needs(base=True)

    site: str = option("", "Site whose hidden states are read: blocks.3.hook_resid_post.")
    concepts: int = option(20, "Concepts: k-means clusters of the base's states.", ge=1)
    tokens: int = option(
        20_000,
        "At most this many content tokens, the last one of every prompt first.",
        ge=2 * shifts.MIN_TOKENS,
    )
    draws: int = option(199, "Of each null.", ge=1)
    controls: Sequence[Pair] = option(
        (), "Control fine-tunes, each a pair with the same base.", compare=False
    )

    def check(self, known: Known) -> None:
        """Raise OptionError for what is not a site."""
        Site.parse(self.site)

    def require(self, study: Study) -> None:
        """Raise PairError also for a control of another base."""
        super().require(study)
        require_same_base(study, self.controls)

    def run(self, study: Study) -> Result:
        """One pass over all models; concepts, shifts, recovery."""
        (base, *tuned), (ids, documents, clusters) = self._states(study, Site.parse(self.site))
        texts = Texts.from_tokens(
            ids, documents, np.unique(clusters, return_inverse=True)[1], study.seed
        )
        (model, *controls), member = ConceptShifts(self.concepts, self.draws, study.seed)(
            base, tuned, texts
        )
        selection = texts.training
        columns = shift_columns(model, base[selection])
        if controls:
            columns |= control_columns(model, controls, member, texts.clusters[selection])
        claims = claims_of(columns, len(controls))
        return Result(
            rows_table(ConceptRow, "", columns),
            {"words": self._top_tokens(study, ids[selection], member)},
            claims,
            {
                "site": self.site,
                "concepts": self.concepts,
                "kept": len(ids),
                "mean_shift": float(np.linalg.norm(model.measured.overall)),
                "controls": tuned_names(self.controls),
            },
            _limits(bool(controls), int((columns["tokens"] < shifts.MIN_TOKENS).sum())),
            lead="" if claims else "No concept had enough tokens.",
        )

    def _states(self, study: Study, site: Site) -> tuple[list[np.ndarray], tuple[np.ndarray, ...]]:
        """States [N, D] of base, tuned model and controls at the used tokens, with token ids,
        documents and clusters, in file order.
        """
        models = {"base": study.pair["base"], "tuned": study.pair.tuned}
        for model in models.values():
            model.at(site)
        encoded = [
            content_roles(study.pair.tokenizer, one)
            for group in study.classes
            for one in study.encoded(group)
        ]
        prompts = PromptSet.joined(*(study.prompts(group) for group in study.classes))
        clusters, texts = prompts.clusters, set(prompts.sample(len(prompts)))
        generator = np.random.default_rng(study.seed)
        max_per_prompt = max(1, self.tokens // len(texts))
        order = [row for row in generator.permutation(len(encoded)).tolist() if row in texts]
        turn = positions_within_clusters([clusters[row] for row in order])
        used = {order[at] for at in np.argsort(turn, kind="stable")[: self.tokens]}
        content_positions = [
            np.flatnonzero((np.array(coded.roles) == CONTENT) & (row in used))
            for row, coded in enumerate(encoded)
        ]
        positions = [
            np.sort(
                generator.permutation(own[:-1])[: max_per_prompt - 1].tolist() + own[-1:].tolist()
            ).astype(np.int64)
            for own in content_positions
        ]
        batches = study.batches(encoded, models["tuned"], 8 * models["tuned"].anatomy.width)

        def read(models: Mapping[str, Model], what: str) -> list[np.ndarray]:
            states_of: dict[str, list[np.ndarray]] = {
                role: [np.zeros(0)] * len(encoded) for role in models
            }
            groups = study.progress(batches, what)
            for captured in capture(
                study.engine, models, encoded, groups, [site], pad_id=study.pad_id, side="right"
            ):
                for number, row in enumerate(to_host(captured.rows).tolist()):
                    for role in models:
                        value = captured.values[role, site][number, : len(encoded[row].ids)]
                        states_of[role][row] = to_host(value).astype(np.float64)[positions[row]]
            return [np.concatenate(states_of[role]) for role in models]

        states = read(models, "states")
        for control_index in range(len(self.controls)):
            # one control in memory at a time, if loaded on demand
            control = self.controls[control_index].tuned
            control.at(site)
            states += read({"control": control}, f"states, control {control_index + 1}")
        documents = np.repeat(np.arange(len(encoded)), [len(own) for own in positions])
        ids = np.concatenate(
            [np.array(coded.ids)[own] for coded, own in zip(encoded, positions, strict=True)]
        )
        return states, (
            ids.astype(np.int64),
            documents,
            np.array(clusters, dtype=object)[documents],
        )

    def _top_tokens(
        self, study: Study, ids: np.ndarray, member: np.ndarray, max_tokens: int = 8
    ) -> Table:
        rows = []
        for concept in range(self.concepts):
            tokens, counts = np.unique(ids[member == concept], return_counts=True)
            for rank, index in enumerate(np.argsort(-counts, kind="stable")[:max_tokens]):
                token = int(tokens[index])
                rows.append(
                    (concept, rank, token, study.pair.tokenizer.decode([token]), int(counts[index]))
                )
        columns = zip(columns_of(TokenRow), zip(*rows, strict=True), strict=True)
        return rows_table(TokenRow, "concept-words", dict(columns))


def _limits(has_controls: bool, n_small: int) -> list[str]:
    limits = []
    if not has_controls:
        limits.append(
            "Without a control fine-tune it is unknown whether any fine-tuning moves concepts as"
            " far (--control MODEL)."
        )
    limits.append(
        "Concepts found by k-means depend on their number; a shift is that of a group of tokens,"
        " which need not share a meaning."
    )
    if n_small:
        limits.append(
            f"{n_small} concepts have fewer than {shifts.MIN_TOKENS} tokens and therefore no shift."
        )
    return limits
