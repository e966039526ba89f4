"""The report's figures for plotly, one file for a panel or two."""
