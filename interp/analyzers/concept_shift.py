"""``ConceptShift``: which concepts of a base's hidden states tuning moves, and whether each moves in its own way.

1. Both models read the prompts; states of a site at content tokens are kept, the same tokens of both.
2. On one half of the clusters concepts are made of the base's states by k-means, and their shifts measured.
3. On the other half the tuned model's own concepts are made: do shifted concepts come nearer to those?
"""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from interp import claims
from interp.analyzers.base import Analyzer
from interp.capture import capture
from interp.claims import Claim
from interp.dictionaries import shift as shifts
from interp.dictionaries.reading import Texts
from interp.errors import OptionError
from interp.maths.host import to_host
from interp.maths.statistics import clopper_pearson, clustered_bootstrap
from interp.prompts import CONTENT, PromptSet, apart, turns
from interp.sites import Site
from interp.study import Study
from interp.table import Table, table

NAN, ALPHA = float("nan"), 0.05


@dataclass(frozen=True)
class ConceptShift(Analyzer):
    """``concepts`` concepts of ``site`` over the study's prompts; needs a base (arXiv 2501.03012).

    At most ``tokens`` content tokens are kept, the last of every prompt first. ``draws`` of each null. Returns a table
    of kind ``concept-shift``, one row per concept, with ``words`` (a concept's commonest tokens).
    """

    name: ClassVar[str] = "concept-shift"
    version: ClassVar[int] = 3

    site: str = ""
    concepts: int = 20
    tokens: int = 20_000
    draws: int = 199
    parent: str | None = None

    def require(self) -> Site:
        """The site; OptionError for numbers that mean nothing."""
        if self.concepts < 1:
            raise OptionError(f"{self.concepts} concepts cannot be made; ask for 1 or more")
        if self.tokens < 2 * shifts.FEWEST or self.draws < 1:
            raise OptionError(f"{self.tokens} tokens and {self.draws} draws are too few to shift a concept by")
        return Site.parse(self.site)

    def __call__(self, study: Study) -> Table:
        """One pass, concepts, shifts, recovery."""
        site = self.require()
        a, b, ids, documents, clusters = self._states(study, site)
        names = np.unique(clusters, return_inverse=True)[1]
        whole = Texts.of(ids, documents, names, study.seed)
        mine, other = whole.training, ~whole.training
        if min(mine.sum(), other.sum()) < max(2 * shifts.FEWEST, self.concepts):
            raise OptionError(
                f"{len(ids)} content tokens leave {min(mine.sum(), other.sum())} in a half, too few for "
                f"{self.concepts} concepts; give more prompts or ask for fewer concepts"
            )
        member = shifts.clustered(a[mine], self.concepts, study.seed)
        half = Texts(ids[mine], whole.documents[mine], names[mine], np.ones(int(mine.sum()), bool))
        found = shifts.ConceptShift(self.draws, study.seed)(a[mine], b[mine], member, half, self.concepts)
        theirs = shifts.clustered(b[other], self.concepts, study.seed)
        nearer = shifts.recovery(found, shifts.means(b[other], theirs, self.concepts))
        columns = self._columns(found, nearer, a[mine])
        made = self._claims(columns, study.seed)
        few = int((columns["tokens"][0] < shifts.FEWEST).sum())
        return table(
            self.name, columns, provenance=study.provenance(self),
            summary={
                "sentence": " ".join(claim.sentence for claim in made) or "No concept had tokens enough.",
                "shown": bool(made) and all(claim.shown for claim in made),
                "site": self.site, "concepts": self.concepts, "kept": len(ids),
                "mean_shift": float(np.linalg.norm(found.overall)), "positive": len(study.prompts("positive")),
                **({"negative": len(study.prompts("negative"))} if "negative" in study.classes else {}),
                "limits": [
                    "Concepts by k-means depend on their number; a shift is of a group of tokens, not of a meaning.",
                    *([f"{few} concepts have fewer than {shifts.FEWEST} tokens and no shift."] if few else []),
                ],
            },
            tables={"words": self._words(study, ids[mine], member), "claims": claims.to_table(made)},
        )  # fmt: skip

    def _states(self, study: Study, site: Site) -> tuple[np.ndarray, ...]:
        """States of base and tuned model [N, D] at kept tokens, their ids, documents and clusters, in file order."""
        models = {"base": study.pair.require_base("a shift of concepts"), "tuned": study.pair.tuned}
        for model in models.values():
            model.at(site)
        encoded = [apart(study.pair.tokenizer, one) for group in study.classes for one in study.encoded(group)]
        prompts = PromptSet(tuple(prompt for group in study.classes for prompt in study.prompts(group)), "")
        clusters, texts = prompts.clusters, set(prompts.sample(len(prompts)))
        places = [np.flatnonzero(np.array(coded.roles) == CONTENT) for coded in encoded]
        generator = np.random.default_rng(study.seed)
        each = max(1, self.tokens // len(texts))
        order = [row for row in generator.permutation(len(encoded)).tolist() if row in texts]
        turn = turns([clusters[row] for row in order])
        kept = {order[at] for at in np.argsort(turn, kind="stable")[: self.tokens]}
        places = [own if row in kept else own[:0] for row, own in enumerate(places)]
        kept = [np.sort(generator.permutation(own[:-1])[: each - 1].tolist() + own[-1:].tolist()).astype(np.int64)
                for own in places]  # fmt: skip
        states: dict[str, list[np.ndarray]] = {role: [np.zeros(0)] * len(encoded) for role in models}
        groups = study.progress(study.batches(encoded, models["tuned"], 8 * models["tuned"].anatomy.width), "states")
        for got in capture(study.engine, models, encoded, groups, [site], pad_id=study.pad_id, side="right"):
            for number, row in enumerate(to_host(got.rows).tolist()):
                for role in models:
                    value = got.values[role, site][number, : len(encoded[row].ids)]
                    states[role][row] = to_host(value).astype(np.float64)[kept[row]]
        documents = np.repeat(np.arange(len(encoded)), [len(own) for own in kept])
        ids = np.concatenate([np.array(coded.ids)[own] for coded, own in zip(encoded, kept, strict=True)])
        return (
            *(np.concatenate(states[role]) for role in ("base", "tuned")),
            ids.astype(np.int64),
            documents,
            np.array(clusters, dtype=object)[documents],
        )

    def _columns(self, found: shifts.Shifts, nearer: shifts.Recovery, a: np.ndarray) -> dict[str, tuple]:
        size = float(np.sqrt(np.square(a - a.mean(0)).sum(1).mean()))
        exchange, permuted = shifts.corrected(found.exchange_p), shifts.corrected(found.permuted_p)
        columns = {
            "concept": (np.arange(self.concepts), "key", "number of the concept, by falling size"),
            "tokens": (found.tokens, "measure", "tokens of it in the half that makes concepts"),
            "shift": (found.size, "measure", "length of its mean shift"),
            "relative": (found.size / size if size else found.size, "measure", "the same over the spread of the base's "
                         "states"),
            "own": (found.own, "measure", "length of its shift beyond the mean shift of all tokens"),
        }  # fmt: skip
        said = {"pairwise": "mean cosine of two tokens' shifts, of different clusters",
                "aligned": "mean cosine of a token's shift and its concept's"}  # fmt: skip
        for name, meaning in said.items():
            value, low, high = getattr(found, name).T
            columns[name] = (value, "measure", meaning)
            columns[f"{name}_low"] = (low, "measure", f"lower end of its interval over clusters: {meaning}")
            columns[f"{name}_high"] = (high, "measure", f"upper end of its interval over clusters: {meaning}")
        return columns | {
            "exchange_p": (exchange, "measure", "p that models exchanged by document shift it as far, corrected"),
            "permuted_p": (permuted, "measure", "p that concepts put onto other clusters have a shift as far from the "
                           "mean's, corrected"),
            "measured": (np.isfinite(found.size), "flag", "it has tokens enough"),
            "shifted": (np.nan_to_num(exchange, nan=1.0) <= ALPHA, "flag", "it moves more than exchanged models do"),
            "own_way": (np.nan_to_num(permuted, nan=1.0) <= ALPHA, "flag", "it moves otherwise than tokens at large"),
            "match": (nearer.match, "measure", "the tuned model's concept that it is paired with, -1 for none"),
            "gain": (nearer.gain, "measure", "how much nearer to that its shift brings it, on held-out clusters"),
            "gain_overall": (nearer.by_overall, "measure", "the same of the mean shift of all tokens"),
            "cosine_gain": (nearer.cosine_gain, "measure", "rise of the cosine with that"),
            "paired": (np.isfinite(nearer.gain), "flag", "it has a shift and a partner"),
        }  # fmt: skip

    def _claims(self, columns: dict[str, tuple], seed: int) -> list[Claim]:
        made, measured, paired = [], columns["measured"][0], columns["paired"][0]
        told = (
            ("concepts-shift", "shifted", "concepts move more than exchanging the models does", "models exchanged"),
            ("concepts-own-way", "own_way", "move otherwise than tokens at large", "concepts put onto other clusters"),
        )
        for name, column, said, control in told if measured.any() else ():
            flags = columns[column][0][measured]
            count, total = int(flags.sum()), len(flags)
            low, high = clopper_pearson(count, total)
            made.append(Claim(
                name, f"{count} of {total} {said}.", count / total, low, high, f"{control}, corrected", ALPHA, NAN, NAN,
                NAN, ALPHA, "at least", bool(low > ALPHA),
                {"table": "", "statistic": "share", "column": column, "where": {"measured": [True]}},
            ))  # fmt: skip
        if paired.any():
            own, other = columns["gain"][0][paired], columns["gain_overall"][0][paired]
            concepts = columns["concept"][0][paired]
            value, low, high = clustered_bootstrap(own, concepts, minus=other, seed=seed)
            made.append(Claim(
                "shift-recovers",
                f"Its own shift brings a concept {own.mean():.3g} nearer to the tuned model's on held-out clusters, "
                f"the mean shift of all tokens {other.mean():.3g}.",
                value, low, high, "the mean shift of all tokens", *clustered_bootstrap(other, concepts, seed=seed), NAN,
                0.0, "at least", bool(low > 0),
                {"table": "", "statistic": "mean", "column": "gain", "where": {"paired": [True]},
                 "minus": {"column": "gain_overall"}},
            ))  # fmt: skip
        return made

    def _words(self, study: Study, ids: np.ndarray, member: np.ndarray, most: int = 8) -> Table:
        rows = []
        for concept in range(self.concepts):
            tokens, counts = np.unique(ids[member == concept], return_counts=True)
            for rank, at in enumerate(np.argsort(-counts, kind="stable")[:most]):
                token = int(tokens[at])
                rows.append((concept, rank, token, study.pair.tokenizer.decode([token]), int(counts[at])))
        concepts, ranks, tokens, words, counts = zip(*rows, strict=True)
        return table("concept-words", {
            "concept": (list(concepts), "key", "number of the concept"),
            "rank": (list(ranks), "key", "by falling count, from 0"), "token_id": (list(tokens), "key", "its id"),
            "token": (list(words), "text", "the token"), "count": (list(counts), "measure", "times it is in it"),
        })  # fmt: skip
