"""What all commands share: common options, and how results and remarks are printed.

A command that is decorated with ``takes(Common)`` gets the fields of ``Common`` as flags and
receives them as its argument ``common``; ``takes(RuntimeOptions)`` adds those that matter when a model
runs.
"""

import inspect
import json
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import MISSING, dataclass, fields
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, get_args, get_type_hints

import typer
from typer.core import TyperCommand
from typer.models import OptionInfo

from interp.cli.piped_files import as_rereadable
from interp.errors import OptionError
from interp.provenance import to_json_value
from interp.provenance.request import CommandRequest, as_request

if TYPE_CHECKING:
    from interp.capture import BatchSize


NewTokens = Annotated[
    str,
    typer.Option(
        "--new-tokens",
        metavar="NAME",
        help="Tokens the base has no row for: refuse, or mean of its rows.",
    ),
]


EXAMINED, METHOD, VERIFICATION = "What to examine", "Method", "Verification"
RUNNING, OUTPUT = "How models are run", "Output"
PANELS = (EXAMINED, METHOD, VERIFICATION, RUNNING, OUTPUT)
"""Groups of options in a command's help, in this order."""


NOT_RECORDED = {"store", "quiet", "as_json", "debug", "summary"}
"""Options that change neither what is computed nor how: where runs are kept, what is printed."""


class GroupedCommand(TyperCommand):
    """A command whose help lists its options in groups, ``PANELS``, and whose request is recorded
    with the runs that it makes.
    """

    def invoke(self, ctx: Any) -> Any:
        """Run the command; raises OptionError where another one was meant (``replaying``)."""
        request, expected = _request_of(ctx), _EXPECTED.get()
        if expected is not None and (request, str(ctx.params["store"])) != expected:
            raise OptionError(
                f"the recorded request of `interp {expected[0].command}` has options that are read"
                " otherwise; run its command yourself"
            )
        with as_request(request):
            return super().invoke(ctx)

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """Arguments first, then options by group; ``--help`` is the last of all."""
        groups: dict[str, list] = {}
        for parameter in self.get_params(ctx):
            if (record := parameter.get_help_record(ctx)) is not None:
                is_argument = parameter.param_type_name == "argument"
                panel = getattr(parameter, "rich_help_panel", None) or OUTPUT
                groups.setdefault("Arguments" if is_argument else panel, []).append(record)
        for panel in ("Arguments", *PANELS):
            if panel in groups:
                with formatter.section(panel):
                    formatter.write_dl(groups[panel])


_EXPECTED: ContextVar[tuple[CommandRequest, str] | None] = ContextVar("expected", default=None)


@contextmanager
def replaying(request: CommandRequest, store: str) -> Iterator[None]:
    """Let nothing run in this context but this request, in this store."""
    token = _EXPECTED.set((request, store))
    try:
        yield
    finally:
        _EXPECTED.reset(token)


def _request_of(ctx: Any) -> CommandRequest:
    """What was given of a command's parameters, as click has read it."""
    arguments, options = [], {}
    for parameter in ctx.command.params:
        given = ctx.get_parameter_source(parameter.name)
        value = ctx.params.get(parameter.name)
        if value is None or given is None or given.name != "COMMANDLINE":
            continue
        if parameter.param_type_name == "argument":
            arguments += map(str, value) if isinstance(value, (list, tuple)) else [str(value)]
        elif parameter.name not in NOT_RECORDED:
            flag = max(parameter.opts, key=len)
            if value is False:
                flag, value = max(parameter.secondary_opts, key=len), True
            options[flag] = (
                [_plain(one) for one in value]
                if isinstance(value, (list, tuple))
                else _plain(value)
            )
    command = " ".join(ctx.command_path.split()[1:])
    return CommandRequest(command=command, arguments=arguments, options=options)


def _plain(value: Any) -> bool | int | float | str:
    return value if isinstance(value, (bool, int, float)) else str(value)


@dataclass(frozen=True, kw_only=True)
class Common:
    """The options of every command; the fields are the flags.

    ``panel``: the group in which a command's help lists the fields that a class adds.
    """

    panel: ClassVar[str] = OUTPUT

    store: Annotated[Path, typer.Option("--store", metavar="DIR", help="Where runs are kept.")] = (
        Path("runs")
    )
    quiet: Annotated[bool, typer.Option("--quiet", help="No progress and no notes on stderr.")] = (
        False
    )
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object on stdout.")] = (
        False
    )
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False

    def remark(self, text: str) -> None:
        """Print a remark on stderr, unless ``--quiet``."""
        if not self.quiet:
            print(text, file=sys.stderr, flush=True)

    def status(self, text: str) -> None:
        """Print what is being done, on a terminal only."""
        if sys.stderr.isatty():
            self.remark(text)

    def result(self, record: Mapping[str, Any], text: str) -> None:
        """Print the command's result on stdout: ``record`` with ``--json``, else ``text``."""
        # a character that stdout cannot show would be replaced: as an escape it is the same JSON
        escaped = (sys.stdout.encoding or "utf-8").lower().replace("-", "") != "utf8"
        print(
            json.dumps(to_json_value(record, finite=False), ensure_ascii=escaped)
            if self.as_json
            else text
        )


@dataclass(frozen=True, kw_only=True)
class RuntimeOptions(Common):
    """The options of every command that runs a model."""

    panel: ClassVar[str] = RUNNING

    batch_size: Annotated[
        str, typer.Option("--batch-size", metavar="N|auto", help="Prompts at a time.")
    ] = "auto"
    memory: Annotated[
        str,
        typer.Option(
            "--memory",
            metavar="4G|auto",
            help="Memory limit of the process; batches are made to fit.",
        ),
    ] = "auto"
    device: Annotated[
        str, typer.Option("--device", metavar="NAME|auto", help="cpu, cuda, cuda:1, spread.")
    ] = "auto"
    dtype: Annotated[
        str, typer.Option("--dtype", metavar="NAME|auto", help="float32, bfloat16, float16.")
    ] = "auto"
    seed: Annotated[int, typer.Option("--seed", min=0, help="Random seed.")] = 0
    engine: Annotated[str, typer.Option("--engine", metavar="NAME", help="torch or nnsight.")] = (
        "torch"
    )
    remote: Annotated[
        bool, typer.Option("--remote", help="Run passes on NDIF (--engine nnsight).")
    ] = False
    new_tokens: NewTokens = "refuse"

    @property
    def loading(self) -> dict[str, Any]:
        """What ``Pair.load`` takes of them."""
        return {"device": self.device, "dtype": self.dtype, "new_tokens": self.new_tokens}

    def batches(self) -> "BatchSize":
        """Prompts at a time, or the memory that all may take; None for ``auto``.

        Raises OptionError for anything but a whole number above 0, for what is no amount of memory,
        and for both.
        """
        if self.memory != "auto":
            from interp.maths.memory import Memory

            if self.batch_size != "auto":
                raise OptionError(
                    "--memory and --batch-size both say how large batches are; give one of them"
                )
            return Memory.parse(self.memory)
        if self.batch_size == "auto":
            return None
        if not self.batch_size.isdecimal() or int(self.batch_size) < 1:
            raise OptionError(
                f"--batch-size {self.batch_size} is not a number of prompts; use auto or 1, 2, ..."
            )
        return int(self.batch_size)


def takes(
    options: type[Common], without: Sequence[str] = ()
) -> Callable[[Callable], Callable[..., Any]]:
    """Give a command the fields of ``options`` as flags, gathered in its argument ``common``;
    ``without``: fields that keep their default, since the command has no such flag.
    """

    def decorate(command: Callable) -> Callable[..., Any]:
        parameters = [
            p
            for p in inspect.signature(command, eval_str=True).parameters.values()
            if p.name != "common"
        ]
        for parameter in parameters:
            _set_panel(parameter.annotation, METHOD)
        panels = {
            name: vars(kind).get("panel", EXAMINED)
            for kind in reversed(options.__mro__)
            for name in vars(kind).get("__annotations__", {})
        }
        types = get_type_hints(options, include_extras=True)
        for name, annotation in types.items():
            _set_panel(annotation, panels[name])
        flags = [
            inspect.Parameter(
                f.name,
                inspect.Parameter.KEYWORD_ONLY,
                default=inspect.Parameter.empty if f.default is MISSING else f.default,
                annotation=types[f.name],
            )
            for f in fields(options)
            if f.name not in without
        ]

        # what a command examines comes before how, and both before what all commands share
        first = (
            set(vars(options).get("__annotations__", {}))
            if options not in (Common, RuntimeOptions)
            else set()
        )
        leading_parameters = [p for p in parameters if p.kind is not inspect.Parameter.KEYWORD_ONLY]
        keyword_parameters = [p for p in parameters if p.kind is inspect.Parameter.KEYWORD_ONLY]
        leading, trailing = (
            [f for f in flags if (f.name in first) is wanted] for wanted in (True, False)
        )

        @wraps(command)
        def run(**arguments):
            arguments = {name: as_rereadable(value) for name, value in arguments.items()}
            common = options(
                **{f.name: arguments.pop(f.name) for f in fields(options) if f.name in arguments}
            )
            return command(**arguments, common=common)

        command_line: Any = run  # no annotation of a function has a signature to set
        command_line.__signature__ = inspect.Signature(
            leading_parameters + leading + keyword_parameters + trailing
        )
        return command_line

    return decorate


def _set_panel(annotation: Any, panel: str) -> None:
    """Put an option into a group of the help, unless it names one itself."""
    for part in get_args(annotation):
        if isinstance(part, OptionInfo) and part.rich_help_panel is None:
            part.rich_help_panel = panel
