"""The style that all figures share: colours that are legible on light and dark backgrounds, and
escaped text.
"""

from __future__ import annotations

import html
from typing import Any

import plotly.graph_objects as go

BLUE, ORANGE, GREEN, PURPLE, GREY = "#3b82f6", "#dd8423", "#2f9e73", "#a36bd6", "#8b93a1"
SERIES = (BLUE, ORANGE, GREEN, PURPLE)
INK, PAPER, GRID = "#1d2330", "#ffffff", "#e3e6ec"
WIDTH = 820
TITLE = {"y": 1, "yref": "container", "yanchor": "top", "pad": {"t": 12}}
FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Helvetica Neue', Arial, sans-serif"


def escape_label(text: object) -> str:
    """``text`` escaped for a label or hover box, where plotly would interpret tags and entities."""
    return html.escape(str(text), quote=False)


def with_opacity(colour: str, opacity: float) -> str:
    """A hexadecimal colour with an opacity, as plotly accepts it for fills."""
    red, green, blue = (int(colour[i : i + 2], 16) for i in (1, 3, 5))
    return f"rgba({red},{green},{blue},{opacity})"


def legend_rows(figure: go.Figure) -> int:
    """How many rows the legend takes at the width of a notebook or a page; plotly sets it in
    columns of equal width.
    """
    traces: Any = figure.data  # plotly annotates it wrongly
    names = {trace.name for trace in traces if trace.name and trace.showlegend is not False}
    if figure.layout.showlegend is False or not names:
        return 0
    columns = max(1, WIDTH // (60 + round(7.5 * max(map(len, names)))))
    return -(-len(names) // columns)


def finish(figure: go.Figure, title: str, caption: str, height: int, **layout: Any) -> go.Figure:
    """Set a figure's title, caption and the common style; ``layout`` is passed to plotly."""
    # plotly would draw a legend of several rows over the title
    figure.update_layout(**layout)
    top = max(64, 42 + 21 * legend_rows(figure))
    axis = {"gridcolor": GRID, "zerolinecolor": GRID, "linecolor": GRID, "automargin": True}
    figure.update_layout(
        template="none",
        title={
            "text": escape_label(title),
            "x": 0,
            "xref": "container",
            "xanchor": "left",
            "font": {"size": 17},
        }
        | TITLE,
        meta={"caption": caption},
        font={"family": FONT, "size": 13, "color": INK},
        paper_bgcolor=PAPER,
        plot_bgcolor=PAPER,
        height=height + top - 64,
        margin={"l": 56, "r": 16, "t": top, "b": 48},
        legend={"orientation": "h", "x": 0, "xanchor": "left", "y": 1.02, "yanchor": "bottom"},
        hoverlabel={"align": "left", "font": {"family": FONT}},
    )
    figure.update_xaxes(**axis, zeroline=False, ticklabeloverflow="allow", title_font_size=13)
    figure.update_yaxes(**axis, title_font_size=13)
    return figure
