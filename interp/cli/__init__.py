"""The command line: names and one-line helps here, one module per command, loaded when it is
called.

``interp --help`` imports typer and nothing else, so it answers at once. Exit codes: 0 done (also
when no claim is supported), 1 a claim failed (``verify`` only), 2 bad input, 70 a defect of ours,
130 interrupted. Whatever goes wrong is one line on stderr; ``--debug`` adds the traceback.
"""

import errno
import os
import sys
import traceback
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib import import_module, metadata
from importlib.util import find_spec
from io import TextIOWrapper
from typing import Annotated, cast

import typer
from typer.core import TyperGroup

from interp.errors import InterpError
from interp.kinds import KINDS, command_helps, kinds

_LISTED = (
    "audit",
    "locate-neurons",
    "transfer",
    "dissociate",
    "discover",
    "compare",
    "tuco",
    "intruders",
    "graft",
    "patch-weights",
    "cross-patch",
    "circuit",
    "patch-heads",
    "component-masking",
    "wrapped",
    "sae-circuit",
    "lofit",
    "select-data",
    "control",
    "tune",
    "agree",
    "stitch",
    "report",
    "verify",
    "ls",
    "show",
    "sql",
    "organisms",
    "doctor",
    "demo",
)
_LISTED_SAE = ("train", "eval", "diff", "features", "probe", "convert")
_HELPS = {
    **command_helps(KINDS),
    "control": "train control fine-tunes: the same training on neutral text",
    "report": "one page over stored runs, with a file of its claims that can be checked",
    "verify": "check a report: compute every claim again from the stored tables",
    "ls": "list the stored runs",
    "show": "show one stored run: its inputs and its results",
    "sql": "query the stored tables",
    "organisms": "list the shipped pairs of models with known differences",
    "doctor": "check this installation",
    "demo": "find and verify the planted neurons of a shipped pair",
    "sae train": "train dictionaries on activations of a model, or of a pair",
    "sae convert": "read a dictionary of any known library, write it for another",
}
"""Help by command: of those that make runs from ``interp.kinds``, of the others from here."""

COMMANDS = {name: _HELPS[name] for name in _LISTED}
GROUPS = {
    "sae": (
        "sparse dictionaries of activations: autoencoders, transcoders, crosscoders",
        {name: _HELPS[f"sae {name}"] for name in _LISTED_SAE},
    )
}
"""Commands of two words: ``interp sae train`` is the module ``interp.cli.sae_train``."""


def commands() -> dict[str, str]:
    """All commands of one word with their help; kinds that are not listed above come last."""
    helps = command_helps(kinds())
    added = {name: help for name, help in helps.items() if name not in COMMANDS and " " not in name}
    return {**COMMANDS, **added}


DONE, BAD_INPUT, DEFECT, INTERRUPTED = 0, 2, 70, 130

_STYLE = {
    "add_completion": False,
    "rich_markup_mode": None,
    "context_settings": {"help_option_names": ["-h", "--help"], "max_content_width": 100},
}


class _LazyCommands(Mapping):
    """name -> command; the module ``interp.cli.<prefix><name>`` is imported when its command is
    asked for.
    """

    def __init__(self, helps: Mapping[str, str], prefix: str) -> None:
        self.helps, self.prefix = helps, prefix

    def __getitem__(self, name: str):
        if not self.prefix and name in GROUPS:
            return _group(*GROUPS[name], prefix=f"{name}_")
        if name not in self.helps:
            raise KeyError(name)
        app = typer.Typer(**_STYLE)
        from interp.cli.common import GroupedCommand

        app.command(name, cls=GroupedCommand)(_command(self.prefix + name.replace("-", "_"), name))
        return typer.main.get_command(app)

    def __iter__(self) -> Iterator[str]:
        return iter(self.helps)

    def __len__(self) -> int:
        return len(self.helps)


def _command(module: str, name: str) -> Callable:
    """What ``interp.cli.<module>`` does; an analyzer without a module there has a plain command
    made of its fields.
    """
    is_own = name in _HELPS or module.replace("_", " ", 1) in _HELPS
    if is_own and find_spec(f"interp.cli.{module}") is not None:
        return import_module(f"interp.cli.{module}").command
    from interp.cli.auto_command import command_of

    return command_of(name)


def _group(
    help_text: str, helps: Mapping[str, str], *, prefix: str = "", options: Callable = lambda: None
) -> TyperGroup:
    """A group of commands, whose help lists them without loading them."""

    class LazyGroup(TyperGroup):
        def __init__(self, **given) -> None:
            super().__init__(**given)
            self.commands = _LazyCommands(helps, prefix)

        def list_commands(self, ctx) -> list[str]:
            return list(helps)

        def format_commands(self, ctx, formatter) -> None:
            with formatter.section("Commands"):
                formatter.write_dl(list(helps.items()))

    app = typer.Typer(cls=LazyGroup, **_STYLE)
    app.callback(help=help_text)(options)
    return cast(TyperGroup, typer.main.get_command(app))


def _print_version(requested: bool) -> bool:
    if not requested:
        return requested
    try:
        print("interp", metadata.version("interp"))
    except metadata.PackageNotFoundError:
        print("interp, from a source tree that is not installed")
    raise typer.Exit


def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, help="Print the version.")
    ] = False,
) -> None:
    """The flags of ``interp`` itself."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code; ``arguments`` default to those of the process."""
    arguments = list(sys.argv[1:] if arguments is None else arguments) or ["--help"]
    arguments += ["--help"] if len(arguments) == 1 and arguments[0] in GROUPS else []
    debug = "--debug" in arguments
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            # an encoding that lacks a character must not cost a run that is done
            stream.reconfigure(errors="replace")
    if find_spec("fcntl") is None:
        return _complain(
            "interp runs on Linux and macOS: its store needs their file locks; on Windows use WSL",
            BAD_INPUT,
        )
    if unread := [
        one for one in arguments if any("\ud800" <= character <= "\udfff" for character in one)
    ]:
        # nothing could be written of it: refused before anything is computed
        message = (
            f"{unread[0]!r} holds bytes that are not text in this locale"
            f" ({sys.getfilesystemencoding()})"
        )
        return _complain(
            f"{message}; rename the file or write the text as UTF-8, or set LC_ALL=C.UTF-8",
            BAD_INPUT,
        )
    try:
        _run(arguments, debug)
        sys.stdout.flush()
    except BrokenPipeError:
        # The reader (`| head`) has what it wanted. What is still buffered must not fail again at
        # shutdown.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except typer.Exit as asked:
        return asked.exit_code
    except (KeyboardInterrupt, typer.Abort):
        return _complain("interrupted", INTERRUPTED)
    except typer.TyperException as error:
        return _complain(_usage(error), BAD_INPUT, debug)
    except InterpError as error:
        return _complain(str(error), error.exit_code, debug)
    except Exception as error:
        if isinstance(error, OSError) and error.errno == errno.ENOSPC:
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return _complain(
                "cannot write the answer: no space left on the device; make room", BAD_INPUT, debug
            )
        if message := _lacks_room(error):
            return _complain(message, BAD_INPUT, debug)
        hint = "" if debug else "; run it again with --debug to see where"
        return _complain(f"internal error, {type(error).__name__}: {error}{hint}", DEFECT, debug)
    return DONE


def replay(text: str, store: str) -> int:
    """Run a recorded request, given as JSON, in a store; nothing but this request runs.

    Its author may be a stranger: OptionError, and exit code 2, where words made of it would be read
    as something else.
    """
    from interp.cli.common import replaying
    from interp.provenance.request import CommandRequest

    request = CommandRequest.model_validate_json(text)
    own = request.with_options({"--store": store, "--json": True, "--quiet": True})
    with replaying(request, store):
        return main(own.unambiguous_words())


def _lacks_room(error: Exception) -> str:
    """What to do about an error that says that a disk or the memory is full, whichever library
    raised it.
    """
    reason = (str(error).strip().splitlines() or [type(error).__name__])[0][:160]
    if any(
        text in reason
        for text in ("No space left on device", "Disk quota exceeded", "File too large")
    ):
        return (
            f"a file cannot be written ({reason}); make room and give the command again: what was"
            " kept goes on"
        )
    if "torch" in sys.modules:
        from interp.maths.memory import is_out_of_memory

        if is_out_of_memory(error):
            return (
                f"there is not enough memory ({reason}); take less at a time, by --batch-size or"
                " --width"
            )
    return ""


def _run(arguments: list[str], debug: bool) -> None:
    # Where cores are shared, threads that spin while they wait make small models three times
    # slower. OpenMP reads this when torch is imported, which has not happened yet.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    if not debug:
        _hush()
    everything = {**commands(), **{name: said for name, (said, _) in GROUPS.items()}}
    group = _group(
        "What did fine-tuning change inside this model, where, and does it matter?",
        everything,
        options=_options,
    )
    with group.make_context("interp", arguments) as context:
        group.invoke(context)


def _hush() -> None:
    """Keep the chatter of libraries off stderr, where one line has to stay one line."""
    warnings.simplefilter("ignore")
    for name, value in {
        "TRANSFORMERS_VERBOSITY": "error",
        "HF_HUB_VERBOSITY": "error",
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "TOKENIZERS_PARALLELISM": "false",
    }.items():
        os.environ.setdefault(name, value)


def _usage(error: typer.TyperException) -> str:
    """A usage error in one line, with the help that would have prevented it."""
    context = getattr(error, "ctx", None)
    hint = f"; see `{context.command_path} --help`" if context else ""
    return error.format_message().replace("Value error, ", "").rstrip(".") + hint


def _complain(message: str, code: int, debug: bool = False) -> int:
    if debug:
        traceback.print_exc()
    print("interp:", " ".join(message.split()), file=sys.stderr)
    return code
