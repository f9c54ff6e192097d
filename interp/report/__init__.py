"""The report: stored runs as one HTML page that needs nothing but a browser, and no network."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from interp.report.page import write_page

__all__ = ["write_page"]


def __getattr__(name: str) -> Any:
    # on first use: a report is read and its claims are listed without plotly
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from interp.report import page

    return getattr(page, name)
