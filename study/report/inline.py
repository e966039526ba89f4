"""A figure of the report as a notebook shows it: on its own, under the cell that asks for it."""

from typing import TYPE_CHECKING

from study.report.figures.style import Panel, shown

if TYPE_CHECKING:
    import plotly.graph_objects as go

_LIGHT = {"template": "plotly_white", "paper_bgcolor": "white", "plot_bgcolor": "white"}
"""The report's page lends its figures its colours; a notebook has none to lend."""


def inline(panel: Panel) -> "go.Figure":
    """Return a panel's figure; where there is nothing to draw, one that says why."""
    import plotly.graph_objects as go  # seconds to import

    made = go.Figure(panel.figure)
    made.update_layout(**_LIGHT)
    if panel.figure is None:
        made.update_layout(title=shown(panel.said, 200), height=120)
    return made
