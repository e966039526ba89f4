"""The report's figures: from its contents to what plotly draws, one file for a panel or two."""
