"""A study that an earlier Encore left is read by every command, and gone on with by none."""

import hashlib
import json
import sqlite3
from contextlib import closing
from dataclasses import asdict
from typing import Any

import pytest

import cli
from storage.database import open_database
from storage.errors import StudyTooOld
from storage.records import stage_run_key
from storage.store import Store
from study.config.schema import Budget
from study.config.space import SPACE_VERSION
from study.searching.search import repeat
from study.selection.best import best
from study.studies import refuse_old, stored_config
from tests.lab import Lab
from trainers.schedule import Schedule

OLD_FIELDS = (
    *("image_size", "batch_size", "n_cycles", "cycle_len", "cycle_mult", "annealing", "lrs"),
    *("crop", "max_zoom", "augmentation", "dropout", "optimizer", "weight_decay"),
    *("label_smoothing", "start_from"),
)
"""A stage of format 2: all fields were written down, and `frozen_groups` beside them."""


def old_plain(schedule: Schedule) -> dict[str, Any]:
    """Return a schedule as format 2 wrote it, with its head alone trained in the first stage."""
    plain = asdict(schedule)
    plain["stages"] = [
        {**{name: stage[name] for name in OLD_FIELDS}, "frozen_groups": 0 if place else 2}
        for place, stage in enumerate(plain["stages"])
    ]
    return plain


def old_key(manifest: str, plain: dict[str, Any], position: int, seed: int) -> str:
    """Return the key of a stage run of format 2."""
    prefix = {**plain, "stages": plain["stages"][: position + 1]}
    identity = {"format": 2, "manifest": manifest, "seed": seed, "schedule": prefix}
    text = json.dumps(identity, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


@pytest.fixture
def old(finished: Lab) -> Lab:
    """Rewrite a finished study's rows as an earlier Encore would have left them."""
    with finished.reading() as (store, study, _):
        trials, links = store.trials(study.id), store.links(study.id)
    number = {trial.number: trial for trial in trials}
    space = {**study.space, "version": 1, "stages": [{"frozen_groups": [0, 2]}]}
    config = {**study.config, "space": None, "preset": None}
    with closing(sqlite3.connect(finished.url.removeprefix("sqlite:///"))) as connection:
        for trial in trials:
            text = json.dumps(
                old_plain(trial.schedule), sort_keys=True, separators=(",", ":"), default=str
            )
            digest = hashlib.sha256(text.encode()).hexdigest()
            connection.execute(
                "UPDATE encore_trials SET schedule = ?, schedule_digest = ? WHERE id = ?",
                (text, digest, trial.id),
            )
        for of, position, run in links:
            trial = number[of]
            key = old_key(study.manifest_digest, old_plain(trial.schedule), position, trial.seed)
            connection.execute("UPDATE encore_stage_runs SET key = ? WHERE id = ?", (key, run))
        connection.execute(
            "UPDATE encore_studies SET space = ?, config = ?",
            (json.dumps(space), json.dumps({**config, "split_seed": 0})),
        )
        connection.commit()
    return finished


def test_an_old_study_is_read(old: Lab, capsys: pytest.CaptureFixture[str]) -> None:
    """Its best weights are chosen as before, whole groups are shares now, every page is shown."""
    chosen = best(storage=old.url)
    stages = Schedule.from_dict(chosen.schedule).stages
    assert [stage.frozen for stage in stages] == [1.0] + [0.0] * (len(stages) - 1)
    with old.reading() as (store, study, _):
        assert stored_config(study, old.url).resolved_space.stages[0].frozen == (0.0, 1.0)
        assert len(store.ranking(study)) > 1
    for command in (["best"], ["ls"], ["show", "0"], ["tree"], ["gc"], ["compare", "0", "1"]):
        assert cli.run([*command, "--storage", old.url]) == 0, capsys.readouterr().err


def test_no_old_stage_run_is_taken_for_one_of_today(old: Lab) -> None:
    """The keys differ: what was trained then came to other weights."""
    with old.reading() as (store, study, _):
        keys = {run.key for run in store.stage_runs(study.id)}
        today = {
            stage_run_key(study.manifest_digest, prefix, trial.seed)
            for trial in store.trials(study.id)
            for prefix in trial.schedule.prefixes()
        }
    assert not keys & today


def test_going_on_with_an_old_study_is_refused(
    old: Lab, capsys: pytest.CaptureFixture[str]
) -> None:
    """By search, plan and repeat, in one sentence that says what to do, with exit code 1."""
    before = old.sql("SELECT * FROM encore_trials")
    with pytest.raises(StudyTooOld, match="it can be read, but not continued"):
        repeat(0, 3, storage=old.url)
    assert cli.run(["repeat", "0", "--storage", old.url]) == 1
    for command in ("search", "plan"):
        words = [command, "--study", "lab", "--storage", old.url, "--trials", "99"]
        assert cli.run(words) == 1
        said = capsys.readouterr().err.strip().splitlines()[-1]
        assert "'lab' was begun by an earlier version" in " ".join(said.split())
        assert "--study" in said
    assert old.sql("SELECT * FROM encore_trials") == before


def test_a_study_of_unordered_parameters_is_old(finished: Lab) -> None:
    """Optuna takes one kind of parameter by a name: it can be read, and not resumed."""
    with closing(sqlite3.connect(finished.url.removeprefix("sqlite:///"))) as connection:
        connection.execute("UPDATE encore_studies SET space = json_set(space, '$.version', 2)")
        connection.commit()
    for command in ("best", "ls", "tree"):
        assert cli.run([command, "--storage", finished.url]) == 0
    with (
        finished.reading() as (_, study, _),
        pytest.raises(StudyTooOld, match="it can be read, but not continued"),
    ):
        refuse_old(study)


def test_a_study_of_today_is_not_old(finished: Lab) -> None:
    """It is gone on with by the same command."""
    store = Store(open_database(finished.url))
    assert store.study("lab").space["version"] == SPACE_VERSION
    store.close()


def test_settings_that_are_no_more_do_not_shut_a_study(
    finished: Lab, capsys: pytest.CaptureFixture[str]
) -> None:
    """At any depth: with those of an earlier Encore in its row, a study is read and repeated."""
    earlier = {"max_gpu_hours": 0.001, "trials": 9}
    with finished.reading() as (store, study, _):
        told = {**study.config, "storage": finished.url, "gone": 1, "budget": earlier}
        store.update_config(study.id, told)
    with finished.reading() as (_, study, _):
        assert stored_config(study, finished.url).budget == Budget(trials=9)
    for command in (["best"], ["ls"], ["show", "0"], ["gc"], ["doctor"]):
        assert cli.run([*command, "--storage", finished.url]) == 0, capsys.readouterr().err
