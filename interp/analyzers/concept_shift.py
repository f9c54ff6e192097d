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
from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np

from interp.analyzers.base import Analyzer
from interp.capture import capture
from interp.claims import conclude
from interp.errors import OptionError
from interp.experiments.same_base import require_same_base
from interp.maths.host import to_host
from interp.models.model import Model
from interp.models.pair import Pair
from interp.models.pairs_on_demand import tuned_names
from interp.prompts import CONTENT, PromptSet, content_roles, positions_within_clusters
from interp.sae.analysis import concept_shift as shifts
from interp.sae.analysis.concept_shift_claims import (
    ConceptShifts,
    claims_of,
    control_columns,
    shift_columns,
)
from interp.sae.analysis.token_labels import Texts
from interp.sites import Site
from interp.study import Study
from interp.table import Table, table


@dataclass(frozen=True)
class ConceptShift(Analyzer):
    """Shifts of ``concepts`` concepts of ``site`` on the study's prompts; needs a base (arXiv
    2501.03012).

    At most ``tokens`` content tokens are used, the last one of every prompt first. ``draws`` of
    each null. ``controls``: pairs of the same base and a control fine-tune (same training on
    neutral data), whose shifts the model's have to exceed; without one no claim is supported.
    Returns a table of kind ``concept-shift``, one row per concept, with ``words`` (most frequent
    tokens of a concept).
    """

    name: ClassVar[str] = "concept-shift"
    version: ClassVar[int] = 4

    site: str = ""
    concepts: int = 20
    tokens: int = 20_000
    draws: int = 199
    controls: Sequence[Pair] = field(default=(), compare=False)

    def require(self) -> Site:
        """The site; raises OptionError for numbers out of range."""
        if self.concepts < 1:
            raise OptionError(f"the number of concepts must be at least 1, not {self.concepts}")
        if self.tokens < 2 * shifts.MIN_TOKENS or self.draws < 1:
            raise OptionError(
                f"{self.tokens} tokens and {self.draws} draws are too few to estimate a shift"
            )
        return Site.parse(self.site)

    def require_study(self, study: Study) -> Site:
        """The site; raises PairError for a control of another base, OptionError as ``require``
        does.
        """
        require_same_base(study, self.controls)
        return self.require()

    def __call__(self, study: Study) -> Table:
        """One pass over all models; concepts, shifts, recovery and claims."""
        site = self.require_study(study)
        (base, *tuned), (ids, documents, clusters) = self._states(study, site)
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
        n_small = int((columns["tokens"][0] < shifts.MIN_TOKENS).sum())
        run = table(
            self.name,
            columns,
            provenance=study.provenance(self),
            summary={
                "site": self.site,
                "concepts": self.concepts,
                "kept": len(ids),
                "mean_shift": float(np.linalg.norm(model.measured.overall)),
                "positive": len(study.prompts("positive")),
                **(
                    {"negative": len(study.prompts("negative"))}
                    if "negative" in study.classes
                    else {}
                ),
                "controls": tuned_names(self.controls),
                "limits": [
                    *(
                        []
                        if self.controls
                        else [
                            "Without a control fine-tune it is unknown whether any fine-tuning"
                            " moves concepts as far "
                            "(--control MODEL)."
                        ]
                    ),
                    (
                        "Concepts found by k-means depend on their number; a shift is that of a"
                        " group of tokens, which need not share a meaning."
                    ),
                    *(
                        [
                            f"{n_small} concepts have fewer than {shifts.MIN_TOKENS} tokens and"
                            " therefore no shift."
                        ]
                        if n_small
                        else []
                    ),
                ],
            },
            tables={"words": self._top_tokens(study, ids[selection], member)},
        )
        claims = claims_of(columns, len(controls))
        return conclude(run, claims, lead="" if claims else "No concept had enough tokens.")

    def _states(self, study: Study, site: Site) -> tuple[list[np.ndarray], tuple[np.ndarray, ...]]:
        """States [N, D] of base, tuned model and controls at the used tokens, with token ids,
        documents and clusters, in file order.
        """
        models = {"base": study.pair.require_base("a shift of concepts"), "tuned": study.pair.tuned}
        for model in models.values():
            model.at(site)
        encoded = [
            content_roles(study.pair.tokenizer, one)
            for group in study.classes
            for one in study.encoded(group)
        ]
        prompts = PromptSet.joined(*(study.prompts(group) for group in study.classes))
        clusters, texts = prompts.clusters, set(prompts.sample(len(prompts)))
        content_positions = [np.flatnonzero(np.array(coded.roles) == CONTENT) for coded in encoded]
        generator = np.random.default_rng(study.seed)
        max_per_prompt = max(1, self.tokens // len(texts))
        order = [row for row in generator.permutation(len(encoded)).tolist() if row in texts]
        turn = positions_within_clusters([clusters[row] for row in order])
        positions = {order[at] for at in np.argsort(turn, kind="stable")[: self.tokens]}
        content_positions = [
            own if row in positions else own[:0] for row, own in enumerate(content_positions)
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
        concepts, ranks, tokens, words, counts = zip(*rows, strict=True)
        return table(
            "concept-words",
            {
                "concept": (list(concepts), "key", "number of the concept"),
                "rank": (list(ranks), "key", "by decreasing count, from 0"),
                "token_id": (list(tokens), "key", "token id"),
                "token": (list(words), "text", "the token"),
                "count": (list(counts), "measure", "number of times it occurs in the concept"),
            },
        )
