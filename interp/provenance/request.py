"""The request of a command: its name, arguments and options, as typed values.

A run records the request of the command that made it, so that it can be made again, on other
prompts too.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError

Text = Annotated[str, StringConstraints(pattern=r"^[^\x00]*$", max_length=10_000)]
Scalar = bool | int | float | Text
Flag = Annotated[str, StringConstraints(pattern=r"^--[a-z0-9][a-z0-9-]*$")]


class CommandRequest(BaseModel):
    """A command: ``locate-neurons`` or ``sae eval``; its arguments, and its options by flag.

    A flag that takes no value is True; one that was given several times has a list. Options that
    were not given are not there, and neither are those for the store and for what is printed.
    Raises pydantic's ValidationError for fields of other names or types.
    """

    model_config = ConfigDict(frozen=True, strict=True, extra="forbid")

    command: Text
    arguments: list[Text] = Field(default_factory=list)
    options: dict[Flag, Scalar | list[Scalar]] = Field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """The request as JSON."""
        return self.model_dump()

    def words(self) -> list[str]:
        """The words of a command line that a person would type after ``interp``."""
        options = [
            word
            for flag, value in self._flags()
            for word in ((flag,) if value is True else (flag, str(value)))
        ]
        separator = ["--"] if any(one.startswith("-") for one in self.arguments) else []
        arguments = [*separator, *self.arguments]
        return [
            *self.command.split(),
            *(options + arguments if separator else arguments + options),
        ]

    def unambiguous_words(self) -> list[str]:
        """Words for a request that somebody else may have written: values are joined to their flags.

        A flag that takes a value and has none can still take the next word. So ``interp.cli.replay``
        compares what was read with the request before anything runs.
        """
        options = [flag if value is True else f"{flag}={value}" for flag, value in self._flags()]
        return [*self.command.split(), *options, "--", *self.arguments]

    def with_options(self, options: Mapping[str, Scalar]) -> CommandRequest:
        """The same request with these options set."""
        return self.model_copy(update={"options": {**self.options, **options}})

    def _flags(self) -> Iterator[tuple[str, Scalar]]:
        for flag, value in self.options.items():
            for one in value if isinstance(value, list) else [value]:
                if one is not False:
                    yield flag, one


def has_request(context: Mapping[str, Any]) -> bool:
    """Whether there is a request in the context of a run's provenance, readable or not."""
    environment = context.get("environment")
    return isinstance(environment, Mapping) and environment.get("request") is not None


def recorded_request(context: Mapping[str, Any]) -> CommandRequest | None:
    """The request in the context of a run's provenance; None for a run made in Python, and for a
    request that cannot be read (``has_request``).
    """
    environment = context.get("environment")
    value = environment.get("request") if isinstance(environment, Mapping) else None
    try:
        return None if value is None else CommandRequest.model_validate(value)
    except ValidationError:
        return None


_REQUEST: ContextVar[CommandRequest | None] = ContextVar("request", default=None)


def current_request() -> CommandRequest | None:
    """The request that runs are made for now; None in Python."""
    return _REQUEST.get()


@contextmanager
def as_request(request: CommandRequest) -> Iterator[None]:
    """Record this request for runs made in this context, in place of a larger one around it."""
    token = _REQUEST.set(request)
    try:
        yield
    finally:
        _REQUEST.reset(token)
