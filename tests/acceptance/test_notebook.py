"""Encore in a notebook: cells run by a real kernel, and what stands below them."""

import os
from ast import literal_eval
from pathlib import Path
from typing import Any

import pytest

from tests.tiny_photos import reds_and_blues

nbclient = pytest.importorskip("nbclient")
pytest.importorskip("ipykernel")
nbformat = pytest.importorskip("nbformat")

ROOT = Path(__file__).parents[2]
SEARCH = (
    "study = encore.search(data='PHOTOS', trials=2, backbone='test_resnet', weights='random', "
    "portfolio=False, devices='cpu:1'{})"
)
COMPLETE = """
from IPython.core.completer import provisionalcompleter
with provisionalcompleter():
    found = sorted(each.text for each in get_ipython().Completer.completions("encore.", 7))
found
"""
CELLS = (
    "import encore",
    COMPLETE,
    SEARCH.format(""),
    "study",
    "study.best()",
    "study.trials()[['trial', 'score']]",
    "len(study.epochs())",
    "study.plot_curves()",
    "study.plot_confusion()",
    "study.report('page.html')",
    SEARCH.format(", progress=False"),
)


def notebook(folder: Path) -> Any:
    """Run the cells in a kernel of a folder with tiny photos; return the notebook."""
    reds_and_blues(folder)
    made = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in CELLS])
    made.metadata["kernelspec"] = {"name": "python3", "display_name": "Python 3"}
    client = nbclient.NotebookClient(made, timeout=300, resources={"metadata": {"path": folder}})
    client.execute(env={**os.environ, "PYTHONPATH": str(ROOT)})
    return made


@pytest.mark.slow
def test_a_notebook_searches_and_shows(tmp_path: Path) -> None:
    """One display of progress, tables and figures under their cells, and silence where asked."""
    outputs = [cell.outputs for cell in notebook(tmp_path).cells]
    (listed,) = outputs[1]
    names = ("Selection", "Study", "best", "check_data", "load", "report", "search")
    assert literal_eval(listed.data["text/plain"]) == list(names)
    (progress,) = outputs[2]
    assert "2 trials done, 0 to go" in progress.data["text/html"] or "2/2" in str(progress.data)
    for cell in (3, 4):
        assert "<table>" in outputs[cell][0].data["text/html"]
    assert outputs[4][0].data["text/plain"].startswith("<Selection: trial ")
    assert "<table" in outputs[5][0].data["text/html"]
    assert int(outputs[6][0].data["text/plain"]) > 0
    for cell in (7, 8):
        assert "application/vnd.plotly.v1+json" in outputs[cell][0].data
    assert (tmp_path / "page.html").exists()
    assert outputs[10] == []
