"""Pure functions of scores and predictions: how sure is a number? Free of files and rows."""
