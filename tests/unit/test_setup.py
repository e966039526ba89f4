"""What the build makes of imports."""

import pytest

from setup import moved


def test_imports_move_and_nothing_else_does() -> None:
    """`from study...` says where it is below `encore`, within functions too."""
    source = "from study.events import x\n    from trainers import y\nfrom storages import z\n"
    source += "from cli import main\nfrom encore._packages.study import x\nimport studying\n"
    assert moved(source).splitlines() == [
        "from encore._packages.study.events import x",
        "    from encore._packages.trainers import y",
        "from storages import z",
        "from encore._packages.cli import main",
        "from encore._packages.study import x",
        "import studying",
    ]
    assert moved(moved(source)) == moved(source)


def test_an_import_by_the_whole_path_is_refused() -> None:
    """It would have to be changed wherever the name is used."""
    with pytest.raises(ValueError, match=r"import study\.events"):
        moved("import study.events\n")
