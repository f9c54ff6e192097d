"""Options of commands that apply a chat template: a system message, and values for
the template.
"""

import json
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

import typer

from interp.cli.common import RuntimeOptions
from interp.errors import OptionError

if TYPE_CHECKING:
    from interp.models.pair import Pair


@dataclass(frozen=True, kw_only=True)
class TemplateFlags(RuntimeOptions):
    """The options of every command that puts prompts into a chat template; the fields are the
    flags.
    """

    system: Annotated[
        str | None,
        typer.Option("--system", metavar="TEXT", help="A system message before every prompt."),
    ] = None
    template_arg: Annotated[
        list[str] | None,
        typer.Option(
            "--template-arg",
            metavar="NAME=VALUE",
            help="A value for the chat template; repeatable.",
        ),
    ] = None

    def template_arguments(self) -> dict[str, Any]:
        """The values of ``--template-arg`` by name; OptionError for what is none, and for a name
        given twice.
        """
        values: dict[str, Any] = {}
        for arguments in self.template_arg or ():
            name, between, value = arguments.partition("=")
            if not between or not name.isidentifier():
                raise OptionError(
                    f"--template-arg {arguments!r} is not NAME=VALUE; write enable_thinking=false"
                )
            if name in values:
                raise OptionError(f"--template-arg {name} is given twice; give it once")
            values[name] = _value(value)
        for text in (self.system, *values.values()):
            if isinstance(text, str) and any("\ud800" <= sign <= "\udfff" for sign in text):
                raise OptionError(
                    f"--system or --template-arg {text[:40]!r} is not UTF-8; write it as UTF-8"
                )
        return values

    def templated(self, pair: "Pair") -> "Pair":
        """The pair with the chat template as it is asked for; OptionError where the template does
        not take it.
        """
        return pair.with_template(self.system, self.template_arguments())


def _value(text: str) -> Any:
    """``true``, ``false`` and numbers as JSON reads them, anything else as text."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return text
    number = isinstance(value, (int, float)) and math.isfinite(value)
    return value if number else text
