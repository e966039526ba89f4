"""A grid: schedules that the user lists in a file, or one sentence that says what is wrong."""

from pathlib import Path

import pytest

from study.config.presets import grid_schedules
from study.errors import ConfigError
from trainers.schedule import Schedule, Stage

STAGE = "image_size = 64\nbatch_size = 8\n"
ONE = f"[[schedules]]\n[[schedules.stages]]\n{STAGE}"


def grid(folder: Path, text: str) -> Path:
    """Write a grid file."""
    (folder / "grid.toml").write_text(text, encoding="utf-8")
    return folder / "grid.toml"


def refused(file: Path) -> str:
    """Return the text of the ConfigError, and check that it is one sentence on that file."""
    with pytest.raises(ConfigError) as error:
        grid_schedules(file, "net", "random")
    text = str(error.value)
    assert "\n" not in text
    assert str(file) in text
    return text


def test_schedules_come_in_the_order_of_the_file(tmp_path: Path) -> None:
    """What a table does not say is the search's; what it says is its own."""
    own = '[[schedules]]\nbackbone = "other"\nhidden = []\nweights = "pretrained"\n'
    own += f'[[schedules.stages]]\n{STAGE}annealing = "one-cycle"\nlrs = 1e-3\n'
    own += f"[[schedules.stages]]\n{STAGE}"
    stage = Stage(image_size=64, batch_size=8)
    assert grid_schedules(grid(tmp_path, ONE + own), "net", "random") == (
        Schedule(backbone="net", stages=(stage,), weights="random"),
        Schedule(
            backbone="other",
            hidden=(),
            weights="pretrained",
            stages=(
                Stage(image_size=64, batch_size=8, annealing="one-cycle", lrs=1e-3),
                stage,
            ),
        ),
    )


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "must hold [[schedules]] tables and nothing else"),
        ("schedules = []", "must hold [[schedules]] tables"),
        ("schedules = 3", "must hold [[schedules]] tables"),
        ("[schedules]\nstages = []", "must hold [[schedules]] tables"),
        ("trials = 3\n" + ONE, "and nothing else"),
        ("[[schedules]", "not a readable TOML file"),
        ("[[schedules]]\n", "schedule 1: stages must hold at least 1 stage, got none"),
        (ONE + "[[schedules]]\nstages = 3", "schedule 2: "),
        (ONE + "[[schedules]]\nstagse = []", "schedule 2: a schedule has no field 'stagse'"),
        (ONE + "crops = 1", "schedule 1: a stage has no field 'crops'"),
        (ONE + ONE + "cycle_len = 0", "schedule 2: cycle_len must be at least 1 epoch, got 0"),
        (ONE + 'lrs = "fast"', "schedule 1: lrs must be a number, got 'fast'"),
        (ONE + 'annealing = "up"', "annealing must be one of cosine, one-cycle, got 'up'"),
        ("[[schedules]]\n[[schedules.stages]]\nbatch_size = 8", "image_size"),
        ("[[schedules]]\nhidden = 5\n[[schedules.stages]]\n" + STAGE, "schedule 1: "),
    ],
)
def test_a_grid_that_cannot_be_is_refused(tmp_path: Path, text: str, words: str) -> None:
    """The sentence has the file, the number of the schedule and what is wrong with it."""
    assert words in refused(grid(tmp_path, text))


def test_grids_that_cannot_be_read_are_told(tmp_path: Path) -> None:
    """A missing file, a folder, and bytes that are no text."""
    assert "there is no grid file" in refused(tmp_path / "none.toml")
    assert "not a readable TOML file" in refused(tmp_path)
    (tmp_path / "grid.toml").write_bytes(b'schedules = "\xff"')
    assert "not a readable TOML file" in refused(tmp_path / "grid.toml")


@pytest.mark.parametrize(
    "text",
    [
        "schedules = [1, 2]",
        "[[schedules]]\nweights = 5\n[[schedules.stages]]\n" + STAGE,
        "[[schedules]]\nbackbone = ['a']\n[[schedules.stages]]\n" + STAGE,
    ],
)
def test_values_of_the_wrong_kind_are_refused_too(tmp_path: Path, text: str) -> None:
    """A number where a table or a text belongs is told in a sentence, not by a traceback."""
    refused(grid(tmp_path, text))
