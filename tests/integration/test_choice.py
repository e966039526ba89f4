"""`best` by what it is asked to choose by, on studies whose runs come out as they are told to."""

import sqlite3
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydantic import ByteSize

import cli
from storage import predictions
from storage.records import State
from study.config.schema import Keeping
from study.criterion import Criterion
from study.errors import ConfigError, NothingToSelect
from study.history.cleanup import clean_weights
from study.history.doctor import Level, doctor
from study.selection import candidates
from study.selection.best import best, copy_weights
from study.selection.candidates import counted
from study.selection.expected import expected_of
from study.selection.goals import Goal
from study.selection.result import Asked, Selection
from study.selection.schedule_ranking import cheapest
from study.statistics import scoring, tables
from study.statistics.selection_bias import By
from study.studies import manifest_of
from tests.lab import Lab
from tests.tiny_photos import fill
from tests.told import Run, search_as_told
from trainers.data.manifest import Manifest, Split, build_manifest
from trainers.decision import Decision

Search = Callable[..., Lab]

OF_ONE_CLASS = [each for each in Criterion if "class" in each.kinds]


@pytest.fixture
def searched(make_lab: Callable[..., Lab], photos: Manifest) -> Search:
    """Return what searches as told, on the photos of three classes if no others are given."""

    def search(
        outcomes: Mapping[int, Sequence[Run]], *, manifest: Manifest = photos, **others: Any
    ) -> Lab:
        return search_as_told(make_lab, manifest, outcomes, **others)

    return search


def size_of(chosen: Selection) -> int:
    """Return the image size that tells the schedules apart."""
    size: int = chosen.schedule["stages"][0]["image_size"]
    return size


def test_a_lucky_run_is_passed_over(searched: Search, capsys: pytest.CaptureFixture[str]) -> None:
    """Under other seeds it erred much more often: one that always does well is expected to be it.

    With a word on the passed-over one; by its score alone it can still be had.
    """
    lab = searched({32: [Run(4), Run(9), Run(9), Run(9)], 512: [Run(5)] * 4})
    chosen = best(storage=lab.url)
    assert (size_of(chosen), chosen.errors, chosen.by) == (512, 5, By.FORECAST)
    assert cli.run(["best", "--storage", lab.url]) == 0
    assert "but its forecast is lower (--by max chooses it)" in capsys.readouterr().out
    lucky = best(storage=lab.url, asked=Asked(By.MAX))
    assert (size_of(lucky), lucky.errors) == (32, 4)
    assert cli.run(["best", "--by", "max", "--storage", lab.url]) == 0
    assert "its forecast is lower" not in capsys.readouterr().out


def test_the_choice_by_forecast_can_be_made_by_any_photos(searched: Search) -> None:
    """By all of them it is the choice itself; what that flatters is corrected for."""
    runs = {size: [Run(errors), Run(errors + 1)] for size, errors in ((32, 3), (64, 2), (96, 4))}
    lab = searched(runs)
    chosen = best(storage=lab.url)
    with lab.reading() as (store, study, _):
        manifest = manifest_of(store, study)
        labels = manifest.labels(Split.VALID)
        gathered = candidates.gather(store, study, manifest, Criterion.ACCURACY, None)
        expected = expected_of(store, study)
        assert expected is not None
        trial = store.trial(study.id, chosen.trial)
        inside = np.ones((len(labels), 2), np.float32)
        inside[::2, 1] = 0
        whole, _half = expected.choose(gathered, inside)
        assert whole == gathered.epochs[trial.best_stage_run, trial.best_epoch]
    assert chosen.bias_corrected is not None
    assert chosen.bias_corrected.naive == chosen.score
    assert chosen.bias_corrected.estimate <= chosen.score


def test_weights_that_are_sure_of_all_photos_can_be_chosen(searched: Search) -> None:
    """Their losses are 0, of which there is no share, of some photos as of all."""
    chosen = best(storage=searched({32: [Run(0, sure=1.0)], 64: [Run(2)]}).url)
    assert (size_of(chosen), chosen.errors) == (32, 0)
    assert chosen.bias_corrected is not None
    assert chosen.bias_corrected.estimate == 1.0


def test_the_forecast_knows_of_the_study_s_metric_alone(searched: Search) -> None:
    """By another number it chooses by that; asked for both, it says which goes."""
    lab = searched({32: [Run(1)], 64: [Run(2)]})
    by_loss = best(storage=lab.url, asked=Asked(criterion=Criterion.LOG_LOSS))
    assert by_loss.by is By.MAX
    asked = Asked(By.FORECAST, Criterion.LOG_LOSS)
    with pytest.raises(ConfigError, match="give --by max"):
        best(storage=lab.url, asked=asked)


def test_a_study_of_an_earlier_encore_is_chosen_from_by_score(searched: Search) -> None:
    """Its epochs have no calibrated loss to forecast by."""
    lab = searched({32: [Run(1), Run(9)], 64: [Run(2), Run(2)]})
    with sqlite3.connect(lab.url.removeprefix("sqlite:///")) as connection:
        connection.execute("UPDATE encore_epochs SET calibrated_loss = NULL")
    chosen = best(storage=lab.url)
    assert (chosen.by, chosen.errors) == (By.MAX, 1)


def test_the_best_mean_beats_the_best_run_if_asked(searched: Search) -> None:
    """By mean, the file is the best of the best schedule; by max, the luckiest of all."""
    lab = searched({32: [Run(1), Run(9), Run(9)], 64: [Run(4), Run(2), Run(3)]})
    lucky = best(storage=lab.url, asked=Asked(By.MAX))
    assert (size_of(lucky), lucky.errors, lucky.by) == (32, 1, By.MAX)
    steady = best(storage=lab.url, asked=Asked(By.MEAN))
    assert (size_of(steady), steady.errors, steady.by) == (64, 2, By.MEAN)
    assert steady.schedule_digest == steady.schedules[0].digest == lucky.schedules[0].digest
    assert [other.score for other in steady.runners_up] == pytest.approx(
        [1 - errors / 30 for errors in (3, 4, 1, 9, 9)]
    )
    for chosen in (lucky, steady):
        assert chosen.bias_corrected is not None
        assert chosen.bias_corrected.naive == pytest.approx(chosen.score)
        assert (
            chosen.bias_corrected.low
            <= chosen.bias_corrected.estimate
            <= chosen.bias_corrected.high
        )
        assert chosen.bias_corrected.candidates == 6


def test_more_seeds_win_at_equal_means_by_the_lower_bound(searched: Search) -> None:
    """Of what two seeds and four say alike, four are surer; by the mean, the first one stays."""
    lab = searched({64: [Run(2), Run(4)], 96: [Run(4), Run(2), Run(2), Run(4)]})
    assert size_of(best(storage=lab.url, asked=Asked(By.MEAN))) == 64
    sure = best(storage=lab.url, asked=Asked(By.LCB))
    assert (size_of(sure), sure.errors) == (96, 2)
    first, second = sure.schedules
    assert first.mean == pytest.approx(second.mean)
    assert second.bound < first.bound < first.mean
    assert (len(first.scores), len(second.scores)) == (4, 2)


def test_another_criterion_ranks_anew(searched: Search) -> None:
    """By log loss, a few more errors are better than a few that it was sure of."""
    lab = searched({32: [Run(2, 0.999)], 64: [Run(4, 0.8)], 96: [Run(5, 0.8)]})
    assert size_of(best(storage=lab.url)) == 32
    chosen = best(storage=lab.url, asked=Asked(criterion=Criterion.LOG_LOSS))
    assert (size_of(chosen), chosen.metric, chosen.errors) == (64, Criterion.LOG_LOSS, 4)
    expected = -(26 * np.log(0.8) + 4 * np.log(0.1)) / 30
    assert chosen.score == pytest.approx(expected, abs=1e-3)
    assert chosen.loss == pytest.approx(expected, abs=1e-3)
    assert [other.score for other in chosen.runners_up] == sorted(
        other.score for other in chosen.runners_up
    )
    assert [line.mean for line in chosen.schedules] == sorted(ln.mean for ln in chosen.schedules)


def test_a_search_may_be_ranked_by_a_metric_that_has_no_column(
    searched: Search, capsys: pytest.CaptureFixture[str]
) -> None:
    """By Matthews correlation all commands answer, and none prints it as per cent."""
    lab = searched({32: [Run(3, 0.9, 0), Run(2, 0.7, 2)], 64: [Run(4, 0.6, 1)]}, metric="matthews")
    chosen = best(storage=lab.url)
    assert (chosen.metric, chosen.errors) == (Criterion.MATTHEWS, 2)
    assert Path(chosen.file).name.startswith(f"mcc{chosen.score:.4f}_")
    found = chosen.bias_corrected
    assert found is not None
    assert found.low is not None
    assert -1 < found.low < found.estimate <= 1
    for command in (["best"], ["ls"], ["best", "--ensemble", "2"]):
        assert cli.run([*command, "--storage", lab.url]) == 0
        assert f"{chosen.score:.4f}" in capsys.readouterr().out


@pytest.mark.long
def test_a_report_names_a_metric_that_has_no_column(searched: Search, tmp_path: Path) -> None:
    """As the other commands do."""
    lab, report = searched({32: [Run(3), Run(2)]}, metric="matthews"), tmp_path / "report.html"
    assert cli.run(["report", "--to", str(report), "--storage", lab.url]) == 0
    assert "Matthews correlation" in report.read_text(encoding="utf-8")


def test_the_winner_is_the_best_by_each_criterion(searched: Search) -> None:
    """No other trial scores better; without a criterion the study's own metric counts."""
    lab = searched({32: [Run(3, 0.9, 0), Run(2, 0.7, 2)], 64: [Run(4, 0.6, 1)]}, metric="f1")
    assert best(storage=lab.url).metric is Criterion.F1
    for criterion in OF_ONE_CLASS:
        if criterion is Criterion.COST:
            continue
        chosen = best(storage=lab.url, asked=Asked(criterion=criterion))
        sign = 1 if criterion.higher_is_better else -1
        assert len(chosen.runners_up) == 2, criterion
        assert all(sign * chosen.score >= sign * other.score for other in chosen.runners_up)
        found = [score for line in chosen.schedules for score in line.scores.values()]
        assert sign * chosen.score == pytest.approx(max(sign * score for score in found))


def test_cost_chooses_what_costs_least(searched: Search) -> None:
    """Four cheap mistakes are better than two dear ones; the score is the price per photo."""
    lab = searched({32: [Run(2, 0.9, 0)], 64: [Run(4, 0.9, 2)]})
    assert lab.manifest is not None
    roses, tulips, _ = lab.manifest.classes
    assert size_of(best(storage=lab.url)) == 32
    asked = Asked(criterion=Criterion.COST, costs=(f"{roses}>{tulips}=3",))
    chosen = best(storage=lab.url, asked=asked)
    assert (size_of(chosen), chosen.metric) == (64, Criterion.COST)
    assert chosen.goal == Goal(((0.0, 3.0, 1.0), (1.0, 0.0, 1.0), (1.0, 1.0, 0.0)))
    assert chosen.score == pytest.approx(4 / 30)
    assert [other.score for other in chosen.runners_up] == pytest.approx([2 * 3 / 30])
    assert chosen.operation is not None
    assert chosen.operation.decision.costs == chosen.goal.costs
    assert chosen.schedules[0].mean == pytest.approx(chosen.score)


def test_schedules_are_ranked_with_what_is_as_good(searched: Search) -> None:
    """Each with its interval; what luck explains is tied, and the cheapest of these is named."""
    outcomes = {32: [Run(9), Run(10)], 64: [Run(1), Run(2)], 96: [Run(2), Run(2)]}
    lab = searched(outcomes, epochs={64: 4, 96: 2})
    lines = best(storage=lab.url).schedules
    assert [line.trial for line in lines] == [2, 4, 0]
    assert [line.tied for line in lines] == [True, True, False]
    assert cheapest(lines) is lines[1]
    assert [line.seconds for line in lines] == [6.0, 3.0, 1.5]
    for line in lines:
        assert 0 <= line.low <= line.mean <= line.high <= 1
        assert line.mean == pytest.approx(np.mean(list(line.scores.values())))
        assert line.best == max(line.scores.values())
        assert line.spread == pytest.approx(np.std(list(line.scores.values()), ddof=1))


def test_without_all_probabilities_some_choices_cannot_be_made(
    searched: Search, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of very many photos and classes they are not kept: a sentence says so, the rest works."""
    monkeypatch.setattr(predictions, "FULL_LIMIT", 0)
    lab = searched({32: [Run(1)], 64: [Run(2)]})
    assert lab.manifest is not None
    roses, tulips, _ = lab.manifest.classes
    assert (
        best(storage=lab.url, asked=Asked(criterion=Criterion.LOG_LOSS)).bias_corrected is not None
    )
    with pytest.raises(NothingToSelect, match="auroc needs the probabilities of all classes, whi"):
        best(storage=lab.url, asked=Asked(criterion=Criterion.AUROC))
    with pytest.raises(NothingToSelect, match=r"rule needs .+; drop --cost, --recall and --rej"):
        best(storage=lab.url, asked=Asked(costs=(f"{roses}>{tulips}=5",)))


def test_cost_needs_prices(searched: Search) -> None:
    """What mistakes cost cannot be guessed: the sentence says how to give it."""
    lab = searched({32: [Run(1)]})
    with pytest.raises(NothingToSelect, match=r'cost needs prices .+ give --cost "TRUE>PREDICTED='):
        best(storage=lab.url, asked=Asked(criterion=Criterion.COST))


def test_a_run_that_gave_no_numbers_is_never_chosen(searched: Search) -> None:
    """Its NaN probabilities neither win nor disturb the choice among the others."""
    lab = searched({32: [Run(0, np.nan)], 64: [Run(3)], 96: [Run(4)]})
    assert lab.manifest is not None
    roses, tulips, _ = lab.manifest.classes
    for criterion in (None, *OF_ONE_CLASS):
        costs = (f"{roses}>{tulips}=2",) if criterion is Criterion.COST else ()
        chosen = best(storage=lab.url, asked=Asked(criterion=criterion, costs=costs))
        assert size_of(chosen) == 64, criterion
        found = chosen.bias_corrected
        assert found is not None
        assert np.isfinite([found.estimate, found.low, found.high]).all(), criterion


def test_a_handful_of_photos_says_nothing_of_new_ones(searched: Search, tmp_path: Path) -> None:
    """Below ten validation photos no number is made up."""
    few = build_manifest(fill(tmp_path / "few", ("a", "b", "c"), 10))
    assert len(few.labels(Split.VALID)) < 10
    lab = searched({32: [Run(1)], 64: [Run(0)]}, manifest=few)
    assert best(storage=lab.url).bias_corrected is None


def test_what_counts_in_a_mean(finished: Lab) -> None:
    """Complete trials; pruned ones where no complete one has a score; never failed ones."""
    with finished.reading() as (store, study, _):
        one = store.trials(study.id)[0]
    pruned, failed = replace(one, state=State.PRUNED), replace(one, state=State.FAILED)
    blank = replace(one, score=None)
    digest = one.schedule_digest
    assert counted([one, pruned, failed, blank]) == {digest: [one]}
    assert counted([pruned, failed]) == counted([pruned, blank]) == {digest: [pruned]}
    assert counted([failed, blank]) == {}


def test_a_copy_with_prices_is_refused_where_it_cannot_be(finished: Lab, tmp_path: Path) -> None:
    """Into the weights' own folder it would change them; another trainer's have no place for it."""
    asked = Asked(reject_cost=0.5)
    chosen = best(storage=finished.url, asked=asked)
    assert chosen.operation is not None
    assert isinstance(chosen.operation.decision, Decision)
    source = Path(chosen.file)
    before = source.read_bytes()
    with pytest.raises(ConfigError, match="--copy-to must be another folder than that of"):
        copy_weights(chosen, source.parent)
    assert source.read_bytes() == before
    with pytest.raises(ConfigError, match="must be weights that Encore has written, to be copied"):
        copy_weights(chosen, tmp_path / "copies")
    assert list((tmp_path / "copies").iterdir()) == []


def test_a_pruned_trial_among_the_leaders_needs_its_schedule_s_own(
    finished: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where only the best epochs are weighed, a weak seed that counts in a mean is among them."""
    monkeypatch.setattr(candidates, "LIMIT", 1)
    chosen = best(storage=finished.url, runners_up=99)
    assert chosen.schedules[0].digest == chosen.schedule_digest
    with finished.reading() as (store, study, _):
        trials = store.trials(study.id)
    for line in chosen.schedules:
        seeds = {t.seed for t in trials if t.schedule_digest == line.digest and t.score is not None}
        assert set(line.scores) == seeds
    assert len(chosen.schedules) < len({trial.schedule_digest for trial in trials})


@pytest.mark.parametrize(
    "criterion", [pytest.param(Criterion.AUROC, marks=pytest.mark.long), Criterion.COST]
)
def test_a_choice_of_more_than_memory_holds_is_the_same(
    searched: Search, monkeypatch: pytest.MonkeyPatch, criterion: Criterion
) -> None:
    """Read from the database bit by bit, the candidates' probabilities come to the same answer."""
    lab = searched({32: [Run(1), Run(9), Run(9)], 64: [Run(4), Run(2), Run(3)]})
    costs = ["[bold]roses>[red]tulips=3"] if criterion is Criterion.COST else []
    asked = Asked(criterion=criterion, costs=costs)
    held = best(storage=lab.url, asked=asked)
    for module in (candidates, scoring, tables):
        monkeypatch.setattr(module, "HELD", 1)
    assert best(storage=lab.url, asked=asked) == held


def spoil(lab: Lab, run: int, epoch: int) -> None:
    """Damage an epoch's predictions in the database."""
    with sqlite3.connect(lab.folder / "encore.db") as connection:
        changed = connection.execute(
            "UPDATE encore_predictions SET blob = substr(blob, 1, 40) "
            "WHERE stage_run_id = ? AND epoch = ?",
            (run, epoch),
        )
        assert changed.rowcount == 1


@pytest.mark.parametrize(
    "criterion", [Criterion.ACCURACY, pytest.param(Criterion.AUROC, marks=pytest.mark.long)]
)
def test_predictions_that_are_damaged_are_passed_over(
    searched: Search, criterion: Criterion
) -> None:
    """The weights that they are of cannot be judged: the next best are chosen, and it is said."""
    lab = searched({32: [Run(1)], 64: [Run(4), Run(2)], 96: [Run(9)]})
    with lab.reading() as (store, study, _):
        first, second = (each.trial for each in store.ranking(study)[:2])
    run, epoch = first.best_stage_run, first.best_epoch
    assert run is not None
    assert epoch is not None
    spoil(lab, run, epoch)
    chosen = best(storage=lab.url, asked=Asked(criterion=criterion))
    assert chosen.trial == second.number
    assert chosen.damaged == (f"the predictions of stage run {run}, epoch {epoch}",)
    assert size_of(chosen) == 64
    assert first.schedule_digest not in {line.digest for line in chosen.schedules}


def test_a_study_of_which_no_predictions_can_be_read_is_told(searched: Search) -> None:
    """In one sentence, instead of an error about bytes."""
    lab = searched({32: [Run(1)]})
    with lab.reading() as (store, study, _):
        epochs = store.leading_epochs(study, 99)
    for run, epoch in epochs:
        spoil(lab, run, epoch)
    with pytest.raises(NothingToSelect, match="no predictions can be read: the database is damag"):
        best(storage=lab.url)


def test_predictions_in_the_database_are_bounded(searched: Search) -> None:
    """Beyond the setting, `gc` shortens the weakest; what `best` says by accuracy stays the same.

    By AUROC it then chooses among the schedules of whose seeds all is kept.
    """
    lab = searched({32: [Run(1), Run(9)], 64: [Run(4), Run(2)], 96: [Run(20)]})
    before = best(storage=lab.url)
    with lab.reading() as (store, study, _):
        whole = store.kept_predictions(study)
        store.update_config(study.id, study.config | {"keep": {"max_predictions": 1}})
    assert all(each.full for each in whole)
    listed = clean_weights(storage=lab.url)
    done = clean_weights(storage=lab.url, delete=True)
    assert listed.predictions == done.predictions == len(whole) - 1
    assert clean_weights(storage=lab.url).predictions == 0
    with lab.reading() as (store, study, _):
        short = store.kept_predictions(study)
    assert [each.full for each in short] == [True] + [False] * (len(whole) - 1)
    assert sum(each.size for each in short) < sum(each.size for each in whole)
    assert best(storage=lab.url) == before
    with pytest.raises(NothingToSelect, match="auroc needs the probabilities of all classes"):
        best(storage=lab.url, asked=Asked(criterion=Criterion.AUROC))


def test_a_search_bounds_its_predictions(searched: Search) -> None:
    """When it tidies up; doctor says how much there is and what the policy is."""
    lab = searched({32: [Run(1)], 64: [Run(4)]})
    settings = lab.config.model_copy(update={"keep": Keeping(max_predictions=ByteSize(1))})
    lab.config = settings
    lab.search()
    with lab.reading() as (store, study, _):
        assert [each.full for each in store.kept_predictions(study)].count(True) == 1
        store.update_config(study.id, settings.model_dump(mode="json"))
    (said,) = [each.found for each in doctor(storage=lab.url) if "predictions" in each.what]
    assert (
        "shortened; beyond 1 byte (keep.max_predictions) a search and `encore gc --delete`" in said
    )


def test_doctor_names_damaged_predictions_and_goes_on(searched: Search) -> None:
    """Each of them; a page that the database cannot read costs the rows on it alone."""
    lab = searched({32: [Run(1)], 64: [Run(4)]})
    with lab.reading() as (store, study, _):
        run, epoch = store.leading_epochs(study, 9)[1]
    spoil(lab, run, epoch)
    found = [each for each in doctor(storage=lab.url) if each.level is Level.BAD]
    assert [each.found for each in found] == [
        f"1 epoch whose predictions are damaged: epoch {epoch} of stage run {run}"
    ]
