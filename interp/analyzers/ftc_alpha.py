"""``FtcAlpha``: the fine-tuning contribution of every block, scaled (FTC_alpha of TuCo, arXiv
2506.23423).

Every block adds ``f_base(x) + alpha (f_tuned(x) - f_base(x))`` to the scaled stream, at all tokens.
The control scales the weights: ``W_base + alpha (W_tuned - W_base)``, which also includes
embeddings, final norm and head. A strength is chosen on half of the clusters, the selection split,
and evaluated on the held-out split.
"""

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from interp.analyzers.framework import Analyzer, Known, Needs, Result, option
from interp.capture import group_by_prompt, make_batch
from interp.claims import Claim, Estimate, escape_braces, mean
from interp.engines import TorchEngine
from interp.engines.coupled_forward import coupled_forward
from interp.errors import OptionError, UnsupportedModel
from interp.experiments.cost import Work
from interp.interventions.generation import generate
from interp.maths.host import to_host
from interp.maths.intervals import cluster_interval
from interp.metrics import is_malformed, require_number, token_divergences
from interp.metrics.base import MetricLabels
from interp.models.interpolate import interpolated, require_interpolable
from interp.models.unexamined_changes import changed_settings, unexamined_change_notes
from interp.study import Study
from interp.table import Table, as_binary, table

GRID = (0.0, 0.75, 0.9, 0.95, 1.0, 1.05, 1.1, 1.25)
BLOCKS, WEIGHTS = "blocks", "weights"
ONE_CLUSTER = (
    "One cluster of prompts cannot both choose a strength and evaluate it: no strength is claimed"
    " to be the best."
)


@dataclass(frozen=True)
class FtcAlpha(Analyzer):
    """The study's metric and the next token's distribution at every strength in ``alphas``; needs a
    base.

    1 is always among them. ``new_tokens`` above 0 also generates greedy answers of at most that
    length and scores them; ``keep_text`` keeps their text. A strength costs a pass of both models'
    blocks, also for every generated token. Returns a table of kind ``ftc-alpha``, one row per way,
    strength and class; ``prompts`` has one per prompt. With answers a second claim compares their
    behaviour with that of scaled weights at the same strengths.
    """

    name: ClassVar[str] = "ftc-alpha"
    version: ClassVar[int] = 4
    needs: ClassVar[Needs] = Needs(base=True, metric=True)

    alphas: tuple[float, ...] = option(GRID, "Strengths; 1 is always among them.")
    new_tokens: int = option(0, "Length of generated answers; 0: none.", ge=0)
    keep_text: bool = option(False, "Keep the text of the answers.")

    def check(self, known: Known) -> None:
        """Raise OptionError for strengths that are not finite numbers."""
        if not self.alphas or not all(np.isfinite(self.alphas)):
            raise OptionError(f"strengths {self.alphas} must be finite numbers, at least one")

    def require(self, study: Study) -> None:
        """Raise OptionError or UnsupportedModel for a study whose blocks cannot be scaled
        exactly.
        """
        super().require(study)
        require_number(study.require_metric(), "scaling blocks")
        if not isinstance(study.engine, TorchEngine):
            raise OptionError(
                f"blocks are scaled by the torch engine; leave out --engine {study.engine.name}"
            )
        if different := changed_settings(study.pair):
            raise UnsupportedModel(
                f"{study.pair.tuned.name} and its base differ in {', '.join(different)}: their"
                " blocks cannot run in one pass; measure TuCo without --alpha"
            )

    @property
    def grid(self) -> tuple[float, ...]:
        """The strengths, including 1, in ascending order."""
        return tuple(sorted({1.0, *map(float, self.alphas)}))

    def work(self, study: Study) -> Work:
        """Coupled passes of both models and a pass of scaled weights at every strength, also for
        generated tokens.
        """
        one_pass = Work(passes=1, tokens=self.new_tokens)
        # measured: a coupled pass and one of scaled weights take as long as 4.5 passes
        return one_pass + one_pass * 4.5 * len(self.grid)

    def run(self, study: Study) -> Result:
        """Scale, measure, choose a strength on the selection split and evaluate it on the held-out
        split.
        """
        ways, limits = [BLOCKS], list(unexamined_change_notes(study.pair))
        try:
            require_interpolable(study.pair)
            ways.append(WEIGHTS)
        except UnsupportedModel as error:
            limits.append(f"No control by scaled weights: {error}")
        labels = study.require_metric().labels
        rows = [row for group in study.classes for row in self._rows(study, group, ways)]
        prompts = table("", self._prompt_columns(study, rows))
        claims = _gain_claims(labels, prompts, ways)
        # without a held-out split the run is not supported, whatever else was claimed
        lead, supported = ("", None) if claims else (ONE_CLUSTER, False)
        if self.new_tokens and WEIGHTS in ways and len(self.grid) > 1:
            claims.append(_weights_claim(labels, [alpha for alpha in self.grid if alpha != 1]))
        return Result(
            table("", _mean_columns(labels, prompts)),
            {"prompts": prompts},
            claims,
            limits=limits,
            lead=lead,
            supported=supported,
        )

    def _rows(self, study: Study, group: str, ways: Sequence[str]) -> Iterator[dict[str, Any]]:
        """A row per way, strength and prompt of a class; answers are empty where none are made."""
        unscaled_logits = _numbers_and_logits(study, group)[1]
        unscaled_answers = _generate_answers(study, group, self.new_tokens)
        for way in ways:
            for alpha in study.progress(self.grid, f"{way}, {group}"):
                with scaled(study, way, alpha):
                    number, logits = _numbers_and_logits(study, group)
                    answers = (
                        unscaled_answers
                        if alpha == 1
                        else _generate_answers(study, group, self.new_tokens)
                    )
                real = torch.ones(len(logits), 1, dtype=torch.bool, device=logits.device)
                kl = to_host(token_divergences(unscaled_logits[:, None], logits[:, None], real))
                flips = to_host(logits.argmax(-1) != unscaled_logits.argmax(-1))
                for row, prompt in enumerate(study.prompts(group)):
                    yield {
                        "way": way,
                        "alpha": alpha,
                        "group": group,
                        "prompt": prompt,
                        "number": number[row],
                        "kl": kl[row, 0],
                        "flip": flips[row],
                        "answer": answers[row],
                        "tuned": unscaled_answers[row],
                    }

    def _prompt_columns(self, study: Study, rows: Sequence[dict[str, Any]]) -> dict[str, tuple]:
        metric, held_out = study.require_metric(), _held_out_clusters(study)
        labels, stops = metric.labels, study.stop_ids

        def column(name: str) -> list:
            return [row[name] for row in rows]

        prompts, answers = column("prompt"), column("answer")
        columns = {
            **_key_columns(column("way"), column("alpha"), column("group")),
            "prompt_id": (
                [prompt.id for prompt in prompts],
                "key",
                "position in the prompt file, from 0",
            ),
            "cluster": (
                [prompt.cluster for prompt in prompts],
                "key",
                "prompts that are not independent of each other share a cluster",
            ),
            "held": (
                [prompt.cluster in held_out for prompt in prompts],
                "flag",
                "of the held-out split, which evaluates a strength",
            ),
            "number": (column("number"), "measure", labels.number, labels.prompt_unit),
            "kl": (
                column("kl"),
                "measure",
                "KL of the next token, unscaled fine-tuned model || scaled",
                "nats",
            ),
            "flip": (
                column("flip"),
                "flag",
                "the top next token differs from the fine-tuned model's",
            ),
        }
        if not self.new_tokens:
            return columns
        texts = [study.decode(answer) for answer in answers]
        columns |= {
            labels.column: (
                [
                    bool(metric.exhibits([prompt], [text], group)[0])
                    for prompt, text, group in zip(prompts, texts, column("group"), strict=True)
                ],
                "flag",
                labels.flag,
            ),
            "matches_tuned": (
                [row["answer"] == row["tuned"] for row in rows],
                "flag",
                "token for token the fine-tuned model's answer",
            ),
            "malformed": (
                [
                    is_malformed(answer, stops, bool(tuned) and tuned[-1] in stops)
                    for answer, tuned in zip(answers, column("tuned"), strict=True)
                ],
                "flag",
                "empty, without an end where the fine-tuned model's answer has one, or repeating"
                " itself",
            ),
        }
        return columns | ({"text": (texts, "text", "the answer")} if self.keep_text else {})


def scaled(study: Study, way: str, alpha: float) -> AbstractContextManager:
    """Context in which the fine-tuned model is scaled."""
    if way == WEIGHTS:
        return interpolated(study.pair, alpha)
    tuned = study.pair.tuned
    return coupled_forward(
        tuned, study.pair.require_base("scaling"), [alpha] * tuned.anatomy.n_layers
    )


def _numbers_and_logits(study: Study, group: str) -> tuple[np.ndarray, Tensor]:
    """The metric's number of every prompt (NaN where it has none), and the logits that it is
    computed from.
    """
    model, posed = study.pair.tuned, study.decision_inputs(group)
    number, logits = np.full(len(posed), np.nan), [torch.zeros(0)] * len(posed)
    for rows in study.batches(posed, model):
        batch, _ = make_batch(posed, rows, study.pad_id, model.device)
        applies = study.require_metric("scaling").applies(group)
        aim = study.objective(group, rows) if applies else None
        run = study.engine.run(model, batch, keep=aim.keep if aim else 1)
        if aim:
            number[rows] = to_host(aim.function(run.require_logits()))
        first = group_by_prompt(run.require_logits(), len(rows))[:, 0]
        for row, last in zip(rows, first[:, -1], strict=True):
            logits[row] = last
    return number, torch.stack(logits)


def _generate_answers(study: Study, group: str, new_tokens: int) -> list[list[int]]:
    """Greedy answers as token ids; empty ones where ``new_tokens`` is 0."""
    model = study.pair.tuned
    answers: list[list[int]] = [[] for _ in study.encoded(group)]
    for rows in study.groups(group, model) if new_tokens else ():
        for row, answer in zip(
            rows, generate(study.engine, model, study.text(group, rows), new_tokens), strict=True
        ):
            answers[row] = answer
    return answers


def _held_out_clusters(study: Study) -> set[str]:
    """Clusters of the held-out split, which evaluate a strength; the others choose it."""
    names = sorted(set(study.prompts("positive").clusters))
    return set(map(str, np.random.default_rng(study.seed).permutation(names)[: len(names) // 2]))


def _key_columns(ways: list[str], alphas: list[float], groups: list[str]) -> dict[str, tuple]:
    return {
        "way": (ways, "key", "what is scaled: each block's update, or all weights"),
        "alpha": (alphas, "measure", "strength: 0 is the base's, 1 the fine-tuned model's"),
        "group": (groups, "key", "class of the prompt"),
    }


def _mean_columns(labels: MetricLabels, prompts: Table) -> dict[str, tuple]:
    """Means over the prompts of every way, strength and class."""
    keys = list(dict.fromkeys(zip(prompts["way"], prompts["alpha"], prompts["group"], strict=True)))
    masks = [
        (prompts["way"] == way) & (prompts["alpha"] == alpha) & (prompts["group"] == group)
        for way, alpha, group in keys
    ]
    intervals = [
        cluster_interval(
            as_binary(prompts["number"][mask], labels.prompt_unit), prompts["cluster"][mask]
        )
        for mask in masks
    ]

    def means(column: str) -> np.ndarray:
        return np.array([float(prompts[column][mask].mean()) for mask in masks])

    columns = {
        **_key_columns(*map(list, zip(*keys, strict=True))),
        "n": ([int(mask.sum()) for mask in masks], "measure", "prompts"),
        "number": (means("number"), "measure", f"mean {labels.number}", labels.unit),
        "low": (
            [interval.low for interval in intervals],
            "measure",
            "lower end of its 95 % interval over clusters",
        ),
        "high": (
            [interval.high for interval in intervals],
            "measure",
            "upper end of its 95 % interval over clusters",
        ),
        "kl": (
            means("kl"),
            "measure",
            "mean KL of the next token, unscaled fine-tuned model || scaled",
            "nats",
        ),
        "flips": (means("flip"), "measure", "share of prompts with another top next token"),
    }
    of_answers = {
        labels.column: labels.share,
        "matches_tuned": "share answered exactly as the fine-tuned model answers",
        "malformed": "share malformed",
    }
    return columns | {
        name: (means(name), "measure", meaning)
        for name, meaning in of_answers.items()
        if name in prompts.data
    }


def _gain_claims(labels: MetricLabels, prompts: Table, ways: Sequence[str]) -> list[Claim]:
    """Claim of the gain of the chosen strength on the held-out split; empty where a split has no
    prompts.
    """
    held_out = prompts["held"][prompts["group"] == "positive"]
    if held_out.all() or not held_out.any():
        return []
    alpha = _best_alpha(prompts, BLOCKS)
    number, unit = escape_braces(labels.number), escape_braces(labels.unit)
    control, compared = "the unscaled fine-tuned model, on the same prompts", ""
    reference = mean(
        "number",
        table="prompts",
        where={"way": BLOCKS, "group": "positive", "held": True, "alpha": 1.0},
    )
    if WEIGHTS in ways:
        weights_alpha = _best_alpha(prompts, WEIGHTS)
        control = "interpolated weights, at their own choice"
        reference = _gain_over_unscaled(WEIGHTS, weights_alpha)
        compared = (
            f" (interpolated weights, at their own choice of {weights_alpha:g}: {{control:+.3g}})"
        )
    sentence = (
        f"Scaling the fine-tuning contribution of every block to strength {alpha:g}, chosen on half"
        f" of the clusters, raises the mean {number} of the other half by {{value:.3g}} {unit}"
        f" [{{low:.3g}}, {{high:.3g}}]{compared}."
    )
    if alpha == 1:
        sentence = (
            f"On half of the clusters no other strength gave a higher mean {number} than strength"
            f" 1{compared}."
        )
    return [
        Claim(
            name="alpha-gain",
            estimate=_gain_over_unscaled(BLOCKS, alpha),
            at_least=0.0,
            reference=reference,
            control=control,
            text=sentence,
        )
    ]


def _gain_over_unscaled(way: str, alpha: float) -> Estimate:
    """Mean number at one strength minus that of the same prompts at strength 1, on the held-out
    split.
    """
    rows = {"way": way, "group": "positive", "held": True}
    minus = {"where": rows | {"alpha": 1.0}}
    return mean(
        "number", table="prompts", where=rows | {"alpha": alpha}, minus=minus, pair="prompt_id"
    )


def _weights_claim(labels: MetricLabels, alphas: Sequence[float]) -> Claim:
    """Claim: the behaviour's rate with scaled blocks minus that with interpolated weights, over all
    strengths.
    """
    blocks, weights = (
        {"group": "positive", "alpha": list(alphas), "way": way} for way in (BLOCKS, WEIGHTS)
    )
    return Claim(
        name="blocks-against-weights",
        estimate=mean(
            labels.column,
            table="prompts",
            where=blocks,
            minus={"where": weights},
            pair=["prompt_id", "alpha"],
        ),
        at_least=0.0,
        reference=mean(labels.column, table="prompts", where=weights),
        control="interpolated weights, at the same strengths",
        text=(
            f"Over the strengths {', '.join(f'{alpha:g}' for alpha in alphas)} the"
            f" {escape_braces(labels.share)} is {{blocks:.1%}} with scaled blocks, {{value:+.1%}}"
            " [{low:+.1%}, {high:+.1%}] compared with interpolated weights ({control:.1%})."
        ),
        also={"blocks": mean(labels.column, table="prompts", where=blocks)},
    )


def _best_alpha(prompts: Table, way: str) -> float:
    """The strength with the largest mean number on the selection split; among equal ones the
    nearest to 1.
    """
    mask = (prompts["way"] == way) & (prompts["group"] == "positive") & ~prompts["held"]
    alphas = sorted(set(map(float, prompts["alpha"])), key=lambda alpha: (abs(alpha - 1), alpha))
    return max(
        alphas, key=lambda alpha: prompts["number"][mask & (prompts["alpha"] == alpha)].mean()
    )
