"""``PatchHeads``: which attention heads of the fine-tuned model carry its change in the base?

Cross-model activation patching (CMAP; Prakash et al. 2024, arXiv 2402.14811): outputs of heads of
the fine-tuned model, read on the same prompt, are put into the base, and the base's into the
fine-tuned model. ``R = (F(base with heads) - F(base)) / (F(tuned) - F(base))`` and
``N = (F(tuned) - F(tuned with heads)) / (F(tuned) - F(base))`` of the mean metric F. The paper
reports F alone, as accuracy; both ratios are ours, and are not stated where the gap is within its
interval. Groups are compared with random groups of as many heads, and with control fine-tunes.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from interp.analyzers.framework import Analyzer, Needs, Result, option, sign_flips
from interp.analyzers.patch_heads.findings import TASK_LABELS, Compared, claims_of
from interp.analyzers.patch_heads.tables import (
    GROUP,
    RANDOM,
    SIDES,
    ExchangedHeadsRow,
    HeadEffects,
    Named,
    controls_of,
    effects_table,
    head_name,
    patches_table,
    random_table,
)
from interp.errors import OptionError, PromptError
from interp.experiments.conditions import PatchSource
from interp.experiments.cost import Work
from interp.experiments.head_patches import (
    LEAST_GROUPS,
    WHATS,
    Donor,
    Head,
    HeadPatch,
    first_order,
    head_channels,
    head_patch_scores,
    letters_of,
    random_groups,
)
from interp.experiments.same_base import require_same_base
from interp.experiments.scored_prompts import MetricPrompts, ScoredPrompts, TaskPrompts
from interp.models.pair import Pair
from interp.models.pairs_on_demand import tuned_names
from interp.models.units import HEAD
from interp.prompts import Contrast, OneClass, TaskFile
from interp.study import Study

ALL = "all heads"
ALL_POSITIONS = "all"
MOST_EXACT, FIRST_EXACT, EXCHANGES, FEW = 64, 20, 999, 8
LEAST_CHANGE, LEAST_OF_PROBABILITY = 1.0, 0.05
FLIPPED = {"inserted": "sufficiency", "removed": "necessity"}
LIMIT = (
    "R and N are of head outputs alone: MLPs and norms stay the receiver's, so that all heads together"
    " need not give the donor's answers."
)
SAME_PROMPTS = (
    "Heads were ranked on the prompts on which they were measured, so that the first ones are chosen"
    " to be large."
)
NO_CONTROL = (
    "No control fine-tune was given (--control): heads of one carry its own change beyond random"
    " groups too."
)


@dataclass(frozen=True)
class PatchHeads(Analyzer):
    """Cross-model patching of attention heads; needs a base, and a metric or a task file.

    The study's positive prompts are measured. ``task``: the same prompts as rows of a task file,
    scored by the probability of their one-token answers; ``position`` is then a named word of them.
    ``selection``: other prompts (a task file with ``task``) on which heads are ranked, by default
    the same. ``groups``: lists of (block, head) pairs; by default the ``first`` heads by first
    order, without which 10 % of all. ``controls``: pairs of the same base and a control fine-tune.
    Returns a table of kind ``patch-heads``, one row per patch, with ``effects`` (by prompt),
    ``random``, ``exchanged`` and, with controls, ``controls``. Raises OptionError for heads that
    do not exist, PromptError for a position that a prompt lacks.
    """

    name: ClassVar[str] = "patch-heads"
    version: ClassVar[int] = 1
    needs: ClassVar[Needs] = Needs(base=True)

    controls: Sequence[Pair] = option(
        (), "Pairs of the same base and a control fine-tune each.", compare=False
    )
    selection: Contrast | OneClass | TaskFile | None = option(
        None, "Prompts on which heads are ranked."
    )
    task: TaskFile | None = option(None, "A task file.")
    what: str = option(
        "z",
        "z: head outputs, through the receiver's output projection; z+o: through the donor's; q, k, v"
        " or qkv: what attention is computed from.",
        choices=WHATS,
    )
    position: str = option(ALL_POSITIONS, "all, last, or a named word of the task file.")
    groups: Sequence[Sequence[Head]] = option((), "Groups of (block, head) pairs.")
    first: int | None = option(None, "Heads of the group that ranks first.", ge=1)
    exact: int | None = option(None, "Single heads that are patched, by rank.", ge=1)
    draws: int = option(39, "Random groups of each kind; 0: none.", ge=0)
    min_change: float | None = option(
        None, "Least change of the mean metric by fine-tuning that counts, in its unit.", ge=0
    )

    def require(self, study: Study) -> None:
        """Raise OptionError or PromptError for a study that cannot be patched so."""
        super().require(study)
        HEAD.require(study.pair.tuned.anatomy)
        for site in head_channels(study.pair.tuned, letters_of(self.what)[0], [(0, 0)]):
            study.pair.tuned.anatomy.target(site)
        require_same_base(study, self.controls)
        if self.task is None:
            study.require_metric(self.name)
            if self.position != ALL_POSITIONS:
                raise OptionError(
                    f"position {self.position!r} is a word of a task file, and there is none; give"
                    " --task FILE, or --position all"
                )
        for task in (self.task, self.selection):
            if isinstance(task, TaskFile) and self.position != ALL_POSITIONS:
                task.require_positions([self.position])
        if self.task is not None:
            self.task.require_of(study.prompts(GROUP))
        if self.task is not None and not isinstance(self.selection, (TaskFile, type(None))):
            raise PromptError("heads are ranked on plain prompts and measured on a task file")
        anatomy = study.pair.tuned.anatomy
        for layer, head in (head for group in self.groups for head in group):
            if not (0 <= layer < anatomy.n_layers and 0 <= head < anatomy.n_heads):
                raise OptionError(
                    f"head {layer}.{head} does not exist: {study.pair.tuned.name} has"
                    f" {anatomy.n_layers} blocks of {anatomy.n_heads} heads, both from 0"
                )

    def work(self, study: Study) -> Work:
        """Two passes for every patch, from its own block on; gradients at both models; answers under
        the patches of groups.
        """
        anatomy = study.pair.tuned.anatomy
        groups = len(self.groups) or 1
        patches = 2 + anatomy.n_layers + self._n_exact(anatomy.n_layers * anatomy.n_heads) + groups
        patches += groups * len(RANDOM) * self.draws + 2 * len(self.controls)
        tokens = 0 if self.task is not None else 2 * (groups + 2) * study.max_new_tokens
        return Work(passes=2 + 1.2 * patches, gradients=2, tokens=tokens)

    def run(self, study: Study) -> Result:
        """Rank heads, patch all, layers, single heads and groups, and draw random groups."""
        prompts, ranking = self._prompts(study)
        slopes = first_order(ranking[0], ranking[1], self.what)
        ends = head_patch_scores(study, prompts, [], "both models").ends
        order = _order(slopes, rises=bool(ends[1, 0].mean() >= ends[0, 0].mean()))
        anatomy = study.pair.tuned.anatomy
        groups = self._groups(order)
        patches = self._patches(order, groups, anatomy.n_layers, anatomy.n_heads)
        scores = head_patch_scores(study, prompts, _both_sides(patches), "patches")
        ends = scores.ends if self.task is not None else self._with_answers(study, scores.ends)
        patched = list(scores.patched.reshape(len(patches), 2, *scores.ends.shape[1:]))
        if self.task is None:
            self._add_answers(study, patches, patched)
        effects = HeadEffects(study, ends, patches, patched, slopes, order)
        compared = self._random(study, prompts, effects, groups)
        names = tuned_names(self.controls)
        tables = {
            "effects": effects_table(effects),
            "random": random_table(effects),
            "exchanged": _exchanged(study, effects),
        }
        if names:
            tables["controls"] = controls_of(effects, names, self._controls(study, prompts, groups))
        whole = next(p for p in patches if p.kind == "all" and p.what == self.what)
        labels = TASK_LABELS if self.task is not None else study.require_metric().labels
        rises = bool(ends[1, 0].mean() >= ends[0, 0].mean())
        claims = claims_of(
            compared, whole, rises, self._least(), len(names), labels, self.task is not None
        )
        limits = [
            LIMIT,
            *([SAME_PROMPTS] if self.selection is None and not self.groups else []),
            *([] if names else [NO_CONTROL]),
        ]
        return Result(patches_table(effects), tables, claims, self._summary(effects, names), limits)

    def _least(self) -> float:
        """The least change that counts: of a probability it is smaller than of log-odds."""
        default = LEAST_OF_PROBABILITY if self.task is not None else LEAST_CHANGE
        return default if self.min_change is None else self.min_change

    def _n_exact(self, count: int) -> int:
        return min(self.exact or (count if count <= MOST_EXACT else FIRST_EXACT), count)

    def _prompts(self, study: Study) -> tuple[ScoredPrompts, tuple[Study, ScoredPrompts]]:
        """The prompts to measure, and a study and prompts to rank on."""
        position = None if self.position == ALL_POSITIONS else self.position
        if self.task is None:
            ranking = study
            if isinstance(self.selection, (Contrast, OneClass)):
                ranking = study.with_prompts(self.selection)
            return MetricPrompts(study), (ranking, MetricPrompts(ranking))
        pair = study.pair
        own, ranked = (
            TaskPrompts(
                task.tokens(pair.tokenizer, pair.tuned.context_length), study.pad_id, position
            )
            for task in (
                self.task,
                self.selection if isinstance(self.selection, TaskFile) else self.task,
            )
        )
        return own, (study, ranked)

    def _groups(self, order: Sequence[Head]) -> list[Named]:
        if self.groups:
            return [_named(group, self.what, at) for at, group in enumerate(self.groups, 1)]
        count = min(self.first or max(1, round(len(order) / 10)), len(order))
        return [Named(_counted(count), "group", tuple(sorted(order[:count])), self.what)]

    def _patches(
        self, order: Sequence[Head], groups: Sequence[Named], n_layers: int, n_heads: int
    ) -> list[Named]:
        everything = tuple((layer, head) for layer in range(n_layers) for head in range(n_heads))
        whats = ["z", "z+o", *([] if self.what.startswith("z") else [self.what])]
        patches = [Named(ALL, "all", everything, what) for what in whats]
        patches += [
            Named(
                f"layer {layer}",
                "layer",
                tuple((layer, head) for head in range(n_heads)),
                self.what,
            )
            for layer in range(n_layers)
        ]
        single = order[: self._n_exact(len(order))]
        patches += [Named(head_name(head), "head", (head,), self.what) for head in single]
        return [*patches, *groups]

    def _with_answers(self, study: Study, ends: np.ndarray) -> np.ndarray:
        """Scores of both models with whether their answers show the behaviour."""
        known = ends.copy()
        for at, role in enumerate(("base", "tuned")):
            known[at, 1] = _shows(study, study.answers(role, GROUP))
        return known

    def _add_answers(
        self, study: Study, patches: Sequence[Named], patched: Sequence[np.ndarray]
    ) -> None:
        """Whether answers written under the patches of all heads and of groups show the behaviour."""
        source = PatchSource.from_study(study, HEAD)
        for patch, scores in zip(patches, patched, strict=True):
            if patch.kind not in ("all", "group") or not patch.what.startswith("z"):
                continue
            weights = "receiver" if patch.what == "z" else "donor"
            for at, side in enumerate(SIDES):
                target = source.cell(FLIPPED[side], patch.heads, "donor", weights)
                answers = study.answers(target.role, GROUP, target.intervention)
                scores[at, 1] = _shows(study, answers)

    def _random(
        self,
        study: Study,
        prompts: ScoredPrompts,
        effects: HeadEffects,
        groups: Sequence[Named],
    ) -> list[Compared]:
        """Measure random groups; a group is tested against those of the same layers where there are
        enough of them.
        """
        compared, pool = [], sorted(effects.order)
        for number, group in enumerate(groups):
            counts: dict[str, tuple[int, int]] = {}
            for kind in RANDOM if self.draws else ():
                drawn = random_groups(
                    group.heads,
                    pool,
                    self.draws,
                    study.seed + number,
                    same_layers=kind == "layers",
                )
                counts[kind] = len(drawn.groups), drawn.arrangements
                if not drawn.groups:
                    continue
                others = [Named("", "group", heads, group.what) for heads in drawn.groups]
                scores = head_patch_scores(study, prompts, _both_sides(others), f"random, {kind}")
                effects.random[group.name, kind] = scores.patched.reshape(
                    len(others), 2, *scores.patched.shape[1:]
                )
            enough = counts.get("layers", (0, 0))[0] >= min(self.draws, LEAST_GROUPS) > 0
            kind = "layers" if enough else "heads"
            compared.append(Compared(group, kind, *counts.get(kind, (0, 1))))
        return compared

    def _controls(
        self, study: Study, prompts: ScoredPrompts, groups: Sequence[Named]
    ) -> dict[str, list[np.ndarray]]:
        """Scores with the heads of each control: all of them, and the first group."""
        anatomy = study.pair.tuned.anatomy
        everything = [(at, h) for at in range(anatomy.n_layers) for h in range(anatomy.n_heads)]
        sets = {"all": tuple(everything), "group": groups[0].heads}
        donors: tuple[Donor, Donor] = ("control", "without-control")
        patches = [
            HeadPatch(receiver, donor, heads, self.what)
            for heads in sets.values()
            for receiver, donor in zip(("base", "tuned"), donors, strict=True)
        ]
        found: dict[str, list[np.ndarray]] = {name: [] for name in sets}
        # indexed each time: a name for one control would keep it in memory beside the next
        for at in range(len(self.controls)):
            scores = head_patch_scores(
                study, prompts, patches, f"control {at + 1}", self.controls[at].tuned
            )
            for number, name in enumerate(sets):
                found[name].append(scores.patched[2 * number : 2 * number + 2])
        return found

    def _summary(self, effects: HeadEffects, names: Sequence[str]) -> dict:
        summary: dict = {
            "what": self.what,
            "position": self.position,
            "heads": len(effects.order),
            "exact": sum(patch.kind == "head" for patch in effects.patches),
            "first": [head_name(head) for head in effects.order[:10]],
            "controls": list(names),
        }
        for patch, patched in zip(effects.patches, effects.patched, strict=True):
            if patch.kind != "all":
                continue
            for at, side in enumerate(SIDES):
                share = effects.share(side, patched[at, 0]).value
                summary[f"{side} {patch.what}"] = None if np.isnan(share) else share
        return summary


def _both_sides(patches: Sequence[Named]) -> list[HeadPatch]:
    """The fine-tuned model's heads into the base, then the base's into the fine-tuned model."""
    return [
        made
        for patch in patches
        for made in (
            HeadPatch("base", "tuned", patch.heads, patch.what),
            HeadPatch("tuned", "base", patch.heads, patch.what),
        )
    ]


def _named(group: Sequence[Head], what: str, number: int) -> Named:
    heads = tuple(sorted({(int(layer), int(head)) for layer, head in group}))
    few = "heads " + ", ".join(map(head_name, heads))
    many = f"group {number} of {len(heads)} heads"
    return Named(few if len(heads) <= FEW else many, "group", heads, what)


def _counted(count: int) -> str:
    return "the first head" if count == 1 else f"the first {count} heads"


def _order(slopes: np.ndarray, rises: bool) -> list[Head]:
    """All heads by the mean of both first-order terms, in the direction of the change."""
    flat = slopes.mean(0).ravel() * (1.0 if rises else -1.0)
    n_heads = slopes.shape[2]
    order = np.argsort(-flat, kind="stable")
    return [(int(at) // n_heads, int(at) % n_heads) for at in order]


def _shows(study: Study, answers: Sequence[Sequence[int]]) -> np.ndarray:
    texts = [study.decode(answer) for answer in answers]
    prompts = study.prompts(GROUP).prompts
    return study.require_metric().exhibits(prompts, texts, GROUP).astype(np.float64)


def _exchanged(study: Study, effects: HeadEffects):
    positive = study.with_prompts(OneClass(study.prompts(GROUP)))
    shift = effects.ends[1, 0] - effects.ends[0, 0]
    return sign_flips(positive, ExchangedHeadsRow, EXCHANGES, shift=shift)


__all__: Sequence[str] = ("PatchHeads",)
