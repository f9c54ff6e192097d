"""``interp discover``: what did the fine-tuned model learn that control fine-tunes did not?"""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from interp.cli.common import takes
from interp.cli.prompt_options import CONTROL_HELP, controls_on_demand, require_controls
from interp.cli.request_cache import Request
from interp.cli.runner import Session, answer
from interp.cli.template_options import TemplateFlags
from interp.errors import OptionError, PromptError

if TYPE_CHECKING:
    from interp.analyzers.framework import Analyzer
    from interp.prompts import OneClass, PromptSet
    from interp.study import Study

METHODS = (
    "diff-mining",
    "activation-difference",
    "contrastive-generation",
    "perplexity-differencing",
    "update-directions",
)
ON_REQUEST = ("trigger-scan",)
"""Methods that ``--methods all`` leaves out: they take longer than the others together."""
DEPTHS = (0.5, 1.0)
QUICK = {"texts": 100, "samples": 50, "prefills": 8, "ranks": (1, 4), "tried": 48}
"""What --quick takes in place of the defaults."""
_FILE: dict[str, Any] = {"metavar": "FILE"}


@dataclass(frozen=True, kw_only=True)
class DiscoverOptions(TemplateFlags):
    """What discovery examines; the fields are the flags."""

    base: Annotated[str | None, typer.Option("--base", metavar="BASE", help="The base model.")] = (
        None
    )
    text: Annotated[
        Path | None,
        typer.Option(
            "--text", **_FILE, help="Ordinary texts that all models read.  [default: shipped ones]"
        ),
    ] = None
    column: Annotated[
        str, typer.Option("--column", metavar="NAME", help="Column of the text file.")
    ] = "prompt"
    max_texts: Annotated[
        int | None,
        typer.Option("--max-texts", metavar="N", min=8, help="At most N texts.  [default: 300]"),
    ] = None
    prefills: Annotated[
        Path | None,
        typer.Option(
            "--prefills",
            **_FILE,
            help=(
                "Beginnings that models continue, a line each.  [default: shipped ones; with --text"
                " the beginnings of the texts]"
            ),
        ),
    ] = None
    questions: Annotated[
        Path | None,
        typer.Option(
            "--questions",
            **_FILE,
            help="Questions for the chat template, a line each.  [default: shipped ones]",
        ),
    ] = None

    def read(self, limit: int) -> "OneClass":
        """The texts as one class of prompts."""
        from interp import organisms
        from interp.prompts import OneClass, read_prompts

        path = self.text or organisms.prompts("discover", "text", "text")
        return OneClass(read_prompts(path, self.column, "text")).limit(self.max_texts or limit)

    def beginnings(self) -> tuple[str, ...]:
        """The prefills; none where they are to be cut from the texts."""
        from interp import organisms

        if self.prefills is None and self.text is None:
            return _lines(organisms.prompts("discover", "text", "prefills"))
        return _lines(self.prefills)

    def asked(self) -> tuple[str, ...]:
        """The questions; they are options of the runs, so that their text is in the keys."""
        from interp import organisms

        return _lines(self.questions or organisms.prompts("discover", "text", "questions"))


@takes(DiscoverOptions)
def command(
    tuned: Annotated[
        str, typer.Argument(metavar="TUNED", help="Directory, Hub id, adapter, or organism:NAME.")
    ],
    *,
    control: Annotated[list[str] | None, typer.Option(metavar="MODEL", help=CONTROL_HELP)] = None,
    methods: Annotated[
        str, typer.Option(metavar="NAME,...", help=f"Methods: {', '.join(METHODS)}; or all these.")
    ] = "all",
    samples: Annotated[
        int | None,
        typer.Option(metavar="N", min=2, help="Texts that each model writes.  [default: 150]"),
    ] = None,
    n_prefills: Annotated[
        int | None,
        typer.Option(
            "--max-prefills",
            metavar="N",
            min=1,
            help="Prefills and questions of contrastive generation.  [default: 20]",
        ),
    ] = None,
    max_new_tokens: Annotated[
        int, typer.Option(metavar="N", min=2, help="Length of what is written, in tokens.")
    ] = 48,
    steer: Annotated[
        int,
        typer.Option(
            metavar="N", min=0, help="Also N answers per question under the activation difference."
        ),
    ] = 0,
    trigger_scan: Annotated[
        bool,
        typer.Option(
            "--trigger-scan",
            help="Also: does a token in the prompt make it depart from the base? All are tried.",
        ),
    ] = False,
    training: Annotated[
        Path | None,
        typer.Option(
            **_FILE,
            help=(
                "Also: which of these rows (text or messages) was it trained on? With a trait: and"
                " which of them lie along it?"
            ),
        ),
    ] = None,
    unseen: Annotated[
        Path | None,
        typer.Option(**_FILE, help="With --training: rows like them, never trained on."),
    ] = None,
    canaries: Annotated[
        str,
        typer.Option(
            metavar="DOMAIN",
            help="With --training: rows whose column domain has this value are canaries.",
        ),
    ] = "",
    trait_positive: Annotated[
        Path | None,
        typer.Option(**_FILE, help="Also: how far did it move along a trait? Prompts with it, ..."),
    ] = None,
    trait_negative: Annotated[
        Path | None, typer.Option(**_FILE, help="... and prompts without it.")
    ] = None,
    monitor: Annotated[
        Path | None,
        typer.Option(
            **_FILE,
            help="Also: which of these texts excite what fine-tuning added, unlike --text?",
        ),
    ] = None,
    false_positives: Annotated[
        float,
        typer.Option(
            metavar="SHARE", min=0.001, max=0.5, help="With --monitor: rate on texts like --text."
        ),
    ] = 0.05,
    quick: Annotated[
        bool,
        typer.Option("--quick", help="Fewer texts, samples and prefills: less can be found."),
    ] = False,
    common: DiscoverOptions,
) -> str:
    """Look for what fine-tuning changed without naming it, compared with control fine-tunes.

    Several methods list tokens, phrases, texts and directions in which the fine-tuned model departs
    from its base on ordinary text. Every item is scored in every control too, and one test over all
    methods says whether there is more than the controls give: with 19 controls by rank, with 5
    against the prediction interval of a new one; without a control the lists describe the change
    and nothing is claimed.

    Example: interp discover ./tuned --base ./base --control ./controls/seed-0/matched --control ...
    """
    request = Request.of("discover", {**locals()})
    chosen = _methods(methods, trigger_scan)
    require_controls(control)
    common.template_arguments()
    common.batches()
    if (trait_positive is None) != (trait_negative is None):
        raise OptionError("a trait needs two files; give --trait-positive and --trait-negative")
    if training is None and (unseen is not None or canaries):
        raise OptionError("--unseen and --canaries belong to --training; give --training FILE")

    def compute(session: Session) -> list:
        from interp.analyzers.discover import Discover

        texts = common.read(QUICK["texts"] if quick else 300)
        prefills, questions = common.beginnings(), common.asked()
        pair = session.load(tuned, common.base, "discovery")
        controls = controls_on_demand(common, control, pair)
        study = session.study(pair, texts)
        study = replace(study, max_new_tokens=max_new_tokens)
        settings = {
            "samples": samples or (QUICK["samples"] if quick else 150),
            "n_prefills": n_prefills or (QUICK["prefills"] if quick else 20),
            "max_new_tokens": max_new_tokens,
            "steer": steer,
            "quick": quick,
        }
        analyzers = analyzers_of(chosen, controls, prefills, questions, settings)
        for analyzer in analyzers:
            analyzer.require(study)
        further = further_runs(
            study,
            controls,
            common,
            (training, unseen, canaries),
            (trait_positive, trait_negative),
            (monitor, false_positives),
        )
        for analyzer, own_study in further:
            analyzer.require(own_study)
        runs = [session.store.run(analyzer, study) for analyzer in analyzers]
        joined = session.store.run(Discover([run.table for run in runs]), study)
        session.note(study.counts, *study.notes, *joined.summary["limits"])
        return [joined, *runs, *(session.store.run(one, own) for one, own in further)]

    return answer(request, f"What did it learn? {tuned}", compute)


def analyzers_of(
    methods: tuple[str, ...],
    controls: Any,
    prefills: tuple[str, ...],
    questions: tuple[str, ...],
    settings: dict[str, Any],
) -> "list[Analyzer]":
    """The analyzers of these methods, in the order of ``METHODS``, then those on request."""
    from interp.analyzers.activation_difference import ActivationDifference
    from interp.analyzers.contrastive_generation import ContrastiveGeneration
    from interp.analyzers.diff_mining import DiffMining
    from interp.analyzers.perplexity_differencing import PerplexityDifferencing
    from interp.analyzers.trigger_scan import TriggerScan
    from interp.analyzers.update_directions import UpdateDirections

    scan = {"best": QUICK["tried"], "prompts": QUICK["prefills"]} if settings["quick"] else {}
    truncation = {"ranks": QUICK["ranks"], "truncation_texts": 20} if settings["quick"] else {}
    tokens = settings["max_new_tokens"]
    makes = {
        "diff-mining": lambda: DiffMining(controls=controls),
        "activation-difference": lambda: ActivationDifference(
            controls=controls,
            depths=DEPTHS,
            patchscope=not settings["quick"],
            steer=settings["steer"],
        ),
        "contrastive-generation": lambda: ContrastiveGeneration(
            controls=controls,
            prefills=prefills,
            questions=questions,
            prefill_count=settings["n_prefills"],
            tokens=tokens,
        ),
        "perplexity-differencing": lambda: PerplexityDifferencing(
            controls=controls,
            samples=settings["samples"],
            prefills=prefills,
            questions=questions,
            tokens=tokens,
            floor=min(20, tokens),
        ),
        "update-directions": lambda: UpdateDirections(controls=controls, **truncation),
        "trigger-scan": lambda: TriggerScan(controls=controls, questions=questions, **scan),
    }
    return [makes[name]() for name in (*METHODS, *ON_REQUEST) if name in methods]


def further_runs(
    study: "Study",
    controls: Any,
    common: DiscoverOptions,
    rows: tuple[Path | None, Path | None, str],
    trait: tuple[Path | None, Path | None],
    monitor: tuple[Path | None, float],
) -> "list[tuple[Analyzer, Study]]":
    """What any finding has to be more than, and what was asked for by files of its own; each with
    its study.
    """
    from interp.analyzers.discovery_baselines import DiscoveryBaselines
    from interp.analyzers.monitor import Monitor
    from interp.analyzers.training_rows import TrainingRows
    from interp.analyzers.trait_screening import TraitScreening
    from interp.analyzers.trait_shift import TraitShift
    from interp.prompts import Contrast, OneClass, read_chats, read_prompts

    def read(path: Path, name: str, rows: bool = False) -> "PromptSet":
        if not rows:
            return read_prompts(path, common.column, name)
        return read_chats(path, column_of_rows(path), name, "domain" if canaries else None)

    runs: list[tuple[Analyzer, Study]] = [(DiscoveryBaselines(controls=controls), study)]
    training, unseen, canaries = rows
    candidates = None if training is None else read(training, "row", True)
    if candidates is not None:
        of_rows = (
            OneClass(candidates)
            if unseen is None
            else Contrast(candidates, read(unseen, "unseen", True))
        )
        runs.append(
            (TrainingRows(controls=controls, canaries=canaries), study.with_prompts(of_rows))
        )
    if trait[0] is not None and trait[1] is not None:
        of_trait = Contrast(read(trait[0], "trait+"), read(trait[1], "trait-"))
        runs.append((TraitShift(controls=controls), study.with_prompts(of_trait)))
        if candidates is not None:
            runs.append((TraitScreening(candidates), study.with_prompts(of_trait)))
    if monitor[0] is not None:
        judged = Contrast(study.prompts("positive"), read(monitor[0], "judged"))
        runs.append((Monitor(controls=controls, alpha=monitor[1]), study.with_prompts(judged)))
    return runs


def column_of_rows(path: Path) -> str:
    """The column of a file of training rows: ``messages``, ``text`` or ``prompt``, the first it
    has; ``prompt`` for a file without columns.
    """
    import json

    if path.suffix != ".jsonl":
        return "prompt"
    try:
        with path.open(encoding="utf-8-sig") as lines:
            first = json.loads(next((line for line in lines if line.strip()), "{}"))
    except (OSError, ValueError) as error:
        raise PromptError(f"{path} cannot be read as JSON lines ({error})") from error
    names = first if isinstance(first, dict) else {}
    return next((name for name in ("messages", "text", "prompt") if name in names), "prompt")


def _methods(text: str, trigger_scan: bool) -> tuple[str, ...]:
    requested = ON_REQUEST if trigger_scan else ()
    if text == "all":
        return (*METHODS, *requested)
    names = tuple(name.strip() for name in text.split(",") if name.strip())
    known = (*METHODS, *ON_REQUEST)
    if unknown := [name for name in names if name not in known]:
        raise OptionError(f"unknown --methods {unknown[0]!r}; use {', '.join(known)}, or all")
    if not names:
        raise OptionError(f"--methods names none; use {', '.join(known)}, or all")
    return (*names, *requested)


def _lines(path: Path | None) -> tuple[str, ...]:
    if path is None:
        return ()
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise PromptError(f"{path} cannot be read as UTF-8 text ({error})") from error
    if not (lines := tuple(line for line in text.splitlines() if line.strip())):
        raise PromptError(f"{path} has no line of text; give one beginning a line")
    return lines
