"""`best` on a study that the coordinator has made: which weights, why, and how sure."""

import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from storage.database import open_database
from storage.errors import StudyNotFound
from storage.records import RankedTrial, Role, State, stage_run_key
from storage.store import Store
from study.config.portfolio import TYPICAL, probes
from study.errors import NothingToSelect
from study.selection import best as selector
from study.selection.best import best, copy_weights
from study.selection.result import Asked
from study.statistics.selection_bias import By
from tests.lab import Lab, schedule, stage
from trainers.base import StageTask
from trainers.data.manifest import Manifest, Split
from trainers.metrics import Metric
from trainers.schedule import Schedule

MakeLab = Callable[..., Lab]
LUCKIEST = Asked(By.MAX)

EARLY = tuple(schedule(stage(128, epochs=3), stage(size, 1e-9)) for size in (128, 160))
"""Under seed 5, the second stages learn nothing and have no luck: the first one's is the best."""


def ranking(lab: Lab) -> list[RankedTrial]:
    """Return the trials, the best first."""
    with lab.reading() as (store, study, _):
        return store.ranking(study)


def test_the_winner_is_described_as_it_was_trained(finished: Lab, tmp_path: Path) -> None:
    """Score, loss, file, confusion and mistakes are those of one epoch, trained here again."""
    chosen, first = best(storage=finished.url), ranking(finished)[0]
    trial, kept = first.trial, first.checkpoint
    assert kept is not None
    assert (chosen.trial, chosen.seed, chosen.score) == (trial.number, trial.seed, trial.score)
    assert (chosen.study, chosen.metric, chosen.trials) == ("lab", Metric.ACCURACY, 8)
    assert chosen.file == str(finished.folder / "lab" / kept.path)
    assert (chosen.sha256, chosen.damaged) == (kept.sha256, ())
    assert chosen.schedule_digest == trial.schedule_digest
    assert Schedule.from_dict(chosen.schedule) == trial.schedule

    prefix = trial.schedule.prefixes()[chosen.stage]
    task = StageTask(schedule=prefix, seed=chosen.seed, folder=tmp_path)
    epoch = list(finished.trainer.train(task))[chosen.epoch - 1]
    assert (chosen.score, chosen.loss) == (epoch.accuracy, epoch.valid_loss)
    assert chosen.confusion == epoch.evaluation.confusion.tolist()
    wrong = np.flatnonzero(epoch.evaluation.predicted != epoch.evaluation.labels)
    assert chosen.errors == len(wrong) == len(chosen.mistakes) > 0
    assert finished.manifest is not None
    photos, classes = finished.manifest.of_split(Split.VALID), finished.manifest.classes
    assert [mistake.path for mistake in chosen.mistakes] == [photos[i].path for i in wrong]
    for mistake, i in zip(chosen.mistakes, wrong, strict=True):
        row = epoch.evaluation.probabilities[i]
        assert mistake.label == classes[photos[i].label] == mistake.path.split("/")[0]
        assert mistake.predicted == classes[row.argmax()]
        assert mistake.probability == pytest.approx(row.max(), rel=1e-3)


def test_confusion_mistakes_and_errors_agree(finished: Lab) -> None:
    """Counted in three ways, they are the same; the classes' numbers follow."""
    chosen = best(storage=finished.url)
    counts, classes = np.array(chosen.confusion), chosen.classes
    assert counts.sum() == chosen.n_valid == 30
    assert counts.sum() - np.trace(counts) == chosen.errors
    assert chosen.score == pytest.approx(1 - chosen.errors / chosen.n_valid)
    pairs = Counter((mistake.label, mistake.predicted) for mistake in chosen.mistakes)
    for i, row in enumerate(classes):
        for j, column in enumerate(classes):
            assert i == j or pairs[row, column] == counts[i, j]
        numbers = chosen.per_class[i]
        assert numbers.photos == counts[i].sum()
        assert numbers.recall == pytest.approx(counts[i, i] / counts[i].sum())
        assert numbers.precision == pytest.approx(counts[i, i] / max(1, counts[:, i].sum()))


def test_stage_and_epoch_are_those_of_the_file(make_lab: MakeLab, photos: Manifest) -> None:
    """Also where an early stage was better than the later ones, and trained by another trial."""
    lab = make_lab(*EARLY, manifest=photos, seed=5)
    lab.search()
    chosen = best(storage=lab.url)
    assert (chosen.stage, chosen.epoch) == (0, 3)
    with lab.reading() as (store, study, _):
        trial = store.trial(study.id, chosen.trial)
        key = stage_run_key(lab.digest, trial.schedule.prefixes()[0], 5)
        run = store.stage_run(study.id, key)
        assert run is not None
        kept = store.checkpoints_of(run.id)[0]
        assert (kept.sha256, kept.epoch, kept.score) == (chosen.sha256, 3, chosen.score)
        assert store.epochs(run.id)[-1].accuracy == chosen.score


def test_mean_and_spread_are_over_the_seeds(finished: Lab) -> None:
    """The mean and the sample standard deviation of the winner's schedule, seed by seed."""
    for ranked in ranking(finished):
        chosen = best(storage=finished.url)
        with finished.reading() as (store, study, _):
            same = {
                trial.seed: trial.score
                for trial in store.trials(study.id)
                if trial.schedule_digest == chosen.schedule_digest
            }
        assert chosen.seed_scores == same
        assert list(chosen.seed_scores) == sorted(same)
        scores = np.array(list(same.values()), float)
        assert chosen.schedule_mean == pytest.approx(scores.mean())
        if len(same) > 1:
            assert chosen.schedule_spread == pytest.approx(scores.std(ddof=1))
        else:
            assert chosen.schedule_spread is None
        assert ranked.checkpoint is not None
        (finished.folder / "lab" / ranked.checkpoint.path).unlink()  # the next one wins
    with pytest.raises(NothingToSelect):
        best(storage=finished.url)


def test_runners_up_follow_in_order(finished: Lab) -> None:
    """By score, ties by loss, each with its schedule's mean and its own file, up to a number."""
    order = [ranked.trial.number for ranked in ranking(finished)]
    chosen = best(storage=finished.url, asked=LUCKIEST)
    assert [chosen.trial, *(other.trial for other in chosen.runners_up)] == order[:6]
    everyone = best(storage=finished.url, asked=LUCKIEST, runners_up=99)
    assert [everyone.trial, *(other.trial for other in everyone.runners_up)] == order
    assert len(order) == 7
    assert best(storage=finished.url, runners_up=0).runners_up == ()
    with finished.reading() as (store, study, _):
        trials = store.trials(study.id)
    for other in everyone.runners_up:
        digest = trials[other.trial].schedule_digest
        scores = [t.score for t in trials if t.schedule_digest == digest and t.score is not None]
        assert (other.score, other.seed) == (trials[other.trial].score, trials[other.trial].seed)
        assert other.schedule_mean == pytest.approx(np.mean(scores))
        assert other.file is not None
        assert Path(other.file).is_file()


def test_a_shared_file_is_named_once(make_lab: MakeLab, photos: Manifest) -> None:
    """Trials that share their best stage share its weights: as winner or as runners-up."""
    lab = make_lab(*EARLY, schedule(stage(32, 1e-4)), manifest=photos, seed=5)
    lab.search()
    first, second, third = ranking(lab)
    assert first.checkpoint == second.checkpoint
    chosen = best(storage=lab.url)
    assert [other.trial for other in chosen.runners_up] == [third.trial.number]
    assert first.checkpoint is not None
    (lab.folder / "lab" / first.checkpoint.path).unlink()
    chosen = best(storage=lab.url)
    assert (chosen.trial, chosen.damaged) == (third.trial.number, (first.checkpoint.path,))


@pytest.mark.parametrize("damage", [Path.unlink, lambda path: path.write_bytes(b"no weights")])
def test_a_damaged_winner_is_passed_over_and_named(
    finished: Lab, damage: Callable[[Path], object]
) -> None:
    """Weights that are missing or changed are never handed over, however good they were."""
    first, second, third = ranking(finished)[:3]
    for ranked in (first, second):
        assert ranked.checkpoint is not None
        damage(finished.folder / "lab" / ranked.checkpoint.path)
    chosen = best(storage=finished.url, asked=LUCKIEST)
    assert chosen.trial == third.trial.number
    assert [first.checkpoint, second.checkpoint] != [None, None]
    assert list(chosen.damaged) == [r.checkpoint.path for r in (first, second) if r.checkpoint]


def test_a_stopped_trial_is_no_seed_of_its_schedule(make_lab: MakeLab, photos: Manifest) -> None:
    """The mean is over complete trials: an early end is not a bad result."""
    good, weak = schedule(stage(64, epochs=3), stage(96)), schedule(stage(32, 1e-5), stage(64))
    lab = make_lab(good, weak, manifest=photos, strategy="asha")
    lab.search()
    lab.configure((good, weak, weak), strategy="independent")
    lab.search()
    with lab.reading() as (store, study, _):
        stopped, complete = store.trials(study.id)[1:]
    assert (stopped.state, complete.state) == (State.PRUNED, State.COMPLETE)
    means = {r.trial: r.schedule_mean for r in best(storage=lab.url, runners_up=9).runners_up}
    assert means[2] == complete.score != stopped.score


def test_log_loss_ranks_the_smallest_first(make_lab: MakeLab, photos: Manifest) -> None:
    """The metric of the study decides what best means."""
    lab = make_lab(schedule(stage(32)), schedule(stage(96)), manifest=photos, metric="log_loss")
    lab.search()
    chosen = best(storage=lab.url)
    assert chosen.score == chosen.loss == min(r.trial.score or 9 for r in ranking(lab))


def test_nothing_to_select_is_told_with_the_reason(make_lab: MakeLab, photos: Manifest) -> None:
    """No trial yet, failed ones only, or all files gone: three different sentences."""
    lab = make_lab(schedule(stage(64, 50.0)), schedule(stage(64)), manifest=photos)
    lab.search(stop=lambda: True)
    with pytest.raises(NothingToSelect, match="no trial of study 'lab' has finished yet"):
        best(storage=lab.url)
    lab.configure(lab.script[:1])
    lab.search()
    with pytest.raises(NothingToSelect, match="every trial of study 'lab' has failed, the last"):
        best(storage=lab.url)
    lab.configure((schedule(stage(64, 50.0)), schedule(stage(64))))
    lab.search()
    shutil.rmtree(lab.folder / "lab")
    with pytest.raises(NothingToSelect, match="no intact weights file left: 1 are missing"):
        best(storage=lab.url)


def test_the_study_used_last_is_chosen_unless_another_is_named(finished: Lab) -> None:
    """A name that is not there is told, with those that are."""
    assert best(storage=finished.url).study == "lab"
    store = Store(open_database(finished.url))
    store.create_study("newer", Metric.F1, finished.digest, {}, {})
    store.close()
    with pytest.raises(NothingToSelect, match="'newer'"):
        best(storage=finished.url)
    assert best("lab", storage=finished.url).study == "lab"
    with pytest.raises(StudyNotFound, match=r"no study 'none' .+ there are newer, lab"):
        best("none", storage=finished.url)


def test_a_database_without_a_study_is_told(tmp_path: Path) -> None:
    """Neither an empty database nor none at all is an error of ours."""
    url = f"sqlite:///{tmp_path / 'encore.db'}"
    with pytest.raises(StudyNotFound, match="run a search first"):
        best(storage=url)
    open_database(url).dispose()
    with pytest.raises(StudyNotFound, match="holds no study yet"):
        best(storage=url)


def test_paths_are_shown_as_seen_from_here(finished: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    """Below the current folder a path is relative to it, and can be copied into a command."""
    monkeypatch.chdir(finished.folder)
    file = Path(best(storage=finished.url).file)
    assert not file.is_absolute()
    assert file.is_file()


def test_weights_are_copied_whole(finished: Lab, tmp_path: Path) -> None:
    """Into a folder that is made, over an older copy, under the same name."""
    chosen, folder = best(storage=finished.url), tmp_path / "a" / "b"
    for _ in range(2):
        copied = copy_weights(chosen, folder)
        assert copied.name == Path(chosen.file).name
        assert copied.read_bytes() == Path(chosen.file).read_bytes()
        assert list(folder.iterdir()) == [copied]


def test_a_copy_that_fails_leaves_what_was_there(
    finished: Lab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a full disk there is the old copy or none, but never half of one."""
    chosen = best(storage=finished.url)
    copied = copy_weights(chosen, tmp_path / "copies")

    def fill_the_disk(_: Path, target: Path) -> None:
        target.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(selector.shutil, "copyfile", fill_the_disk)
    with pytest.raises(OSError, match="No space"):
        copy_weights(chosen, tmp_path / "copies")
    assert list((tmp_path / "copies").iterdir()) == [copied]
    assert copied.read_bytes() == Path(chosen.file).read_bytes()


def test_the_probe_is_what_a_choice_is_measured_by(make_lab: MakeLab, photos: Manifest) -> None:
    """The better of two probes that the search began with, with its errors; none elsewhere."""
    lab = make_lab(schedule(stage(64, epochs=3)), manifest=photos)
    lab.search()
    assert best(storage=lab.url).probe is None
    lab.given = probes(TYPICAL, "net", "random")
    lab.configure(lab.script, trials=3)
    lab.search()
    found = best(storage=lab.url).probe
    begun = [each for each in ranking(lab) if each.trial.role is Role.PRESET]
    assert found is not None
    assert (found.trial, found.score) == (begun[0].trial.number, begun[0].trial.score)
    assert found.image_size == begun[0].trial.schedule.stages[0].image_size
    assert found.errors == round((1 - found.score) * len(photos.of_split(Split.VALID)))
