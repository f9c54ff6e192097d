"""Options of commands that examine a behaviour: the pair, the prompts and the metric."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, overload

import typer

from interp.cli.common import VERIFICATION
from interp.cli.template_options import TemplateFlags
from interp.errors import OptionError, required

if TYPE_CHECKING:
    from interp.metrics import BehaviourSpecification
    from interp.models.pair import Pair
    from interp.prompts import Contrast
    from interp.study import Study

BEHAVIOUR_HELP = (
    "The behaviour: refusal, a YAML file, an entry point, or discovered:RUN#PLACE.  [default:"
    " refusal]"
)
METRICS = ("auto", "logit-diff", "answer-loss", "accuracy")
_FILE: dict[str, Any] = {"metavar": "FILE"}


@dataclass(frozen=True, kw_only=True)
class BehaviourOptions(TemplateFlags):
    """The options of every command that examines a behaviour of a pair; the fields are the flags."""

    base: Annotated[str | None, typer.Option("--base", metavar="BASE", help="The base model.")] = (
        None
    )
    positive: Annotated[
        Path | None, typer.Option("--positive", **_FILE, help="Prompts that show the behaviour.")
    ] = None
    task: Annotated[
        Path | None,
        typer.Option(
            "--task", **_FILE, help="Instead of --positive: prompts with answers (wrong ones too)."
        ),
    ] = None
    negative: Annotated[Path, typer.Option("--negative", **_FILE, help="Prompts that do not.")]
    metric: Annotated[
        str,
        typer.Option(
            "--metric", metavar="NAME", help="Of a task: logit-diff, answer-loss or accuracy."
        ),
    ] = "auto"
    verify_positive: Annotated[
        Path | None,
        typer.Option(
            "--verify-positive",
            **_FILE,
            rich_help_panel=VERIFICATION,
            help="As --positive or --task, to verify on.  [default: a held-out half]",
        ),
    ] = None
    verify_negative: Annotated[
        Path | None,
        typer.Option(
            "--verify-negative",
            **_FILE,
            rich_help_panel=VERIFICATION,
            help="As --negative, to verify on.  [default: a held-out half]",
        ),
    ] = None
    column: Annotated[
        str, typer.Option("--column", metavar="NAME", help="Column of the prompt files.")
    ] = "prompt"
    template_column: Annotated[
        str | None,
        typer.Option(
            "--template-column", metavar="NAME", help="Column that names prompts' templates."
        ),
    ] = None
    behaviour: Annotated[
        str | None, typer.Option("--behaviour", metavar="NAME|FILE.yaml", help=BEHAVIOUR_HELP)
    ] = None
    markers: Annotated[
        Path | None, typer.Option("--markers", **_FILE, help="Refusal markers, one a line.")
    ] = None
    max_new_tokens: Annotated[
        int,
        typer.Option(
            "--max-new-tokens", metavar="N", min=1, help="Maximum length of an answer, in tokens."
        ),
    ] = 48
    answer_after: Annotated[
        str,
        typer.Option(
            "--answer-after",
            metavar="TEXT",
            help="The answer follows TEXT; auto: a thinking block, where there is one; none.",
        ),
    ] = "auto"
    max_prompts: Annotated[
        int | None,
        typer.Option(
            "--max-prompts",
            metavar="N",
            min=1,
            help="At most N prompts per class, in each half.  [default: all; locate-neurons: 48]",
        ),
    ] = None

    def warn_of_few(self, draws: int, least: int = 19) -> None:
        """Print a note before the run where random sets are too few for a verdict."""
        if draws < least:
            self.remark(
                f"note: {draws} random sets are too few for a verdict; {least} are needed"
                " (--random-sets)"
            )

    def check(self) -> None:
        """Raise OptionError for options that contradict each other; nothing is read."""
        if (self.verify_positive is None) != (self.verify_negative is None):
            raise OptionError(
                "only one of --verify-positive and --verify-negative was given; give both or"
                " neither"
            )
        if (self.positive is None) == (self.task is None):
            raise OptionError(
                "give either --positive FILE or --task FILE: the prompts whose behaviour is located"
            )
        if self.task is None and self.metric != "auto":
            raise OptionError(
                f"--metric {self.metric} needs a task; give --task FILE, or leave it out"
            )
        if self.metric not in METRICS:
            raise OptionError(f"unknown --metric {self.metric!r}; use {', '.join(METRICS)}")
        if self.task is not None and self.markers is not None:
            raise OptionError(
                "--markers belong to refusals and --task has answers; give one of them"
            )
        if self.task is not None and self.behaviour is not None:
            raise OptionError("--behaviour and --task both define the behaviour; give one of them")
        require_one_source(self.behaviour, self.markers)
        self.template_arguments()

    def differentiable(self, sought: "BehaviourSpecification") -> bool:
        """Whether the metric has a gradient: of the task, else of what is ``sought``."""
        return sought.differentiable if self.task is None else self.metric != "accuracy"

    def positives(self, path: Path, name: str):
        """A file of positive prompts: of a task, with answers."""
        from interp.prompts import read_prompts, read_task

        return (read_prompts if self.task is None else read_task)(
            path, self.column, name, self.template_column
        )

    def contrast(self, positive: Path, negative: Path, name: str) -> "Contrast":
        """Two prompt files as a contrast; ``name`` tells their clusters from those of other files."""
        from interp.prompts import Contrast, read_prompts

        negatives = read_prompts(negative, self.column, f"{name}-", self.template_column)
        return Contrast(self.positives(positive, f"{name}+"), negatives)

    @overload
    def selection_and_held_out(self, verify: Literal[True]) -> tuple["Contrast", "Contrast"]: ...

    @overload
    def selection_and_held_out(self, verify: bool) -> tuple["Contrast", "Contrast | None"]: ...

    def selection_and_held_out(self, verify: bool) -> tuple["Contrast", "Contrast | None"]:
        """The selection split and, with ``verify``, the held-out split: two more files, else half
        of the clusters.
        """
        located_on = self.contrast(*_both(self.positive or self.task, self.negative), "locate")
        if self.verify_positive is not None:
            verified_on = self.contrast(
                *_both(self.verify_positive, self.verify_negative), "verify"
            )
            located_on.require_disjoint(verified_on)
            return located_on, verified_on
        return located_on.split(self.seed) if verify else (located_on, None)

    def specification(self) -> "BehaviourSpecification":
        """The behaviour of ``--behaviour`` or of ``--markers``, else refusal by the default ones."""
        return specification_of(self.behaviour, self.markers, self.store)

    def make_metric(
        self, tokenizer: Any, sought: "BehaviourSpecification", *contrasts: "Contrast | None"
    ):
        """The metric: of what is sought, or of the task whose answers these contrasts hold.

        Raises MetricError where a judge that reads it tells nothing.
        """
        from interp.metrics import Behaviour, Task

        if self.task is None:
            metric = sought.metric(tokenizer)
            if isinstance(metric, Behaviour):
                metric.check()
            return metric
        return Task.from_prompts(
            tokenizer,
            [p for part in contrasts if part is not None for p in part.positive],
            self.metric,
        )

    def study(self, pair: "Pair", contrast: "Contrast", metric: Any) -> "Study":
        """A study of a pair on at most ``--max-prompts`` prompts of each class."""
        from interp.engines import engine_named
        from interp.study import Study

        engine = engine_named(self.engine, self.remote)
        prompts = contrast.limit(self.max_prompts)
        return Study(
            pair,
            prompts,
            metric,
            self.seed,
            self.batches(),
            self.max_new_tokens,
            self.answer_after,
            engine,
            self.quiet,
        )

    def for_second_behaviour(
        self, task: Path | None, positive: Path | None, metric: str, behaviour: str | None
    ) -> "BehaviourOptions":
        """The same options for another task or behaviour; without a behaviour of its own, that of
        the first.
        """
        options = replace(self, task=task, positive=positive, metric=metric)
        if task is not None or behaviour is not None:
            return replace(options, behaviour=behaviour, markers=None)
        return options


def require_one_source(behaviour: str | None, markers: Path | None) -> None:
    """Raise OptionError where both define a refusal."""
    if markers is not None and behaviour not in (None, "refusal"):
        raise OptionError(
            f"--markers are of refusals and --behaviour is {behaviour}; give one of them"
        )


def specification_of(
    behaviour: str | None, markers: Path | None, store: Path
) -> "BehaviourSpecification":
    """The behaviour that options name, read and checked before any model is loaded: refusal where
    they name none. One that was discovered is read from the ``store``.
    """
    from interp.metrics import read_behaviour, read_markers, refusal_specification
    from interp.metrics.discovered import is_discovered, read_discovered
    from interp.store import Store

    if markers is not None:
        return refusal_specification(read_markers(markers))
    if behaviour is not None and is_discovered(behaviour):
        return read_discovered(behaviour, Store(store))
    return read_behaviour(behaviour or "refusal")


def _both(positive: Path | None, negative: Path | None) -> tuple[Path, Path]:
    return required(positive, "a file of positive prompts"), required(
        negative, "a file of negative prompts"
    )
