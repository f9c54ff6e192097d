"""The look that all figures share: colours that hold on light and on dark paper, text that stays text."""

from __future__ import annotations

import html
from typing import Any

import plotly.graph_objects as go

BLUE, ORANGE, GREEN, PURPLE, GREY = "#3b82f6", "#dd8423", "#2f9e73", "#a36bd6", "#8b93a1"
SERIES = (BLUE, ORANGE, GREEN, PURPLE)
INK, PAPER, GRID = "#1d2330", "#ffffff", "#e3e6ec"
FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Helvetica Neue', Arial, sans-serif"


def safe(text: object) -> str:
    """``text`` for a label or a hover box of plotly, which would read tags and entities in it."""
    return html.escape(str(text), quote=False)


def faint(colour: str, opacity: float) -> str:
    """A hexadecimal colour with an opacity, as plotly takes it for fills."""
    red, green, blue = (int(colour[i : i + 2], 16) for i in (1, 3, 5))
    return f"rgba({red},{green},{blue},{opacity})"


def finish(figure: go.Figure, title: str, caption: str, height: int, **layout: Any) -> go.Figure:
    """Give a figure its title, its caption and the common look; ``layout`` goes to plotly."""
    axis = {"gridcolor": GRID, "zerolinecolor": GRID, "linecolor": GRID, "automargin": True}
    figure.update_layout(
        template="none",
        title={"text": safe(title), "x": 0, "xref": "container", "xanchor": "left", "font": {"size": 17}},
        meta={"caption": caption},
        font={"family": FONT, "size": 13, "color": INK},
        paper_bgcolor=PAPER,
        plot_bgcolor=PAPER,
        height=height,
        margin={"l": 56, "r": 16, "t": 64, "b": 48},
        legend={"orientation": "h", "x": 0, "xanchor": "left", "y": 1.02, "yanchor": "bottom"},
        hoverlabel={"align": "left", "font": {"family": FONT}},
        **layout,
    )
    figure.update_xaxes(**axis, zeroline=False, ticklabeloverflow="allow", title_font_size=13)
    figure.update_yaxes(**axis, title_font_size=13)
    return figure
