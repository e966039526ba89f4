"""All panels of the report that are drawn from rows: by name, ready for the page."""

from study.report.contents import Contents
from study.report.figures.compute import compute
from study.report.figures.confusion import class_table, confusion
from study.report.figures.curves import curves
from study.report.figures.importance import importance
from study.report.figures.parallel import parallel
from study.report.figures.probabilities import answers_of, reliability_diagram
from study.report.figures.progress import progress
from study.report.figures.seeds import seeds
from study.report.figures.separation import separation
from study.report.figures.style import Panel
from study.report.figures.trade_off import trade_off
from study.report.figures.tree import stage_tree


def panels(contents: Contents) -> dict[str, Panel]:
    """Draw them all; what `data` each has beside its figure is said by the function that draws it.

    Names are parameters, importance, curves, tree, seeds, confusion, classes, reliability, roc,
    precision_recall, trade_off, progress, compute.
    """
    weighed = importance(contents)
    return {
        "parameters": parallel(contents, [name for name, _ in weighed.data or ()]),
        "importance": weighed,
        "curves": curves(contents),
        "tree": stage_tree(contents),
        "seeds": seeds(contents),
        "confusion": confusion(contents),
        "classes": class_table(contents),
        **_of_probabilities(contents),
        "progress": progress(contents),
        "compute": compute(contents),
    }


def _of_probabilities(contents: Contents) -> dict[str, Panel]:
    answers, why = answers_of(contents)
    if answers is None:
        nothing = Panel(None, why)
        return dict.fromkeys(("reliability", "roc", "precision_recall", "trade_off"), nothing)
    roc, precision_recall = separation(contents, answers)
    return {
        "reliability": reliability_diagram(answers),
        "roc": roc,
        "precision_recall": precision_recall,
        "trade_off": trade_off(contents, answers),
    }
