"""Reports: stored runs as one self-contained HTML page that works offline."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from interp.report.page import write_page

__all__ = ["write_page"]


def __getattr__(name: str) -> Any:
    # imported on first use, so that reading a report does not import plotly
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from interp.report import page

    return getattr(page, name)
