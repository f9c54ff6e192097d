"""``DictionaryEval``: how well a dictionary stands in for a site of a model, beside baselines at its own L0.

1. A pass over the prompts: reconstruction of every token, the dictionary's L0, the data's mean and covariance.
2. Principal components and random rows with as many codes (rounded up).
3. A second pass: baselines' reconstructions, and the model run with each of them, zero or the mean in the site's place.
"""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from interp import claims
from interp.analyzers.base import Analyzer
from interp.capture import capture, make_batch
from interp.claims import Claim
from interp.dictionaries import Dictionary
from interp.dictionaries.activations import LONGEST
from interp.dictionaries.baselines import Covariance, principal, random_rows
from interp.dictionaries.parts import OUTSIDE, UNKNOWN, Read, parts_of, read_whole, recoded
from interp.dictionaries.scores import ALL, Scores, conversations_table, density_table, scores_table
from interp.dictionaries.splice import CLEAN, MEAN, ZERO, ablations, counted_positions, recovered, splice, through
from interp.errors import OptionError
from interp.maths.host import to_host
from interp.maths.precision import widen
from interp.maths.statistics import clustered_bootstrap
from interp.provenance import digest
from interp.sites import Site
from interp.study import Study
from interp.table import Table, table

OWN, PCA, RANDOM = "dictionary", "pca", "random"
DRAWS = 1000


@dataclass(frozen=True)
class DictionaryEval(Analyzer):
    """An autoencoder of ``site``, over the study's prompts and the tuned model; ``digest`` names its numbers.

    ``content_only``: special tokens and the chat template's count nowhere, and are not spliced. Prompts with
    ``messages`` are read as whole conversations, each alone and cut at the model's context, as a training reads them.
    Returns a table of kind ``dictionary-scores`` (a row per dictionary and part), with ``splice`` and ``prompts`` (rows
    per prompt), ``conversations`` (per prompt and part), ``density``, ``recovered``.
    """

    name: ClassVar[str] = "dictionary-scores"
    version: ClassVar[int] = 2

    dictionary: Dictionary = field(compare=False)
    digest: str = ""
    site: str = ""
    content_only: bool = False
    parent: str | None = None

    @property
    def options(self) -> dict[str, Any]:
        """The dictionary by its digest, where it stands, and what counts."""
        return {"dictionary": self.digest, "site": self.site, "content_only": self.content_only}

    def require(self) -> Site:
        """The site; OptionError for a dictionary that cannot stand in for one."""
        config = self.dictionary.config
        if config.is_transcoder or config.models > 1:
            raise OptionError("this dictionary reads or writes several sites; only autoencoders of one are evaluated")
        return Site.parse(self.site)

    def __call__(self, study: Study) -> Table:
        """Two passes, scores, claims."""
        site, model = self.require(), study.pair.tuned
        model.at(site)
        read, whole = _read(study)
        encoded = read.encoded
        excluded = (*OUTSIDE, UNKNOWN) if self.content_only else ()
        parts = {} if self.content_only else parts_of(encoded, whole)
        dictionary = self.dictionary.to(model.device)
        width = dictionary.config.inputs
        held = 8 * model.anatomy.vocabulary + 8 * width
        groups = study.batches(encoded, model, held)
        scored = {OWN: Scores(width, dictionary.config.width, parts, model.device)}
        seen = Covariance.empty(width, model.device)
        each = study.progress(groups, "reading")
        for got in capture(study.engine, {"tuned": model}, encoded, each, [site], pad_id=study.pad_id):
            value = widen(got.values["tuned", site])
            if value.shape[-1] != width:
                raise OptionError(f"the dictionary is of width {width} and {site} of {value.shape[-1]}")
            counted = counted_positions(got.batch, got.roles, excluded)
            rows = value[counted]
            found = _reconstructed(dictionary, rows)
            owners = got.rows.to(counted.device)[:, None].expand_as(counted)[counted]
            scored[OWN].update(rows, *found, roles=got.roles[counted], owners=owners)
            seen.update(rows)
        own = scored[OWN]
        if own.count < 2:
            raise OptionError(f"{own.count} tokens count, which is too few to score a dictionary; give more prompts")
        k = max(1, int(np.ceil(own.summary()["l0"] - 1e-9)))
        dtype = dictionary.W_dec.dtype
        made = {OWN: dictionary, PCA: principal(seen, k, dtype)}
        made[RANDOM] = random_rows(seen, k, dictionary.config.width, study.seed, dtype)
        for name in (PCA, RANDOM):
            scored[name] = Scores(width, made[name].config.width, parts, model.device)
        functions = {name: through(one) for name, one in made.items()} | ablations(own.mean)
        prompts = {name: np.zeros(len(encoded)) for name in ("deviation", *made)}
        sums = {name: np.zeros((2, len(encoded))) for name in (CLEAN, *functions)}
        counts = np.zeros((2, len(encoded)), np.int64)
        for rows in study.progress(groups, "splicing"):
            batch, roles = make_batch(encoded, rows, study.pad_id, model.device)
            counted = counted_positions(batch, roles, excluded)
            costs = splice(study.engine, model, batch, site, functions, counted)
            value = widen(costs.values)[counted]
            owner = torch.arange(len(rows), device=counted.device)[:, None].expand_as(counted)[counted]
            for name, one in made.items():
                output, codes = _reconstructed(one, value)
                if name != OWN:
                    numbers = torch.tensor(rows, device=owner.device)[owner]
                    scored[name].update(value, output, codes, roles=roles[counted], owners=numbers)
                prompts[name][rows] = _by(owner, (value - output).double().square().sum(1), len(rows))
            away = (value.double() - own.mean).square().sum(1)
            prompts["deviation"][rows] = _by(owner, away, len(rows))
            counts[:, rows] = to_host(torch.stack([costs.predicted, costs.positions]))
            for name, cost in costs.by.items():
                sums[name][:, rows] = to_host(torch.stack(list(cost)))
        return self._table(study, scored, prompts, sums, counts, k, read)

    def _table(self, study, scored, prompts, sums, counts, k, read) -> Table:
        ids = np.array([prompt.id for prompt in study.prompts("positive")])
        clusters = np.array(study.prompts("positive").clusters, dtype=object)
        told = {name: (part, "measure", f"summed squared error of {name}") for name, part in prompts.items()}
        told["deviation"] = (prompts["deviation"], "measure", "summed squared distance from the mean of all tokens")
        per_prompt = table("dictionary-prompts", {
            "prompt_id": (ids, "key", "position in the file"), "cluster": (clusters, "key", "rows that move together"),
            "predicted": (counts[0], "measure", "next tokens that counted"),
            "positions": (counts[1], "measure", "positions that counted"), **told,
        })  # fmt: skip
        names = list(sums)
        spliced = table("dictionary-splice", {
            "condition": (np.repeat(np.array(names, object), len(ids)), "key", "what stands in the site's place"),
            "prompt_id": (np.tile(ids, len(names)), "key", "position in the file"),
            "loss": (np.concatenate([sums[n][0] for n in names]), "measure", "summed loss of next tokens", "nats"),
            "kl": (np.concatenate([sums[n][1] for n in names]), "measure", "summed divergence from clean", "nats"),
        })  # fmt: skip
        shares = _recovered(sums, counts)
        made = _claims(prompts, sums, clusters, k, scored)
        own = scored[OWN].summary()
        errors, said = _errors(scored[OWN])
        costless = [
            f"Putting the {over} in the site's place costs no {what} here, so no share of it can be recovered."
            for (name, what, over), share in shares.items() if name == OWN and not np.isfinite(share)
        ]  # fmt: skip
        return scores_table(
            scored,
            provenance=study.provenance(self),
            summary={
                "sentence": " ".join([*(claim.sentence for claim in made), said]),
                "shown": all(claim.shown for claim in made),
                "site": self.site,
                **own,
                "parts": errors,
                **{
                    f"{name}_explained_variance": scored[name].summary()["explained_variance"] for name in (PCA, RANDOM)
                },
                "baseline_codes": k,
                **{f"{what}_recovered_{over}": share for (_, what, over), share in shares.items() if _ == OWN},
                "limits": [
                    *costless,
                    *read.limits(),
                    "Principal components and the mean are fitted on the tokens that they are scored on, which can "
                    "only flatter them.",
                    "Directions that reconstruct need not be those the model uses: there is no truth to compare with "
                    "here, and on planted truth reconstruction hides what was not found.",
                ],
            },
            tables={
                "prompts": per_prompt,
                "conversations": conversations_table(scored, ids),
                "splice": spliced,
                "recovered": _recovered_table(shares),
                "density": density_table(scored),
                "claims": claims.to_table(made),
            },
        )


def fingerprint(dictionary: Dictionary) -> str:
    """Digest of a dictionary's configuration and numbers, whatever format it was read from."""
    state = {name: to_host(value) for name, value in sorted(dictionary.state_dict().items())}
    told = {name: [str(value.dtype), hashlib.sha256(value.tobytes()).hexdigest()] for name, value in state.items()}
    return digest({"config": dictionary.config.to_json(), "numbers": told})


def _read(study: Study) -> tuple[Read, bool]:
    """The prompts with codes of who says what, and whether there are whole conversations among them."""
    prompts, tokenizer = study.prompts("positive"), study.pair.tokenizer
    whole = any(prompt.messages for prompt in prompts)
    if not whole:
        return Read([recoded(tokenizer, coded) for coded in study.encoded("positive")], 0, 0), False
    return read_whole(tokenizer, prompts, min(study.pair.tuned.context_length, LONGEST), prompts.source), True


def _errors(scored: Scores) -> tuple[dict[str, dict[str, Any]], str]:
    """Errors of every part that has an input, and a sentence of them."""
    told = {part: scored.summary(part) for part in scored.parts if scored.summary(part)["tokens"]}
    names = ("tokens", "conversations", "mse", "conversation_mse", "fvu")
    errors = {part: {name: row[name] for name in names if np.isfinite(row[name])} for part, row in told.items()}
    rows = {ALL: scored.summary()} | told
    said = ", ".join(f"{part} {row['mse']:.4g} ({row['conversation_mse']:.4g})" for part, row in rows.items())
    return errors, f"Squared error of a token, in brackets with every conversation counting the same: {said}."


@torch.no_grad()
def _reconstructed(dictionary: Dictionary, rows: Tensor):
    found = dictionary.reconstruct(rows.to(dictionary.W_dec))
    return found.output.to(rows.dtype), found.codes


def _by(owner: Tensor, values: Tensor, count: int) -> np.ndarray:
    return to_host(torch.zeros(count, dtype=torch.float64, device=values.device).index_add_(0, owner, values))


def _recovered(sums: dict, counts: np.ndarray) -> dict[tuple[str, str, str], float]:
    total = {name: part.sum(1) for name, part in sums.items()}
    return {
        (name, what, over): recovered(total[name][i], total[CLEAN][i], total[over][i])
        for name in (OWN, PCA, RANDOM)
        for i, what in enumerate(("ce", "kl"))
        for over in (MEAN, ZERO)
        if counts[i].sum()
    }


def _recovered_table(shares: dict[tuple[str, str, str], float]) -> Table:
    named = [np.array([key[i] for key in shares], dtype=object) for i in range(3)]
    return table("dictionary-recovered", {
        "dictionary": (named[0], "key", "what stands in the site's place"),
        "cost": (named[1], "key", "ce: loss of next tokens; kl: divergence from the clean model"),
        "ablation": (named[2], "key", "whose cost is recovered: mean or zero in the site's place"),
        "recovered": (np.array(list(shares.values())), "measure", "share of that cost which is saved"),
    })  # fmt: skip


def _less(one: Callable[[Any], float], other: Callable[[Any], float]) -> Callable[[Any], float]:
    return lambda rows: one(rows) - other(rows)


def _claims(prompts: dict, sums: dict, clusters: np.ndarray, k: int, scored: dict) -> list[Claim]:
    def interval(statistic):
        # rows are drawn by number, since a ratio needs two columns of each
        return clustered_bootstrap(np.arange(len(clusters)), clusters, lambda rows: statistic(rows.astype(int)), DRAWS)

    def explained(name):
        return lambda rows: 1 - prompts[name][rows].sum() / prompts["deviation"][rows].sum()

    def saved(index, name):
        def share(rows):
            lost, clean, mean = (sums[condition][index][rows].sum() for condition in (name, CLEAN, MEAN))
            return recovered(lost, clean, mean)

        return share

    own, made = interval(explained(OWN)), []
    where = {"dictionary": OWN, "part": ALL}
    recipe = {"table": "", "statistic": "mean", "column": "explained_variance", "where": where}
    value, l0 = scored[OWN].summary()["explained_variance"], scored[OWN].summary()["l0"]
    for name, said in ((PCA, "principal components"), (RANDOM, "random rows by matching pursuit")):
        other, beside = interval(explained(name)), scored[name].summary()
        gap = interval(_less(explained(OWN), explained(name)))
        level = beside["explained_variance"]
        shown = bool(gap[1] > 0 and value >= level)
        made.append(Claim(
            f"explains-more-than-{name}",
            f"The dictionary explains {value:.3f} of the variance with {l0:.1f} codes a token, {said} {level:.3f} with "
            f"{beside['l0']:.1f}: {'more' if shown else 'not shown to be more'}.",
            value, own[1], own[2], f"{said}, {k} codes", level, other[1], other[2], float("nan"), level, "at least",
            shown, recipe,
        ))  # fmt: skip
    for index, (what, said) in enumerate((("ce", "loss"), ("kl", "divergence"))):
        if not np.isfinite(saved(index, OWN)(slice(None))):
            continue
        mine, other = interval(saved(index, OWN)), interval(saved(index, PCA))
        gap = interval(_less(saved(index, OWN), saved(index, PCA)))
        recipe = {"table": "recovered", "statistic": "mean", "column": "recovered",
                  "where": {"dictionary": OWN, "cost": what, "ablation": MEAN}}  # fmt: skip
        shown = bool(gap[1] > 0 and mine[0] >= other[0])
        made.append(Claim(
            f"recovers-more-{said}-than-pca",
            f"Spliced in, it saves {mine[0]:.3f} of the {said} that the mean in its place costs, principal components "
            f"{other[0]:.3f}: {'more' if shown else 'not shown to be more'}.",
            *mine, f"principal components, {k} codes", *other, float("nan"), other[0], "at least", shown, recipe,
        ))  # fmt: skip
    return made
