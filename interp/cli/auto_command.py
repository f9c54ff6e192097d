"""The command of an analyzer that has no module of its own here: its options are the flags.

``interp.kinds`` names the analyzer. Everything else (the pair, the prompts, where runs are kept,
what is printed) is as in every command that reads prompts.
"""

import inspect
from collections.abc import Callable
from dataclasses import MISSING, Field, fields, is_dataclass
from typing import Annotated, Any, get_type_hints

import typer

from interp.cli.behaviour_options import specification_of
from interp.cli.common import takes
from interp.cli.prompt_options import PromptOptions
from interp.cli.request_cache import Request
from interp.cli.runner import Session, answer
from interp.errors import OptionError
from interp.kinds import KINDS, kinds, load

TYPES = (bool, int, float, str)
METRICS = ("none", "refusal")
TUNED = Annotated[
    str, typer.Argument(metavar="TUNED", help="Directory, Hub id, adapter, or organism:NAME.")
]
BEHAVIOUR = Annotated[
    str | None, typer.Option("--behaviour", metavar="NAME|FILE.yaml", help="Instead of --metric.")
]
METRIC = Annotated[
    str,
    typer.Option("--metric", metavar="NAME", help="What of answers is measured: none or refusal."),
]


def command_of(name: str) -> Callable[..., str]:
    """The command of the kind of run ``name``; the analyzer's docstring is the help.

    Fields of one word, number or yes and no become flags, with the help and the bounds that
    ``interp.analyzers.framework.option`` gave them; others keep their default.
    """
    from interp.analyzers.framework import Analyzer, Known
    from interp.models.sources import find

    kind: Any = load(kinds()[name].analyzer)
    if not (isinstance(kind, type) and is_dataclass(kind) and callable(kind)):
        raise OptionError(
            f"{kinds()[name].analyzer} is not an analyzer: {name} has to name a dataclass whose"
            " instances take a study (interp.analyzers.framework.Analyzer)"
        )
    types = get_type_hints(kind)
    needs = getattr(kind, "needs", None)
    _require_possible(name, kind, types)
    option_fields = [
        field for field in fields(kind) if field.name != "parent" and types[field.name] in TYPES
    ]
    flag_fields = [field for field in option_fields if not field.metadata.get("from_parent")]

    def command(
        tuned: str,
        *,
        common: PromptOptions,
        metric: str = "none",
        behaviour: str | None = None,
        **options: Any,
    ) -> str:
        arguments = {"tuned": tuned, "common": common, "metric": metric, "behaviour": behaviour}
        request = Request.of(name, arguments | options)
        common.check()
        if metric not in METRICS:
            raise OptionError(f"unknown --metric {metric!r}; use {' or '.join(METRICS)}")
        if behaviour is not None and metric != "none":
            raise OptionError(
                "--behaviour and --metric both say what of answers is measured; give one of them"
            )
        analyzer: Any = kind(**options)
        if needs is not None and needs.negatives and common.negative is None:
            raise OptionError(
                f"{name} needs prompts of two classes; give --positive and --negative"
            )
        if needs is not None and needs.metric and metric == "none" and behaviour is None:
            raise OptionError(
                f"{name} needs a behaviour; give --behaviour NAME, or --metric refusal"
            )

        def compute(session: Session) -> list:
            specification = (
                specification_of(behaviour, None, common.store)
                if behaviour or metric == "refusal"
                else None
            )
            prompts = common.read()
            if isinstance(analyzer, Analyzer):
                has_base = common.base is not None or find(tuned).base_name is not None
                analyzer.check(Known(has_base=has_base))
            pair = session.load(tuned, common.base, name if needs is None or needs.base else "")
            study = session.study(
                pair, prompts, specification and specification.metric(pair.tokenizer)
            )
            session.note(study.counts, *study.notes)
            return [session.store.run(analyzer, study)]

        # of other packages it is not known whether their code changed
        recalls = name in KINDS
        return answer(request, f"{name}: {tuned}", compute, recalls)

    command.__doc__ = inspect.getdoc(kind)
    command.__signature__ = inspect.Signature(
        [
            inspect.Parameter("tuned", inspect.Parameter.POSITIONAL_OR_KEYWORD, annotation=TUNED),
            *(_flag(field, types[field.name]) for field in flag_fields),
            inspect.Parameter(
                "metric", inspect.Parameter.KEYWORD_ONLY, default="none", annotation=METRIC
            ),
            inspect.Parameter(
                "behaviour", inspect.Parameter.KEYWORD_ONLY, default=None, annotation=BEHAVIOUR
            ),
            inspect.Parameter("common", inspect.Parameter.KEYWORD_ONLY, annotation=PromptOptions),
        ]
    )
    return takes(PromptOptions)(command)


def _require_possible(name: str, kind: type, types: dict[str, Any]) -> None:
    """Raise OptionError for an option that has the name of a common flag, or that cannot be given."""
    common = {field.name for field in fields(PromptOptions)} | {"tuned", "metric", "behaviour"}
    for field in fields(kind):
        if field.name in common:
            raise OptionError(
                f"the option {field.name} of {kind.__name__} has the name of a flag that every"
                " command has; give it another one"
            )
        is_flag = types[field.name] in TYPES
        if not is_flag and field.default is MISSING and field.default_factory is MISSING:
            raise OptionError(
                f"the option {field.name} of {kind.__name__} has no default and cannot be a flag of"
                f" `interp {name}`, which takes words, numbers, and yes or no"
            )


def _flag(field: Field, kind: type) -> inspect.Parameter:
    """A field as a flag of its own name; one without a default is required."""
    default = inspect.Parameter.empty if field.default is MISSING else field.default
    flag = typer.Option(
        metavar=None if kind is bool else kind.__name__.upper(),
        help=_help_of(field),
        min=field.metadata.get("ge"),
        max=field.metadata.get("le"),
    )
    return inspect.Parameter(
        field.name,
        inspect.Parameter.KEYWORD_ONLY,
        default=default,
        annotation=Annotated[kind, flag],
    )


def _help_of(field: Field) -> str:
    """The help of an option, with the words that it takes."""
    choices = field.metadata.get("choices") or ()
    return " ".join(
        [field.metadata.get("help", ""), *([f"({', '.join(choices)})"] if choices else [])]
    )
