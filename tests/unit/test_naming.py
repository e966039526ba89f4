"""What weights files and schedules are called."""

from pathlib import Path

import pytest

from storage.records import Kind, Trial
from storage.vault import Vault
from study.formatting import percent, score_in_name, score_phrase, score_text, weights_name
from study.stage_text import schedule_text
from tests.lab import schedule, stage, trial_of
from trainers.metrics import Metric
from trainers.schedule import CropType, Schedule


def trial(of: Schedule, number: int = 7, seed: int = 3) -> Trial:
    """Make a trial of a schedule."""
    return trial_of(of, number, seed=seed)


@pytest.mark.parametrize(
    ("metric", "score", "start"),
    [
        (Metric.ACCURACY, 0.98701, "acc98.70_"),
        (Metric.BALANCED_ACCURACY, 1.0, "bacc100.00_"),
        (Metric.F1, 0.5, "f1-50.00_"),
        (Metric.LOG_LOSS, 0.12345, "loss0.1235_"),
        (Metric.MATTHEWS, 0.98765, "mcc0.9877_"),
    ],
)
def test_best_weights_are_named_by_their_score(metric: Metric, score: float, start: str) -> None:
    """As in the article: score, backbone, epochs so far, image size; then trial and seed."""
    of = trial(schedule(stage(64), stage(96)))
    name = weights_name(Kind.BEST, of, 1, 12, metric, score)
    assert name == f"{start}net_12_96_t0007_s3.safetensors"


def test_last_weights_are_named_apart() -> None:
    """Best and last of one epoch are two files."""
    of = trial(schedule(stage(64)), number=12345, seed=2**31)
    name = weights_name(Kind.LAST, of, 0, 1, Metric.ACCURACY, 0.5)
    assert name == "last_net_1_64_t12345_s2147483648.safetensors"


def test_no_two_files_of_a_study_share_a_name(tmp_path: Path) -> None:
    """Equal scores in two stages, trials, seeds or kinds give different names, fit for a vault."""
    of = schedule(stage(64, epochs=2), stage(64, epochs=2))
    names = {
        weights_name(kind, trial(of, number, seed), position, 2 * position + 1, Metric.F1, 0.5)
        for kind in Kind
        for number in (1, 2)
        for seed in (1, 11)
        for position in (0, 1)
    }
    assert len(names) == 16
    (tmp_path / "weights").write_bytes(b"weights")
    for name in names:
        Vault(tmp_path).seal(tmp_path / "weights", name)


def test_a_score_is_read_in_per_cent_but_a_loss_as_it_is() -> None:
    """And what is not there is a dash."""
    assert score_text(Metric.ACCURACY, 0.98765) == "98.8"
    assert score_text(Metric.ACCURACY, 0.98765, 1001) == "98.77"
    assert score_text(Metric.LOG_LOSS, 0.98765) == "0.9877"
    assert score_text(Metric.F1, None) == "-"


def test_a_schedule_in_a_few_words_joins_what_differs() -> None:
    """One value for what all stages share, a chain for what they do not."""
    of = schedule(
        stage(64, 1e-3, frozen=1.0, dropout=(0.25, 0.5)),
        stage(96, 1e-2, 3, crop=CropType.NO),
    )
    assert schedule_text(of) == (
        "64>96 px, epochs 1>3, lr 0.001>0.01, bs 8, random>no crop, dropout 0.25/0.5>0, "
        "frozen 100%>0%"
    )
    assert schedule_text(schedule(stage())) == (
        "32 px, epochs 1, lr 0.001, bs 8, random crop, dropout 0"
    )


def test_a_schedule_in_a_few_words_says_how_many_stages_it_has() -> None:
    """Two stages of one kind do not read as one."""
    assert schedule_text(schedule(stage(), stage())).startswith("32>32 px, epochs 1, lr 0.001")


@pytest.mark.parametrize(
    ("right", "of", "text"),
    [
        (111, 129, "86.0"),
        (69, 80, "86.3"),
        (1, 1000, "0.1"),
        (1, 1001, "0.10"),
        (3, 2000, "0.15"),
        (0, 9, "0.0"),
        (9, 9, "100.0"),
    ],
)
def test_a_share_is_rounded_once_from_the_counts(right: int, of: int, text: str) -> None:
    """Halves up, as a page's script does it; two decimals where one photo is less than 0.1 %."""
    assert percent(right / of, of) == text
    assert score_phrase(Metric.ACCURACY, right / of, of) == f"{text} %"


def test_names_of_files_keep_two_decimals() -> None:
    """They are as they were."""
    assert score_in_name(Metric.ACCURACY, 0.98765) == "98.77"
    assert score_in_name(Metric.LOG_LOSS, 0.5) == "0.5000"
