"""The command of an analyzer that has no module here: its fields are the flags.

``COMMANDS`` names it, ``interp.analyzers`` has a module of that name and in it a class whose
``name`` it is. Everything else (which pair, which prompts, where runs are kept, how a run is told)
is as in every command that reads prompts.
"""

import inspect
from collections.abc import Callable
from dataclasses import MISSING, Field, fields
from importlib import import_module
from typing import Annotated, Any, get_type_hints

import typer

from interp.cli.behaviour_options import sought
from interp.cli.common import takes
from interp.cli.prompt_options import PromptOptions
from interp.cli.request_cache import Request
from interp.cli.results import page_again, remarked, tell, write
from interp.errors import OptionError

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
    """The command of the analyzer ``name``; its docstring is the help, ``field(metadata={"help":
    ...})`` a flag's.

    Fields of one word, number or yes and no become flags; others keep their default.
    ModuleNotFoundError when ``interp.analyzers`` has no such module, ValueError when the module
    defines no such analyzer.
    """
    module = import_module(f"interp.analyzers.{name.replace('-', '_')}")
    found = [
        kind
        for kind in vars(module).values()
        if isinstance(kind, type) and getattr(kind, "name", None) == name
    ]
    if len(found) != 1:
        raise ValueError(
            f"{module.__name__} defines {len(found)} analyzers of the name {name!r}: expected one"
        )
    (kind,) = found
    types = get_type_hints(kind)
    own = [field for field in fields(kind) if field.name != "parent" and types[field.name] in TYPES]
    taken = [field for field in own if "from_parent" not in field.metadata]

    def command(
        tuned: str,
        *,
        common: PromptOptions,
        metric: str = "none",
        behaviour: str | None = None,
        **given: Any,
    ) -> str:
        asked = {"tuned": tuned, "common": common, "metric": metric, "behaviour": behaviour}
        request = Request.of(name, asked | given)
        common.check()
        if metric not in METRICS:
            raise OptionError(f"unknown --metric {metric!r}; use {' or '.join(METRICS)}")
        if behaviour is not None and metric != "none":
            raise OptionError(
                "--behaviour and --metric both say what of answers is measured; give one of them"
            )
        examine, title = kind(**given), f"{name}: {tuned}"
        if (kept := request.recall()) is not None:
            for note in kept.notes:
                common.remark(note)
            return tell(common, kept.runs, page_again(common.store, kept, title))
        from interp.store import Store

        looked_for = sought(behaviour, None) if behaviour or metric == "refusal" else None
        prompts = common.read()
        described, store = request.describe(), Store(common.store)
        pair = common.load(tuned, name)
        study = common.study(pair, prompts, looked_for and looked_for.of(pair.tokenizer))
        run = store.run(examine, study)
        notes = remarked(common, study.counts, *study.notes)
        return write(common, request, described, [run], notes, title)

    command.__doc__ = inspect.getdoc(kind)
    command.__signature__ = inspect.Signature(
        [
            inspect.Parameter("tuned", inspect.Parameter.POSITIONAL_OR_KEYWORD, annotation=TUNED),
            *(_flag(field, types[field.name]) for field in taken),
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


def _flag(field: Field, kind: type) -> inspect.Parameter:
    """A field as a flag of its own name; one without a default is required."""
    default = inspect.Parameter.empty if field.default is MISSING else field.default
    said = typer.Option(
        metavar=None if kind is bool else kind.__name__.upper(), help=field.metadata.get("help", "")
    )
    return inspect.Parameter(
        field.name,
        inspect.Parameter.KEYWORD_ONLY,
        default=default,
        annotation=Annotated[kind, said],
    )
