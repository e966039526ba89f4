"""Which weights files stay: the best, the repeated, what is in training, what is gone on from."""

import math
from collections.abc import Sequence
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest

from storage.records import Checkpoint, KeptPredictions, Kind, RankedTrial, Role, State, Trial
from study.config.loading import load_config, settings_of
from study.config.schema import StudyConfig
from study.searching.retention import Kept, Spare, deletion_text, spare, too_many
from study.stage_tree import StageTree, Trained
from tests.lab import schedule, stage, trial_of

SPACE = {"image_size": [32], "batch_size": [8], "n_stages": [2]}


def config(**settings: Any) -> StudyConfig:
    """Make a config of the command line's flags; schedules have two stages."""
    return load_config(settings_of(space=SPACE, **settings))


class Imagined:
    """Trials of two stages that share nothing, the first the best; each file has 100 bytes.

    Stage runs count 10, 11 for trial 1, 20, 21 for trial 2, and so on.
    """

    def __init__(self, *trials: Role | State | None) -> None:
        self.trials: list[Trial] = []
        self.tree, self.checkpoints, self.keys = StageTree(), [], {}  # type: ignore[var-annotated]
        for number, special in enumerate(trials, 1):
            self._add(number, special)

    def _add(self, number: int, special: Role | State | None) -> None:
        trial = trial_of(
            schedule(stage(32 * number), stage(32 * number)),
            number,
            id=number,
            role=special if isinstance(special, Role) else Role.EXPLORE,
            state=special if isinstance(special, State) else State.COMPLETE,
        )
        self.trials.append(trial)
        for position in (0, 1):
            run = 10 * number + position
            self.keys[run] = f"key{run}"
            self.tree.enter(trial, position, f"key{run}")
            self.tree.finish(f"key{run}", Trained((number - 100.0, 1.0), None, 1.0))
            self.checkpoints += [file(run, kind) for kind in Kind]

    @property
    def ranking(self) -> list[RankedTrial]:
        """Rank complete trials; the best epoch of each was in its second stage."""
        return [
            RankedTrial(trial=trial, checkpoint=file(10 * trial.number + 1, Kind.BEST))
            for trial in self.trials
            if trial.state is State.COMPLETE
        ]

    def spare(self, asked: StudyConfig, *, ongoing: bool = False) -> list[Spare]:
        """Choose what can go."""
        kept = Kept(self.checkpoints, self.keys, self.ranking)
        return spare(kept, self.trials, self.tree, asked, ongoing=ongoing)

    def staying(self, asked: StudyConfig, *, ongoing: bool = False) -> list[str]:
        """Name the files that stay, after checking that none goes twice."""
        going = [each.checkpoint for each in self.spare(asked, ongoing=ongoing)]
        assert len(set(names(going))) == len(going)
        return names([each for each in self.checkpoints if each not in going])


def file(run: int, kind: Kind) -> Checkpoint:
    """Make a weights file's row."""
    path = f"{run}-{kind}"
    return Checkpoint(
        stage_run_id=run, kind=kind, path=path, sha256="0" * 64, size=100, epoch=1, score=0.5
    )


def names(files: Sequence[Checkpoint]) -> list[str]:
    """Name files."""
    return sorted(each.path for each in files)


def test_the_best_trials_stay() -> None:
    """Once the search is over, the best weights of the best `keep` trials are all there is."""
    assert Imagined(None, None, None).staying(config(keep=2)) == ["11-best", "21-best"]
    assert Imagined(None).staying(config(keep=9)) == ["11-best"]
    assert Imagined().staying(config()) == []


def test_other_weights_of_the_same_stage_run_go() -> None:
    """If another trial trained the stage to a better epoch, the ranking's epoch counts."""
    world = Imagined(None)
    world.checkpoints = [replace(file(11, Kind.BEST), epoch=2)]
    assert world.staying(config()) == []


def test_all_trials_of_repeated_schedules_stay() -> None:
    """However weak a seed was, what the finalists are judged by is there to be chosen."""
    world = Imagined(None, None, None)
    world.trials.append(replace(world.trials[2], number=4, role=Role.REPEAT, seed=1))
    world.checkpoints.append(file(41, Kind.BEST))
    world.keys[41] = "key41"
    assert world.staying(config(keep=1)) == ["11-best", "31-best", "41-best"]


@pytest.mark.parametrize("ongoing", [True, False])
def test_what_a_running_trial_has_entered_stays(ongoing: bool) -> None:
    """Its stage runs keep both files, even if the disk is full, and shared ones do too."""
    asked = config(keep=1, max_disk="1B", strategy="asha")
    world = Imagined(None, None, State.RUNNING)
    running = world.trials[2]
    world.tree.enter(running, 0, "key20")
    staying = world.staying(asked, ongoing=ongoing)
    assert staying == sorted(
        ["11-best", *(f"{run}-{kind}" for run in (20, 30, 31) for kind in Kind)]
    )


@pytest.mark.parametrize("strategy", ["forecast", "asha", "independent"])
def test_beginnings_stay_while_the_search_goes_on(strategy: str) -> None:
    """The last weights of first stages, however weak: any suggestion may begin as they do."""
    world, asked = Imagined(None, None, None), config(keep=1, strategy=strategy)
    lasts = [f"{run}-last" for run in (10, 20, 30)]
    assert world.staying(asked, ongoing=True) == sorted(["11-best", *lasts])
    assert world.staying(asked) == ["11-best"]


def test_of_later_stages_the_best_stay() -> None:
    """As many as trials do, of those that another stage may follow: the weights of the last go."""
    asked = load_config(settings_of(space=SPACE | {"n_stages": [3]}, keep=2))
    world = Imagined(*[None] * 6)
    staying = world.staying(asked, ongoing=True)
    assert [name for name in staying if name[1] == "1"] == [
        *("11-best", "11-last", "21-best", "21-last"),
    ]


def test_stages_of_a_grid_may_lie_beyond_the_space() -> None:
    """What its longest schedules begin with stays, though the space's trials end there."""
    world, asked = Imagined(None, None), config(keep=2)
    longer = schedule(*[stage(64)] * 3).to_json()
    world.trials[1] = replace(world.trials[1], schedule_json=longer)
    world.tree.enter(world.trials[1], 2, "key22")
    lasts = [f"{run}-last" for run in (10, 11, 20, 21)]
    assert world.staying(asked, ongoing=True) == sorted(["11-best", "21-best", *lasts])


def test_best_weights_stay_where_stages_start_from_them() -> None:
    """If the space lets a stage start from the best epoch, beginnings keep that one too."""
    asked = config(keep=1).model_copy(
        update={"space": load_config({"space": SPACE | {"start_from": ["last", "best"]}}).space}
    )
    world = Imagined(None, None, None)
    both = [f"{run}-{kind}" for run in (10, 20, 30) for kind in Kind]
    assert world.staying(asked, ongoing=True) == sorted(["11-best", *both])


def test_best_weights_stay_where_a_grid_starts_from_them() -> None:
    """Its schedules are in no space, but those that were begun tell what others start from."""
    world, asked = Imagined(None, None), config(keep=1, strategy="independent")
    onward = schedule(stage(32), stage(32, start_from="best")).to_json()
    world.trials[0] = replace(world.trials[0], schedule_json=onward)
    both = [f"{run}-{kind}" for run in (10, 20) for kind in Kind]
    assert world.staying(asked, ongoing=True) == sorted(["11-best", *both])


class Stored:
    """A store that knows an imagined world, as far as weights are chosen by it."""

    def __init__(self, world: Imagined) -> None:
        self._world = world

    def stage_runs(self, _: int) -> list[Any]:
        """Return their ids and keys."""
        return [SimpleNamespace(id=run, key=key) for run, key in self._world.keys.items()]

    def ranking(self, _: Any) -> list[RankedTrial]:
        """Return them by score; what the best of each is, is its second stage run."""
        return [
            RankedTrial(
                trial=replace(each.trial, best_stage_run=10 * each.trial.number + 1),
                checkpoint=each.checkpoint,
            )
            for each in self._world.ranking
        ]

    def checkpoints(self, _: int) -> list[Checkpoint]:
        """Return all files."""
        return self._world.checkpoints


@pytest.mark.parametrize(
    ("shortfalls", "order"),
    [
        ({11: 0.4, 21: 0.1, 31: 0.3, 41: 0.2}, [2, 1, 4, 3, 1]),
        ({11: 0.1, 21: 0.2}, [1, 1, 2, 3, 4]),
        (None, [1, 2, 3, 4]),
    ],
)
def test_what_is_expected_to_be_best_comes_first(
    monkeypatch: pytest.MonkeyPatch, shortfalls: dict[int, float] | None, order: list[int]
) -> None:
    """Then the best score, then all by what is expected of them; by score if nothing is."""
    expected = shortfalls and SimpleNamespace(of=lambda run: shortfalls.get(run, math.inf))
    monkeypatch.setattr("study.searching.retention.expected_of", lambda *_: expected)
    world, study = Imagined(*[None] * 4), SimpleNamespace(id=1)
    kept = Kept.of(Stored(world), study)  # type: ignore[arg-type]
    assert [each.trial.number for each in kept.ranking] == order
    assert (kept.checkpoints, kept.keys) == (world.checkpoints, world.keys)
    going = spare(kept, world.trials, world.tree, config(keep=2), ongoing=False)
    staying = {each.path for each in world.checkpoints} - {each.checkpoint.path for each in going}
    assert staying == {"11-best", "21-best"}


def test_a_full_disk_leaves_the_best_by_either_rule(monkeypatch: pytest.MonkeyPatch) -> None:
    """Both the weights that would be chosen and those of the best score stay, nothing else."""
    expected = SimpleNamespace(of=lambda run: -run)
    monkeypatch.setattr("study.searching.retention.expected_of", lambda *_: expected)
    world, asked = Imagined(None, None, None), config(max_disk="1B")
    kept = Kept.of(Stored(world), SimpleNamespace(id=1))  # type: ignore[arg-type]
    going = spare(kept, world.trials, world.tree, asked, ongoing=False)
    staying = {each.path for each in world.checkpoints} - {each.checkpoint.path for each in going}
    assert staying == {"11-best", "31-best"}


def test_a_full_disk_leaves_the_finalists() -> None:
    """Files of repeated schedules stay however little room there is, the second best goes."""
    world = Imagined(None, None, None)
    world.trials.append(replace(world.trials[2], number=4, role=Role.REPEAT, seed=1))
    world.checkpoints.append(file(41, Kind.BEST))
    world.keys[41] = "key41"
    assert world.staying(config(max_disk="1B")) == ["11-best", "31-best", "41-best"]


def test_finalists_that_wait_for_their_race_stay() -> None:
    """Before the first repeat they are the best schedules of all that are complete."""
    world = Imagined(None, None, None)
    world.trials = [replace(each, score=1 / each.number, loss=1.0) for each in world.trials]
    asked = config(max_disk="1B", trials=3, repeats=1, finalists=2)
    assert world.staying(asked) == ["11-best", "21-best"]


def test_deletions_are_told_in_a_line() -> None:
    """How many files, how much of the disk, and why; each reason with its count."""
    going = Imagined(None, None, None).spare(config(keep=2))
    assert deletion_text(going) == (
        "deleting 10 weights files (1.0 kB): 6 no trial will continue from it, "
        "4 not the best weights of one of the best 2 trials"
    )
    assert deletion_text(going[:1]).endswith(
        "(100 bytes): not the best weights of one of the best 2 trials"
    )


@pytest.mark.parametrize(
    ("limit", "staying"),
    [
        ("10kB", ["10-last", "11-best", "20-last", "21-best", "30-last", "31-best"]),
        ("400B", ["10-last", "11-best", "21-best", "31-best"]),
        ("399B", ["11-best", "21-best", "31-best"]),
        ("299B", ["11-best", "21-best"]),
        ("150B", ["11-best"]),
        ("1B", ["11-best"]),
    ],
)
def test_a_full_disk_drops_the_least(limit: str, staying: list[str]) -> None:
    """Beginnings go first, the weaker before the better, then trials; the best of all stays."""
    asked = config(keep=3, max_disk=limit)
    assert Imagined(None, None, None).staying(asked, ongoing=True) == staying


def test_each_deletion_has_its_reason() -> None:
    """People read why a file is gone."""
    asked = config(keep=2, max_disk="100B")
    said = {one.checkpoint.path: one.reason for one in Imagined(None, None, None).spare(asked)}
    assert said["11-last"] == "no trial will continue from it"
    assert said["31-best"] == "not the best weights of one of the best 2 trials"
    assert said["21-best"] == "the weights exceed 100B"


def kept_of(*sizes: int, leads: Sequence[int] = (), short: Sequence[int] = ()) -> list[Any]:
    """Imagine predictions of those sizes, the best epoch first."""
    return [
        KeptPredictions(
            stage_run_id=place, epoch=1, full=place not in short, leads=place in leads, size=size
        )
        for place, size in enumerate(sizes)
    ]


def places(chosen: Sequence[KeptPredictions]) -> list[int]:
    """Name them by their place."""
    return [each.stage_run_id for each in chosen]


def test_the_weakest_predictions_are_shortened_first() -> None:
    """As many as it takes; a trial's best epoch after all others, the best of all never."""
    kept = kept_of(100, 100, 100, 100, leads=[0, 3])
    assert places(too_many(kept, 400, 1)) == []
    assert places(too_many(kept, 399, 1)) == [2]
    assert places(too_many(kept, 250, 1)) == [2, 1]
    assert places(too_many(kept, 0, 1)) == [2, 1, 3]
    assert too_many([], 0, 1) == []


def test_what_is_short_is_not_shortened_again() -> None:
    """It counts by its size, and so does what is left of the others."""
    kept = kept_of(100, 6, 100, 100, short=[1])
    assert places(too_many(kept, 0, 1)) == [3, 2]
    assert places(too_many(kept, 100 + 6 + 100 + 6, 1)) == [3]
    assert places(too_many(kept, 100 + 6 + 100 + 5, 1)) == [3, 2]
