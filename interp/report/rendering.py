"""HTML from the jinja2 templates in ``templates/``.

Every value that a template inserts is escaped as text. Only ``Html`` is inserted unchanged: the
output of another template, or a file of this package.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from interp.report.text import escaped, format_interval, format_number


class Html(str):
    """HTML that templates insert unchanged. Joining it with other text gives an ordinary string,
    which is escaped again.
    """

    def __html__(self) -> str:
        return self


@dataclass(frozen=True)
class Section:
    """A section of a page: its heading, the HTML below it, and for the contents its id and a run's
    key.
    """

    heading: str
    contents: Sequence[Html]
    anchor: str = ""
    key: str = ""


def render(template: str, **values: Any) -> Html:
    """The HTML of a template in ``templates/`` filled with these values."""
    return Html(_environment().get_template(template).render(values))


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("interp.report"),
        autoescape=True,
        finalize=_as_html,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        auto_reload=False,
    )
    environment.filters["number"] = format_number
    environment.globals["interval"] = format_interval
    return environment


def _as_html(value: object) -> object:
    # in addition to what jinja2 escapes, control characters become visible
    return value if hasattr(value, "__html__") else Html(escaped(value))
