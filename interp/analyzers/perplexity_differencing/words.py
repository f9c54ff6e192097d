"""Words that a model writes in more of its samples, or in fewer, than the base does."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence

import numpy as np

from interp.analyzers.perplexity_differencing.compute import Samples
from interp.experiments.discovery import of_shared_items
from interp.models.pair import Pair
from interp.rows import key, measure, rows_table, text
from interp.table import Table

SPREAD = 0.05
"""Standard deviation between models that all words share, as a share of samples."""
WORDS_LISTED = 50
CONTEXT = 40
_WORD = re.compile(r"[^\W\d_]+(?:['\u2019][^\W\d_]+)*")


class WordRow:
    """A row per word, furthest from the controls first."""

    word: str = key("the word, in lower case")
    share: float = measure("share of the fine-tuned model's samples that have it")
    base_share: float = measure("share of the base's samples, after the same prefills")
    rise: float = measure("share minus the base's")
    control_low: float = measure("smallest rise of a control", optional=True)
    control_high: float = measure("largest rise of a control", optional=True)
    statistic: float = measure("rise minus the controls' mean, over their spread")
    example: str = text("a sample with it, marked by « and »: of the base where its share fell")


def words_table(kind: str, pair: Pair, samples: Samples) -> Table:
    """Words by how much more often the samples of the fine-tuned model have them.

    A description: words are counted in samples of any length, and a few samples decide.
    """
    written = [samples.base, *(model.samples for model in samples.models)]
    texts = [_decoded(pair, of_model) for of_model in written]
    counts = [
        Counter(
            word
            for at, sample in enumerate(of_model)
            for word in set(_words(sample, samples.framing[at] == "raw"))
        )
        for of_model in texts
    ]
    words = sorted(set().union(*counts))
    shares = np.array([[count[word] for word in words] for count in counts], np.float64)
    shares = shares.reshape(len(counts), len(words)) / max(len(samples.prefills), 1)
    evidence = of_shared_items(shares[1:] - shares[0], SPREAD, limit=WORDS_LISTED)
    listed = [words[at] for at in evidence.rows]
    of_controls = {
        f"control_{name}": over(evidence.controls, axis=0)
        for name, over in (("low", np.min), ("high", np.max))
        if len(evidence.controls)
    }
    return rows_table(
        WordRow,
        kind,
        {
            "word": listed,
            "share": shares[1, evidence.rows],
            "base_share": shares[0, evidence.rows],
            "rise": evidence.score,
            **of_controls,
            "statistic": evidence.statistic,
            "example": [
                _example(texts[1 if rise > 0 else 0], word, samples.framing)
                for word, rise in zip(listed, evidence.score, strict=True)
            ],
        },
    )


def _decoded(pair: Pair, samples: Sequence[Sequence[int]]) -> list[str]:
    return [pair.decode(sample, skip_special_tokens=True) for sample in samples]


def _words(sample: str, continues: bool) -> list[str]:
    """The words of a sample; the first is left out where it may go on with a word of the prefill,
    and the last where it may go on.
    """
    found = list(_WORD.finditer(sample))
    if found and continues and found[0].start() == 0:
        found = found[1:]
    if found and found[-1].end() == len(sample):
        found = found[:-1]
    return [one.group().lower() for one in found]


def _example(samples: Sequence[str], word: str, framing: Sequence[str]) -> str:
    for sample, how in zip(samples, framing, strict=True):
        if word not in _words(sample, how == "raw"):
            continue
        where = next(one for one in _WORD.finditer(sample) if one.group().lower() == word)
        start, end = where.span()
        return (
            f"{sample[max(0, start - CONTEXT) : start]}«{where.group()}»"
            f"{sample[end : end + CONTEXT]}"
        )
    return ""
