"""All panels of the report: what the modules of `figures` list, by name, ready for the page."""

from functools import cache
from importlib import import_module
from pkgutil import iter_modules

from study.report import figures
from study.report.contents import Contents
from study.report.figures.style import Drawing, Panel


@cache
def drawings() -> tuple[Drawing, ...]:
    """Return the figures that the modules of `figures` list, in the order that a section has."""
    names = [f"{figures.__name__}.{module.name}" for module in iter_modules(figures.__path__)]
    modules = [import_module(name) for name in names]
    found = [each for module in modules for each in getattr(module, "FIGURES", ())]
    return tuple(sorted(found, key=lambda each: (each.section, each.place, each.name)))


def panels(contents: Contents) -> dict[str, Panel]:
    """Draw all panels; the function that draws a panel documents its `data`."""
    return {each.name: each.draw(contents) for each in drawings()}
