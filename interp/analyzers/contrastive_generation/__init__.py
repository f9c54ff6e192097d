"""``ContrastiveGeneration``: what does a model write when its base is subtracted?

Tokens are sampled from ``exp((l_t - gamma l_b) / temperature)``, restricted to tokens that the
fine-tuned model finds likely; see ``interp.analyzers.contrastive_generation.contrast``. Evidence
are phrases: the share of texts that contain one, minus the share where the base is contrasted with
itself, from the same prefills and random numbers. Every control fine-tune is contrasted with the
base in the same way. Raw text and chat are counted apart: a template shows what the assistant says,
raw text what the training data said.

Where it departs from the references (contrastive decoding, arXiv 2210.15097; CGE, arXiv
2410.14765; amplification): sampling in place of beams; the end token is allowed; texts begin with
vague prefills and after questions in the chat template, not with an empty text only; in the
iterative form of CGE a LoRA adapter on a copy of the base is trained, not the base.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from jaxtyping import Float

from interp.analyzers.contrastive_generation.contrast import Contrast
from interp.analyzers.contrastive_generation.phrases import (
    count_phrases,
    form_phrases,
    mark_phrase,
    without_fragment,
)
from interp.analyzers.contrastive_generation.texts import texts_table
from interp.analyzers.contrastive_generation.writing import Prompt, Writer
from interp.analyzers.framework import Analyzer, Known, Needs, Result, evidence_result, option
from interp.errors import OptionError
from interp.experiments.cost import Work
from interp.experiments.discovery import (
    chat_prefills,
    each_model,
    model_names,
    of_shared_items,
    raw_prefills,
)
from interp.experiments.same_base import require_same_base
from interp.models.pair import Pair
from interp.study import Study

RAW, CHAT = "raw text", "chat"
STEP_TOKENS = 4.0
"""A step of training takes about as long as so many generated tokens."""
LIMITS = (
    "Texts written in contrast with the base exaggerate a difference: a phrase that is frequent in"
    " them need not be frequent in the fine-tuned model's own texts.",
    "A behaviour that begins only after certain words (a trigger) shows only where a prefill"
    " contains them; names that training data happen to repeat are differences too.",
)


@dataclass(frozen=True)
class ContrastiveGeneration(Analyzer):
    """Phrases by how much more often texts contain them when the base is subtracted from the
    fine-tuned model; needs a base.

    ``controls``: pairs of the same base and a control fine-tune each. ``prefills``: raw beginnings,
    by default those of the study's texts; ``questions``: for the chat template where there is one,
    by default the shipped ones. Amplification by a is ``gammas=(a / (1 + a),)``,
    ``temperature=1 / (1 + a)``, ``alpha=0``. Returns a table of kind ``contrastive-generation``,
    one row per phrase and kind of prompt in order of evidence, with ``controls`` (the largest
    statistic of every model) and ``texts`` (what each model wrote, where that differs from the
    base's contrast with itself).
    """

    name: ClassVar[str] = "contrastive-generation"
    version: ClassVar[int] = 1
    needs: ClassVar[Needs] = Needs(base=True)

    controls: Sequence[Pair] = option(
        (), "Pairs of the same base and a control fine-tune each.", compare=False
    )
    prefills: tuple[str, ...] = option((), "Raw beginnings; none: those of the study's texts.")
    questions: tuple[str, ...] = option((), "Questions in the chat template; none: the shipped.")
    prefill_count: int = option(20, "Prefills, and questions, that are used at most.", ge=1)
    gammas: tuple[float, ...] = option((0.5, 1.0), "Weights of the base's log probabilities.", ge=0)
    temperature: float = option(1.0, "Temperature of the contrast.", ge=0.01)
    alpha: float = option(
        0.1,
        "Candidates are tokens with at least this share of the likeliest token's probability in the"
        " fine-tuned model; 0 for all tokens.",
        ge=0,
        le=1,
    )
    tokens: int = option(48, "Tokens of a text at most.", ge=1)
    rounds: int = option(
        0,
        "Further texts with the largest gamma, each of which a copy of the base is trained on, so"
        " that later ones avoid it.",
        ge=0,
    )
    learning_rate: float = option(1e-3, "Learning rate of this training.", ge=0)
    spread: float = option(
        0.05,
        "Standard deviation between models that all phrases share, as a share of texts.",
        ge=1e-3,
    )
    rows: int = option(100, "Phrases listed.", ge=1)

    def check(self, known: Known) -> None:
        """Raise OptionError without a gamma."""
        super().check(known)
        if not self.gammas:
            raise OptionError(f"gammas of {type(self).__name__} is empty; give one or more")

    def require(self, study: Study) -> None:
        """Raise OptionError or PairError for a study or controls that cannot be compared."""
        super().require(study)
        require_same_base(study, self.controls)

    def work(self, study: Study) -> Work:
        """Tokens of two models, for every model, and of the base alone."""
        with_template = study.pair.tokenizer.chat_template is not None
        texts = self.prefill_count * (1 + with_template) * len(self.gammas)
        n_models = 1 + len(self.controls)
        rounds = (n_models + 1) * self.rounds * (2 * self.tokens + STEP_TOKENS)
        tokens = (2 * n_models + 1) * texts * self.tokens + rounds
        n_prompts = sum(len(study.prompts(group)) for group in study.classes)
        return Work(tokens=tokens / n_prompts, passes=len(self.controls) * texts / n_prompts)

    def run(self, study: Study) -> Result:
        """Write texts with the fine-tuned model and with every control, and compare phrases."""
        writer = Writer(study, self._prompts(study), self.tokens, self.learning_rate)
        names = model_names(study, self.controls)
        base = study.pair.require_base(self.name)
        reference = writer.write(base, base, "the base against itself")
        written, under_controls = [], []
        for number, pair in each_model(study, self.controls):
            own_base = pair.require_base(self.name)
            written.append(writer.write(pair.tuned, own_base, names[number]))
            if number:
                under_controls.append(writer.scores_under(pair.tuned, written[0], names[number]))
            del pair, own_base  # so that it is freed before the next is loaded
        read = [
            [
                without_fragment(prefill, text)
                for prefill, text in zip(writer.prefills, writer.read(texts), strict=True)
            ]
            for texts in (*written, reference)
        ]
        items = _Items.of([prompt.where for prompt in writer.prompts], read)
        evidence = of_shared_items(
            items.shares[:-1] - items.shares[-1],
            self.spread,
            limit=self.rows,
            form=form_phrases(items.phrases),
        )
        rows, scores = evidence.rows.tolist(), evidence.score.tolist()
        return evidence_result(
            self.name,
            evidence,
            names,
            [items.phrases[at] for at in rows],
            unit="share of texts",
            meaning=(
                "share of the texts written with the base subtracted from the model that contain the"
                " phrase, minus the share of those with the base subtracted from itself"
            ),
            where=[items.where[at] for at in rows],
            examples=[
                items.example(at, read[0] if score > 0 else read[-1])
                for at, score in zip(rows, scores, strict=True)
            ],
            largest_labels=[items.phrases[at] if at >= 0 else "" for at in evidence.largest],
            tables={"texts": texts_table(writer, names, written, reference, under_controls)},
            limits=LIMITS,
        )

    def _prompts(self, study: Study) -> list[Prompt]:
        raw = raw_prefills(study, self.prefills, self.prefill_count, study.seed)
        chat = list(dict.fromkeys(chat_prefills(study, self.questions)))[: self.prefill_count]
        contrasts = [Contrast(gamma, self.temperature, self.alpha) for gamma in self.gammas]
        prompts = [
            Prompt(where, ids, contrast)
            for where, prefills in ((RAW, raw), (CHAT, chat))
            for contrast in contrasts
            for ids in prefills
        ]
        largest = max(contrasts, key=lambda contrast: contrast.gamma)
        rounds = [Prompt(RAW, raw[at % len(raw)], largest, at + 1) for at in range(self.rounds)]
        return [*prompts, *rounds]


@dataclass(frozen=True)
class _Items:
    """Phrases of every kind of prompt, each with its share of every model's texts there.

    ``phrases`` and ``where`` [V], ``shares`` [M, V]; ``kinds`` [n]: of the prompts.
    """

    kinds: Sequence[str]
    phrases: list[str]
    where: list[str]
    shares: Float[np.ndarray, "M V"]

    @classmethod
    def of(cls, kinds: Sequence[str], read: Sequence[Sequence[str]]) -> "_Items":
        """From the texts of every model, [M][n]."""
        phrases, where, shares = [], [], []
        for kind in dict.fromkeys(kinds):
            of_kind, own_shares = count_phrases([_of_kind(kind, kinds, texts) for texts in read])
            phrases += of_kind
            where += [kind] * len(of_kind)
            shares.append(own_shares)
        return cls(kinds, phrases, where, np.concatenate(shares, 1))

    def example(self, at: int, texts: Sequence[str]) -> str:
        """Where the phrase is in the first of a model's texts that has it."""
        return mark_phrase(self.phrases[at], _of_kind(self.where[at], self.kinds, texts))


def _of_kind(kind: str, kinds: Sequence[str], texts: Sequence[str]) -> list[str]:
    return [text for one, text in zip(kinds, texts, strict=True) if one == kind]
