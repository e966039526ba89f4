"""A figure of the report for a notebook."""

from typing import TYPE_CHECKING

from study.report.figures.style import Panel, shown

if TYPE_CHECKING:
    import plotly.graph_objects as go

_LIGHT = {"template": "plotly_white", "paper_bgcolor": "white", "plot_bgcolor": "white"}
"""In the report, figures take their colours from the page; here they are set."""


def inline(panel: Panel) -> "go.Figure":
    """Return a panel's figure; if there is nothing to draw, one with the reason as text."""
    import plotly.graph_objects as go  # seconds to import

    made = go.Figure(panel.figure)
    made.update_layout(**_LIGHT)
    if panel.figure is None:
        made.update_layout(title=shown(panel.said, 200), height=120)
    return made
