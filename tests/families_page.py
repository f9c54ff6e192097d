"""Every causal class of transformers, from its files to its numbers: ``python -m
tests.families_page [KIND ...]``.

Of a tiny random model of each and a child: what is read and what is refused, and every number that
is given beside that of plain torch. Without kinds, all of them, and the tables of docs/models.md
are written anew.
"""

import sys
import tempfile
import warnings
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from interp.analyzers.compare import Compare
from interp.analyzers.intruders import Intruders
from interp.analyzers.locate_neurons import LocateNeurons
from interp.analyzers.tuco import Tuco
from interp.engines import Batch, TorchEngine
from interp.errors import InterpError
from interp.models.pair import Pair
from interp.models.units import HEAD, NEURON
from interp.models.weights import WeightPair
from interp.prompts import OneClass
from interp.study import Study
from tests import causal, plain, tiny
from tests.pages import ROOT
from tests.tuco_pairs import plain as plain_tuco

PAGE = ROOT / "docs" / "models.md"
START, END = "<!-- families -->", "<!-- /families -->"
UNMAPPED = "Refused, since TransformerLens has no map of their blocks"
UNBUILT = "Not tried, since no small text model of them can be built"
COMMANDS = ("compare", "neurons", "heads", "TuCo")
HEADS_OF_TABLE = ("class", *COMMANDS, "prompts in a batch")


@dataclass
class Outcome:
    """What became of a class: ``unbuilt`` or ``refused`` with why, else by command ``yes`` or why
    not.

    ``batch``: whether prompts are padded to a batch or read one at a time.
    """

    name: str
    unbuilt: str = ""
    refused: str = ""
    said: dict[str, str] = field(default_factory=dict)
    batch: str = ""

    @property
    def is_unmapped(self) -> bool:
        """Whether it is refused because TransformerLens has no map of it."""
        return "is not an architecture with a known map" in self.refused

    @property
    def row(self) -> tuple[str, ...]:
        """Its row in the table."""
        return (
            f"`{self.name}`",
            *("yes" if self.said[name] == "yes" else "no" for name in COMMANDS),
            self.batch,
        )


def outcome(kind: str, name: str = "") -> Outcome:
    """One class through everything; raises AssertionError where a number is another than plain
    torch's, and whatever is raised that is no refusal.
    """
    found = Outcome(name)
    with warnings.catch_warnings(), tempfile.TemporaryDirectory() as folder:
        warnings.simplefilter("ignore")
        try:
            base = causal.build(kind)
            paths = [
                str(tiny.save(model, Path(folder) / role))
                for role, model in (("tuned", tiny.perturbed(base, 0.03)), ("base", base))
            ]
        # transformers' own: a configuration, a library, a class that is no language model
        except Exception as error:
            found.unbuilt = f"{type(error).__name__}: {str(error).splitlines()[0]}"
            return found
        found.name = type(base).__name__
        try:
            pair = Pair.load(*paths, device="cpu", dtype="float32")
        except InterpError as error:
            found.refused = _line(error, folder)
            return found
        _read(found, pair, folder)
        _weights(found, paths, folder)
    return found


def _line(error: InterpError, folder: str) -> str:
    line = str(error)
    assert "\n" not in line, line
    return line.replace(f"{folder}/", "")


def _read(found: Outcome, pair: Pair, folder: str) -> None:
    study = Study(pair, tiny.contrast(2), tiny.metric(), max_new_tokens=2)
    found.batch = (
        "one at a time" if study.single_prompt_reason or pair.single_prompt_reason(64) else "padded"
    )
    found.said["answers"] = _try(lambda: _answers(study), folder)
    found.said["compare"] = _try(lambda: _compare(study), folder)
    exact = _exact(pair)
    for command, unit in (("neurons", NEURON), ("heads", HEAD)):
        found.said[command] = _try(lambda unit=unit: _attributions(exact, unit), folder)
    for command, other in (("neurons", "heads"), ("heads", "neurons")):
        advised = f"use --unit {other.removesuffix('s')}" in found.said[command]
        assert not advised or found.said[other] == "yes", (
            f"{other} are advised in vain: {found.said}"
        )
    found.said["TuCo"] = _try(lambda: _tuco(exact), folder)
    if found.batch == "padded":
        _batches(pair, study)


def _try(run: Any, folder: str) -> str:
    try:
        run()
    except InterpError as error:
        return _line(error, folder)
    return "yes"


def _exact(pair: Pair) -> tuple[Pair, float]:
    """The pair in float64 with what may be off, relatively; in float32 where transformers cannot
    run it so.
    """
    modules = [causal.copied(pair[role].module).double() for role in ("tuned", "base")]
    ids, mask = torch.tensor([[0, 0, 5, 6, 7, 8]]), torch.tensor([[0, 0, 1, 1, 1, 1]])
    try:
        with torch.no_grad():
            logits = modules[0](input_ids=ids, attention_mask=mask, use_cache=False).logits
    except Exception:  # a mask, a kernel or a state that is float32
        return pair, 2e-3
    if not torch.isfinite(logits).all():
        return pair, 2e-3
    return Pair.from_modules(*modules, pair.tokenizer), 1e-5


def _answers(study: Study) -> None:
    """Greedy answers are those of reading the whole text for every token."""
    answers = study.answers("tuned", "positive")
    for coded, answer in zip(study.encoded("positive"), answers, strict=True):
        text = list(coded.ids)
        for token in answer:
            logits = _logits(study.pair, "tuned", text)[-1]
            # a tie in float32 may fall either way
            assert logits[token] >= logits.max() - 1e-4 * logits.abs().max(), (
                "an answer is not greedy"
            )
            text.append(token)


@torch.no_grad()
def _logits(pair: Pair, role: str, ids: Any) -> torch.Tensor:
    return pair[role].module(input_ids=torch.tensor([list(ids)]), use_cache=False).logits[0]


def _compare(study: Study) -> None:
    """The divergence of every prompt."""
    found = Compare()(study)
    rows = [coded for group in study.classes for coded in study.encoded(group)]
    for row, coded in enumerate(rows):
        tuned, base = (
            _logits(study.pair, role, coded.ids).double().log_softmax(-1)
            for role in ("tuned", "base")
        )
        wanted = float((tuned.exp() * (tuned - base)).sum(-1).mean())
        assert abs(found["kl"][row] - wanted) <= 1e-3 * wanted + 1e-6, (
            f"kl {found['kl'][row]}, plain {wanted}"
        )


def _attributions(exact: tuple[Pair, float], unit: Any) -> None:
    """Attributions of the integrated path, three nodes."""
    pair, error = exact
    study = Study(pair, tiny.contrast(2), tiny.metric(), batch_size=1)
    table = LocateNeurons(method="integrated", unit=unit.name, top="3", steps=3)(study)
    prompts = [item.ids for item in study.encoded("positive")]
    channels = plain.integrated(pair.base, pair.tuned, unit, prompts, study.metric.log_odds)
    wanted = unit.gather(pair.tuned.anatomy, channels).numpy()
    apart = np.abs(table["score"].reshape(wanted.shape) - wanted).max() / np.abs(wanted).max()
    assert apart <= error, f"{unit.plural}: attributions are {apart:.1e} from plain torch's"


def _tuco(exact: tuple[Pair, float]) -> None:
    """TuCo of every prompt, on both paths."""
    pair, error = exact
    study = Study(pair, OneClass(tiny.contrast(2).positive), None)
    found = [Tuco(path=path)(study) for path in ("fast", "full")]
    for row, coded in enumerate(study.encoded("positive")):
        tuco, output, _ = plain_tuco(pair, coded.ids, pair.tuned.dtype)
        for table in found:
            apart = max(abs(table["tuco"][row] - tuco), abs(table["output_co"][row] - output))
            assert apart <= error, f"TuCo is {apart:.1e} from plain torch's"


def _batches(pair: Pair, study: Study) -> None:
    """Prompts of a padded batch, and each alone."""
    coded = [list(item.ids) for item in study.encoded("positive")] + [[5, 6, 7]]
    for role in pair.roles:
        batch = Batch.pad(coded, pair.pad_id)
        logits = TorchEngine().run(pair[role], batch, keep=None).logits
        for row, ids in enumerate(coded):
            alone = _logits(pair, role, ids)
            apart = (logits[row, -len(ids) :] - alone).abs().max() / alone.abs().max()
            assert apart < 1e-4, f"a padded prompt is {apart:.1e} from the same alone"


def _weights(found: Outcome, paths: list[str], folder: str) -> None:
    found.said["intruders"] = _try(lambda: Intruders(draws=0)(WeightPair.load(*paths)), folder)


def outcomes() -> list[Outcome]:
    """Of every class, by name."""
    return [
        outcome(kind, name)
        for name, kind in sorted(causal.KINDS.items(), key=lambda item: item[0].lower())
    ]


def tables(found: list[Outcome]) -> str:
    """The table of what is read, what is refused by its line, and what no small configuration
    builds.
    """
    rows = [_row(each.row) for each in found if each.said]
    lines = "\n".join(_reason(each) for each in found if each.refused and not each.is_unmapped)
    parts = [
        "\n".join([_row(HEADS_OF_TABLE), _row(("---",) * len(HEADS_OF_TABLE)), *rows]),
        f"{UNMAPPED}: {_names(each.name for each in found if each.is_unmapped)}.",
        f"Refused for another reason:\n\n{lines}",
        f"{UNBUILT}: {_names(each.name for each in found if each.unbuilt)}.",
    ]
    return "\n\n".join(parts)


def is_as_written(each: Outcome, text: str) -> bool:
    """Whether a page says of a class what became of it."""
    lines = text.partition(START)[2].partition(END)[0].splitlines()
    if each.said:
        return _row(each.row) in lines
    if each.refused and not each.is_unmapped:
        return _reason(each) in lines
    (listed,) = (
        line for line in lines if line.startswith(UNMAPPED if each.is_unmapped else UNBUILT)
    )
    return f"`{each.name}`" in listed


def _row(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _names(names: Iterable[str]) -> str:
    return ", ".join(f"`{name}`" for name in names)


def _reason(each: Outcome) -> str:
    return f"- `{each.name}`: {each.refused.partition('; tested:')[0]}"


def written(text: str, made: str) -> str:
    """The page with these tables between its marks."""
    before, _, rest = text.partition(START)
    return f"{before}{START}\n{made}\n{END}{rest.partition(END)[2]}"


def main() -> None:
    """Print what the kinds that are named give, or write the page."""
    if asked := sys.argv[1:]:
        for kind in asked:
            print(kind, outcome(kind), flush=True)
        return
    made = tables(outcomes())
    PAGE.write_text(written(PAGE.read_text(encoding="utf-8"), made), encoding="utf-8")


if __name__ == "__main__":
    main()
