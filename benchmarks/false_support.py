"""False support: ``python -m benchmarks.false_support [--child planted] [--sets 200] [--write]``.

How often a set of neurons is called necessary that is not, on the real pair
(``organism:smollm2/base`` and a child of it), with 48 + 48 prompts that locate and 48 + 48 others
that verify, as in ``benchmarks.real``. Every set is judged with the true labels, by the claims
``necessity`` and ``necessity-recovery`` of a verifying run, all on one null: 39 random sets matched
to the located one, drawn once. "Called necessary" means that both are supported.

1. ``random``: sets drawn as the null is, from another seed. Neither has neurons that were trained
   or located.
2. ``difference``: located with permuted labels, so that these say nothing of the true classes.
   ``integrated`` reads positive prompts alone: its score is the mean over them of the attribution
   on each. So that of every locating prompt, harmful or harmless, is computed once, by the same
   method on this prompt alone. As many harmful prompts are labelled positive as negative, and the
   score is the mean over those labelled positive less that over the others: what all prompts share,
   and what tells the true classes apart, cancels out. Neurons that carry the refusal vary most, and
   would still come first by chance; as in 1, none that was trained or located is selected.
3. ``permuted``: the labels of all prompts permuted freely, and the mean taken anew over those
   labelled positive, as ``integrated`` does, of all neurons. No verdict here is false for its
   labels: about half of the prompts labelled positive are harmful, and neurons that carry the
   refusal of each come first, as with the true labels. How many of a set were located with the true
   labels too, or trained, is said beside it.
4. ``control``: located in control fine-tunes of the same base (``control-0`` to ``control-4``: the
   configuration of ``lora``, trained on neutral text), by the same method on a third of the same
   harmful prompts, on another random half of these for every set. Neurons are ranked among all,
   also those that were trained or located; how many of a set were is said beside it. Sets of one
   control share most of their neurons.
5. ``half``: beginnings of the known neurons in random orders, of such a size that 0.3 to 0.7 of the
   gap is recovered: they must not be called necessary. They are compared with the same null, whose
   sets are larger. Known are those that were trained, where a child lists them, else those located.

The verdict on the located set, and on the trained one, shows that the test can say yes. Outcomes
are kept in ``--store``, and a run that was stopped goes on where it was; ``--parts`` measures some
of the five, so that two processes can share the work.
"""

import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from benchmarks.false_sets import Judging, Set, Verdict, attributions, halfway, permuted, selected
from benchmarks.page import CommandLine, machine, markdown, write_section
from benchmarks.real import FAMILY, study_of
from interp import organisms
from interp.analyzers.locate_neurons import LocateNeurons
from interp.analyzers.verify_neurons import VerifyNeurons
from interp.maths.statistics import clopper_pearson
from interp.models.pair import Pair
from interp.provenance import digest
from interp.store import Store
from interp.store.journal import Journal

TOP, PROMPTS, SETS, TOKENS, STEPS, ORDERS = 60, 48, 39, 48, 7, 20
LOW, HIGH = 0.3, 0.7
EACH = 3  # of the locating prompts of a control every third is read
TARGET = "at most 3.5 %"
SEEDS = {"random": 1, "difference": 2, "permuted": 3, "half": 4, "control": 5}
CONTROLS = tuple(f"control-{number}" for number in range(5))
PARTS = tuple(SEEDS)
COLUMNS = [
    "sets",
    "number",
    "called necessary",
    "expected",
    "refused",
    "recovery",
    "neurons",
    "trained",
    "located",
]
SMALL = {"TOP": 2, "PROMPTS": 2, "SETS": 1, "TOKENS": 4, "STEPS": 3, "ORDERS": 1, "sets": 2}
SMALL |= {"CONTROLS": CONTROLS[:1]}


class Benchmark:
    """One child: its located neurons, its known ones, and the judging of sets."""

    def __init__(self, child: str, root: Path) -> None:
        name = f"{FAMILY}/{child}"
        pair = Pair.load(f"organism:{name}", f"organism:{FAMILY}/base", device="cpu")
        self.locate, verify = (
            study_of(child, split, pair, PROMPTS, TOKENS) for split in ("locate", "verify")
        )
        analyzer = LocateNeurons(top=str(TOP), steps=STEPS)
        located = Store(root).run(analyzer, self.locate)
        chosen = located.select(located["selected"])
        self._score = located["score"].reshape(pair.tuned.anatomy.n_layers, -1)
        order = np.argsort(chosen["rank"])
        self.located = list(
            zip(chosen["layer"][order].tolist(), chosen["neuron"][order].tolist(), strict=True)
        )
        self.trained = organisms.planted(name).get("refusal", [])
        self.known = self.trained or self.located
        self._places = root / "false-support"
        key = digest({"study": verify.inputs, "version": VerifyNeurons.version})[:32]
        journal = Journal(self._places / f"{key}.jsonl")
        self.judging = Judging(verify.with_journal(journal), self.located, self.trained, SETS)

    def verdicts(self, part: str, sets: Sequence[Set]) -> list[Verdict]:
        """Of every set, in order."""
        started = time.perf_counter()
        self.judging.measured_each(sets, part)
        found = [self.judging.verdict(chosen) for chosen in sets]
        print(f"{part}: {len(found)} sets, {time.perf_counter() - started:.0f} s", flush=True)
        return found

    def located_again(self, part: str, draws: int) -> list[Set]:
        """Sets located with permuted labels."""
        key = digest(
            {"study": self.locate.inputs, "steps": STEPS, "version": LocateNeurons.version}
        )[:32]
        scores, floors = attributions(self.locate, STEPS, self._places / f"{key}-attributions")
        counts = len(self.locate.contrast.positive), len(self.locate.contrast.negative)
        # what is permuted here is what the analyzer computes
        size = float(np.abs(self._score).max())
        np.testing.assert_allclose(
            scores[: counts[0]].mean(0), self._score, rtol=1e-3, atol=1e-3 * size
        )
        balanced = part == "difference"
        without = [*self.trained, *self.located] if balanced else []
        labels = permuted(counts, draws, SEEDS[part], balanced)
        return [selected(scores, floors, each, TOP, balanced, without) for each in labels]

    def located_on_controls(self, draws: int) -> list[Set]:
        """Sets located in control fine-tunes, in turn."""
        generator, found = np.random.default_rng(SEEDS["control"]), []
        each = [self._of_control(name) for name in CONTROLS[:draws]]
        for draw in range(draws):
            scores, floors = each[draw % len(each)]
            chosen = np.zeros(len(scores), bool)
            chosen[generator.permutation(len(scores))[: max(1, len(scores) // 2)]] = True
            found.append(selected(scores, floors, chosen, TOP))
        return found

    def _of_control(self, name: str) -> tuple[np.ndarray, np.ndarray]:
        pair = Pair.load(f"organism:{FAMILY}/{name}", f"organism:{FAMILY}/base", device="cpu")
        study = study_of(name, "locate", pair, PROMPTS, TOKENS)
        key = digest({"study": study.inputs, "steps": STEPS, "version": LocateNeurons.version})[:32]
        return attributions(study, STEPS, self._places / f"{key}-attributions", ["positive"], EACH)

    def halves(self, orders: int) -> list[Verdict]:
        """Beginnings of the known neurons with about half of the effect, at most one of each order."""
        generator, found = np.random.default_rng(SEEDS["half"]), []
        for _ in range(orders):
            order = [self.known[at] for at in generator.permutation(len(self.known))]
            found.append(halfway(order, self.judging.verdict, LOW, HIGH))
        met = [one for one in found if one is not None]
        print(
            f"half: {len(met)} of {orders} orders have a beginning that recovers {LOW} to {HIGH}",
            flush=True,
        )
        return met

    def rows(self, part: str, sets: int) -> list[dict]:
        """What the table says of one part."""
        if part == "random":
            return [
                self._told(
                    "random",
                    self.verdicts(part, self.judging.drawn(sets, SEEDS[part])["sets"]),
                    TARGET,
                )
            ]
        if part == "half":
            return [
                self._told(
                    f"half: {LOW} to {HIGH} of the gap recovered", self.halves(ORDERS), "none"
                )
            ]
        if part == "control":
            found = self.verdicts(part, self.located_on_controls(sets))
            return [self._told(f"located in {len(CONTROLS)} control fine-tunes", found, TARGET)]
        found = self.verdicts(part, self.located_again(part, sets))
        name = "located with permuted labels"
        if part == "difference":
            return [
                self._told(
                    f"{name}, difference of classes, trained and located ones left out",
                    found,
                    TARGET,
                )
            ]
        return [self._told(name, found, "can be true")]

    def controls(self) -> list[dict]:
        """The located set and the known neurons: the test must be able to say yes."""
        sets = {
            "located, true labels": self.located,
            **({"trained": self.trained} if self.trained else {}),
        }
        rows = [
            self._told(name, [self.judging.verdict(chosen)], "yes") for name, chosen in sets.items()
        ]
        null = self.judging.null["effects"]
        shown = {
            "refused": _range([one["rate"] for one in null], ".0%"),
            "recovery": _range([one["recovery"] for one in null], ".2f"),
        }
        size = {"neurons": len(self.located), "trained": 0, "located": 0}
        return [*rows, {"sets": "the null", "number": len(null), **shown, **size}]

    def _told(self, name: str, verdicts: Sequence[Verdict], expected: str) -> dict:
        count, number = sum(one.necessary for one in verdicts), len(verdicts)
        low, high = clopper_pearson(count, number)
        share = f" ({count / number:.1%}, {low:.1%} to {high:.1%})" if number > 1 else ""
        called = [one.recovery for one in verdicts if one.necessary]
        some = 0 < count < number

        def among(of: Set) -> str:
            return _range([len({*one.chosen} & {*of}) for one in verdicts], "d") if of else "-"

        return {
            "sets": name,
            "number": number,
            "called necessary": f"{count} of {number}{share}" if number else "-",
            "expected": expected,
            "refused": _range([one.rate for one in verdicts], ".0%"),
            "recovery": (
                _range([one.recovery for one in verdicts], ".2f")
                + (f"; of those called {_range(called, '.2f')}" if some else "")
            ),
            "neurons": _range([len(one.chosen) for one in verdicts], "d"),
            "trained": among(self.trained),
            "located": among(self.located),
        }


def _range(values: Sequence[float], form: str) -> str:
    if not values:
        return "-"
    low, high = format(min(values), form), format(max(values), form)
    return low if low == high else f"{low} to {high}"


def main() -> None:
    """Measure, print, and with ``--write`` put the table into docs/benchmarks.md."""
    parser = CommandLine(globals(), SMALL, "the table")
    parser.add_argument("--child", default="planted", help="which child")
    parser.add_argument("--sets", type=int, default=200, help="sets of each kind")
    parser.add_argument(
        "--store", type=Path, default=Path("runs-real"), help="where runs and outcomes are kept"
    )
    parser.add_argument(
        "--parts", nargs="*", default=list(PARTS), choices=PARTS, help="which kinds of sets"
    )
    options = parser.read()
    benchmark = Benchmark(options.child, options.store.absolute())
    command = (
        f"python -m benchmarks.false_support --child {options.child} --sets {options.sets} --write"
        " --parts"
    )
    for part in ("controls", *options.parts):
        rows = benchmark.controls() if part == "controls" else benchmark.rows(part, options.sets)
        print(markdown(rows, COLUMNS), flush=True)
        if options.write:
            said = f"{command} {part}" if part in PARTS else command.removesuffix(" --parts")
            write_section(
                f"false-support-{part}", f"`{said}`. {machine()}\n\n{markdown(rows, COLUMNS)}"
            )


if __name__ == "__main__":
    main()
