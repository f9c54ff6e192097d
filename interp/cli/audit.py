"""``interp audit``: what did a fine-tune change, before it ships? One page, a verdict per row, an
exit code.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from interp.cli.behaviour_options import require_one_source, specification_of
from interp.cli.common import takes
from interp.cli.located_source import located_run, source_pair
from interp.cli.prompt_options import CONTROL_HELP, controls_on_demand, require_controls
from interp.cli.request_cache import Request
from interp.cli.runner import Session, answer
from interp.cli.template_options import TemplateFlags
from interp.errors import OptionError, PromptError

if TYPE_CHECKING:
    from interp.models.pair import Pair
    from interp.prompts import Contrast, PromptSet
    from interp.study import Study

CROSSED = 1
"""Exit code where a row crosses its threshold."""
CLASSES, UTILITY = ("harmful", "harmless"), "utility"
SUFFIXES = (".jsonl", ".txt", ".csv", ".parquet")
LOCATED_RANDOM_SETS = 19


@dataclass(frozen=True, kw_only=True)
class AuditOptions(TemplateFlags):
    """What an audit reads; the fields are the flags."""

    base: Annotated[str | None, typer.Option("--base", metavar="BASE", help="The base model.")] = (
        None
    )
    prompts: Annotated[
        Path | None,
        typer.Option(
            "--prompts",
            metavar="DIR",
            help="A folder with the files harmful, harmless and utility (.jsonl, .txt, .csv, ...).",
        ),
    ] = None
    column: Annotated[
        str, typer.Option("--column", metavar="NAME", help="Column of the prompt files.")
    ] = "prompt"
    max_prompts: Annotated[
        int | None,
        typer.Option("--max-prompts", metavar="N", min=1, help="At most N prompts of each file."),
    ] = None
    max_new_tokens: Annotated[
        int,
        typer.Option(
            "--max-new-tokens", metavar="N", min=1, help="Maximum length of an answer, in tokens."
        ),
    ] = 48
    markers: Annotated[
        Path | None,
        typer.Option("--markers", metavar="FILE", help="Refusal markers, one a line."),
    ] = None

    def files(self) -> dict[str, Path]:
        """The prompt files of the folder by name; OptionError for a folder without the classes."""
        if self.prompts is None:
            raise OptionError(
                "an audit needs prompts; give --prompts DIR with files harmful, harmless and,"
                " if wanted, utility"
            )
        if not self.prompts.is_dir():
            raise OptionError(f"--prompts {self.prompts} is not a folder; give one with the files")
        found = {}
        for name in (*CLASSES, UTILITY):
            paths = [self.prompts / f"{name}{suffix}" for suffix in SUFFIXES]
            there = [path for path in paths if path.is_file()]
            if len(there) > 1:
                raise OptionError(f"{there[0]} and {there[1]} are both there; keep one of them")
            if there:
                found[name] = there[0]
            elif name != UTILITY:
                raise OptionError(
                    f"{self.prompts} has no file {name}; add {name}.jsonl or {name}.txt"
                )
        return found

    def read(self) -> "tuple[Contrast, PromptSet | None]":
        """Harmful and harmless prompts, and those of utility, where there are any."""
        from interp.prompts import Contrast, OneClass, read_prompts, read_task

        files = self.files()
        first, second = (read_prompts(files[name], self.column, name) for name in CLASSES)
        utility = None
        if UTILITY in files:
            reads = read_task if _has_answers(files[UTILITY]) else read_prompts
            utility = OneClass(reads(files[UTILITY], self.column, UTILITY)).limit(self.max_prompts)
        return (
            Contrast(first, second).limit(self.max_prompts),
            None if utility is None else utility.positive,
        )


@takes(AuditOptions)
def command(
    tuned: Annotated[
        str, typer.Argument(metavar="TUNED", help="Directory, Hub id, adapter, or organism:NAME.")
    ],
    *,
    control: Annotated[list[str] | None, typer.Option(metavar="MODEL", help=CONTROL_HELP)] = None,
    behaviour: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME|FILE.yaml", help="A further behaviour that is asked for; repeatable."
        ),
    ] = None,
    margins: Annotated[
        Path | None, typer.Option(metavar="FILE.yaml", help="Margins and thresholds by row.")
    ] = None,
    evals: Annotated[
        list[Path] | None,
        typer.Option(
            metavar="FILE",
            help=(
                "Per-sample scores that you already have (lm-eval's files or their folder, or logs"
                " of Inspect); given twice: of the base, then of the tuned model."
            ),
        ),
    ] = None,
    located: Annotated[
        str | None,
        typer.Option(
            metavar="RUN",
            help="Does the set of this locate-neurons run still carry the behaviour?",
        ),
    ] = None,
    no_discovery: Annotated[
        bool,
        typer.Option(
            "--no-discovery",
            help="Leave out discovery, which runs where 5 controls are given (as --quick).",
        ),
    ] = False,
    summary: Annotated[
        str | None,
        typer.Option(metavar="FILE.md", help="Write the rows as Markdown, for a pull request."),
    ] = None,
    common: AuditOptions,
) -> str:
    """Judge a fine-tune before it ships: behaviour before and after, and how far it moved inside.

    Rows of behaviour are compared with the base within margins that are fixed before: changed, not
    changed, or cannot tell. Internal rows are compared with control fine-tunes. Only behaviours
    that are asked for are judged. Exit code 1 where a row crosses its threshold.

    Example: interp audit ./tuned --base ./base --prompts ./audit --control ./seed-0 --control ...
    """
    from interp.metrics.margins import read_margins

    common.template_arguments()
    common.batches()
    require_one_source(None, common.markers)
    require_controls(control)
    files, behaviours = common.files(), list(dict.fromkeys(behaviour or ()))
    if "refusal" in behaviours:
        raise OptionError("refusal is always asked for; leave --behaviour refusal out")
    rules = read_margins(margins)
    scores = _scores(evals)
    if summary is not None and not Path(summary).absolute().parent.is_dir():
        raise OptionError(f"--summary {summary}: its folder is not there; make it first")
    arguments = {**locals()}
    for name in ("files", "rules", "scores", "behaviour", "behaviours", "summary", "read_margins"):
        arguments.pop(name, None)
    request = Request.of(
        "audit", arguments | {"behaviours": behaviours, "prompts": None, **_named(files)}
    )

    def compute(session: Session) -> list:
        from interp.analyzers.audit import Audit
        from interp.analyzers.evaluation_scores import EvaluationScores
        from interp.metrics import Task

        contrast, utility = common.read()
        specification = specification_of(None, common.markers, common.store)
        further = [specification_of(one, None, common.store) for one in behaviours]
        of_set = None if located is None else located_run(session.store, located)
        pair = session.load(tuned, common.base, "an audit")
        controls = controls_on_demand(common, control, pair)
        study = session.study(pair, contrast, specification.metric(pair.tokenizer))
        study = replace(study, max_new_tokens=common.max_new_tokens)
        of_utility = None
        if utility is not None:
            from interp.prompts import OneClass

            has_answers = any(prompt.answer is not None for prompt in utility)
            metric = Task.from_prompts(pair.tokenizer, list(utility)) if has_answers else None
            of_utility = replace(study.with_prompts(OneClass(utility)), metric=metric)
        session.note(study.counts, *study.notes)
        behaviour_studies = [replace(study, metric=one.metric(pair.tokenizer)) for one in further]
        runs = behaviour_runs(session, study, behaviour_studies, of_utility)
        if scores is not None:
            run = session.store.run(EvaluationScores(scores[0], scores[1]), study)
            session.note(*run.summary["notes"])
            runs.append(run)
        runs += internal_runs(session, study, controls)
        intruders = intruder_runs(session, tuned, common.base, control or ())
        runs += intruders[:1]
        if of_set is not None:
            runs.append(transfer_run(session, study, of_set))
        if len(controls) >= 5 and not no_discovery:
            runs.append(discovery_run(session, pair, controls))
        audit = Audit([run.table for run in runs], [run.table for run in intruders[1:]], rules)
        return [session.store.run(audit, study)]

    # a request does not describe what behaviour files name, nor folders of scores
    recalls = not behaviours and scores is None
    key = answer(request, f"Audit of {tuned}", compute, recalls=recalls)
    return finish(key, common, summary, tuned)


def finish(key: str, common: AuditOptions, summary: str | None, tuned: str) -> str:
    """Write the summary; exit code 1 where a row crosses its threshold."""
    from interp.atomic import complete_file
    from interp.claims.audit_lines import audit_markdown
    from interp.store import Store

    table = Store(common.store).get(key)
    if summary is not None:
        with complete_file(Path(summary)) as path:
            path.write_text(audit_markdown(table, f"Audit of {tuned}"), encoding="utf-8")
    if not table.summary["passed"]:
        raise typer.Exit(CROSSED)
    return key


def behaviour_runs(
    session: Session, study: "Study", further: "Sequence[Study]", utility: "Study | None"
) -> list[Any]:
    """Refusal, further behaviours and utility, before and after."""
    from interp.analyzers.behaviour_change import BehaviourChange
    from interp.analyzers.text_loss import TextLoss

    runs = [session.store.run(BehaviourChange(label="refusal"), study)]
    for one in further:
        label = one.require_metric().labels.column
        runs.append(session.store.run(BehaviourChange(label=label), one))
    if utility is not None:
        analyzer = TextLoss() if utility.metric is None else BehaviourChange(label=UTILITY)
        runs.append(session.store.run(analyzer, utility))
    return runs


def internal_runs(session: Session, study: "Study", controls: "Sequence[Pair]") -> list[Any]:
    """Divergence and CKA, TuCo, and the direction between the classes."""
    from interp.analyzers.compare import Compare
    from interp.analyzers.direction_change import DirectionChange
    from interp.analyzers.tuco import Tuco

    analyzers = (Compare(controls), Tuco(controls=controls), DirectionChange(controls))
    return [session.store.run(analyzer, study) for analyzer in analyzers]


def intruder_runs(
    session: Session, tuned: str, base: str | None, control: "Sequence[str]"
) -> list[Any]:
    """Intruder dimensions of the fine-tuned model, then of every control."""
    from interp.analyzers.intruders import Intruders
    from interp.models.weights import WeightPair
    from interp.store.svd_cache import SvdCache

    common, runs = session.common, []
    for name in (tuned, *control):
        common.status(f"reading {name}")
        weights = WeightPair.load(
            name,
            base,
            seed=common.seed,
            quiet=common.quiet,
            array_cache=SvdCache(common.store),
        )
        runs.append(session.store.run(Intruders(draws=0), weights))
    return runs


def transfer_run(session: Session, study: "Study", located: Any) -> Any:
    """Whether a set that was located in another model still carries the behaviour."""
    from interp.analyzers.transfer import Transfer

    source = source_pair(session.common, located, None, None)
    transfer = Transfer(located, source, random_sets=LOCATED_RANDOM_SETS)
    return session.store.run(transfer, study)


def discovery_run(session: Session, pair: "Pair", controls: "Sequence[Pair]") -> Any:
    """``interp discover --quick``: is there anything that nobody named?"""
    from interp.analyzers.discover import Discover
    from interp.cli.discover import METHODS, QUICK, DiscoverOptions, analyzers_of

    options = DiscoverOptions()
    study = session.study(pair, options.read(QUICK["texts"]))
    settings = {
        "samples": QUICK["samples"],
        "n_prefills": QUICK["prefills"],
        "max_new_tokens": study.max_new_tokens,
        "steer": 0,
        "quick": True,
    }
    analyzers = analyzers_of(METHODS, controls, options.beginnings(), options.asked(), settings)
    for analyzer in analyzers:
        analyzer.require(study)
    tables = [session.store.run(analyzer, study).table for analyzer in analyzers]
    return session.store.run(Discover(tables), study)


def _scores(evals: list[Path] | None) -> list[dict[str, Path]] | None:
    """The files of both, found to be readable and comparable before any model is loaded."""
    from interp.prompts.evaluation_logs import pair_scores, read_scores, score_files

    if not evals:
        return None
    if len(evals) != 2:
        raise OptionError(
            f"--evals is given {len(evals)} time{'s' * (len(evals) > 1)}; give it twice: scores of"
            " the base, then of the tuned model"
        )
    base, tuned = (score_files(path) for path in evals)
    pair_scores(read_scores(base), read_scores(tuned))
    return [base, tuned]


def _named(files: dict[str, Path]) -> dict[str, Path | None]:
    return {name: files.get(name) for name in (*CLASSES, UTILITY)}


def _has_answers(path: Path) -> bool:
    """Whether the first row of a file has an answer."""
    from interp.prompts.rows import read_rows

    if path.suffix == ".txt":
        return False
    rows = read_rows(path, "prompt")
    if not rows:
        raise PromptError(f"{path} has no rows; give at least one")
    return "answer" in rows[0]
