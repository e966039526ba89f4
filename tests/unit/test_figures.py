"""The report's figures: right numbers, safe names, and sizes that a page can carry."""

import html
import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import timedelta
from typing import Any

import numpy as np
import pytest

from storage.records import State
from study.report.contents import Contents, read_contents
from study.report.figures.confusion import class_table, confusion
from study.report.figures.curves import curves, details_of
from study.report.figures.estimate import estimate
from study.report.figures.importance import importance
from study.report.figures.parallel import parallel
from study.report.figures.probabilities import answers_of, reliability_diagram
from study.report.figures.progress import progress
from study.report.figures.seeds import seeds
from study.report.figures.separation import precision_recall, roc
from study.report.figures.style import LONGEST, Panel, colour_at, shown, time_unit
from study.report.figures.trade_off import trade_off
from study.report.figures.tree import MOST_NODES, boxes_of, stage_tree
from study.report.panels import panels
from study.selection.thresholds import Goal, operate
from study.statistics.areas import auroc
from tests.contents import BEGAN, HOSTILE, SECONDS, make_contents
from tests.lab import Lab, schedule, stage
from trainers.data.manifest import Manifest
from trainers.metrics import Metric, confusion_matrix


def _told(panel: Panel) -> Any:
    assert panel.figure is not None, panel.said
    return panel.figure


def _strings(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        yield from (text for each in value.values() for text in _strings(each))
    elif isinstance(value, list | tuple):
        yield from (text for each in value for text in _strings(each))


@pytest.mark.parametrize("name", [*HOSTILE, "ünï 寿司", "x" * 500, "half \ud800"])
def test_a_name_becomes_text_and_nothing_else(name: str) -> None:
    """No sign that plotly would read is left; what a person sees is the name, its middle cut."""
    safe = shown(name)
    assert not any(sign in safe for sign in "<>\"'{}$`\u202e\x07\ud800")
    assert safe.isprintable()
    seen = html.unescape(safe)
    assert len(seen) <= LONGEST
    plain = "".join(c for c in name if c.isprintable())
    assert seen == plain if len(plain) <= LONGEST else seen[:39] == plain[:39]


@pytest.mark.parametrize(
    "made",
    [
        lambda: make_contents(1),
        lambda: make_contents(50, 2),
        lambda: make_contents(50, 60, each=3, metric=Metric.LOG_LOSS),
        lambda: make_contents(30, 3, compact=True),
    ],
    ids=["1 running", "2 classes", "60 classes by loss", "compact"],
)
def test_every_figure_is_what_plotly_takes(made: Callable[[], Contents]) -> None:
    """Plotly's own checks pass, all numbers are JSON's, and no hostile name is left as it was."""
    import plotly.graph_objects as go

    for name, panel in panels(made()).items():
        assert panel.said, name
        json.dumps([panel.figure, panel.data], allow_nan=False)
        if panel.figure is not None:
            go.Figure(panel.figure)
            whole = " ".join(_strings(panel.figure)).lower()
            for tag in ("<script", "<a", "<img", "</", "\u202e"):
                assert tag not in whole.replace("<extra></extra>", "").replace("</extra>", ""), name


@pytest.mark.long
def test_a_big_study_stays_small() -> None:
    """The figures and details of 2,000 trials, 40 epochs each, fit a page with room to spare."""
    made = make_contents(2000, 100, each=5, epochs=20)
    sizes = {
        name: len(json.dumps([panel.figure, panel.data], separators=(",", ":")))
        for name, panel in panels(made).items()
    }
    assert sizes["curves"] < 8e6
    assert sum(sizes.values()) < 10e6


def test_parallel_coordinates_show_what_varies_best_trials_last() -> None:
    """Two rates are the axes before the score, and the last line drawn is the best trial's."""
    made = make_contents(40)
    found = _told(parallel(made))
    assert found["layout"]["xaxis"]["ticktext"] == ["s1 lr", "s2 lr", "accuracy"]
    lines = [trace for trace in found["data"] if "customdata" in trace]
    drawn = [number for trace in lines for number in trace["customdata"]]
    assert made.ranked[0].number in lines[-1]["customdata"]
    assert set(drawn) == {trial.number for trial in made.trials if trial.score is not None}
    assert "From the second trial" in parallel(make_contents(2)).said


def test_a_lower_loss_is_drawn_higher() -> None:
    """Of a metric where less is better, the best trial ends on top of its axis."""
    made = make_contents(40, metric=Metric.LOG_LOSS)
    last = [trace for trace in _told(parallel(made))["data"] if "customdata" in trace][-1]
    place = last["customdata"].index(made.ranked[0].number)
    assert last["y"][place + 2] == 1


def test_importance_finds_the_parameter_that_decides() -> None:
    """The second stage's rate makes the scores, and the forest says so, and how well it knows."""
    found = importance(make_contents(120))
    name, share = found.data[0]
    assert name == "s2 lr"
    assert share > 0.8
    assert "out-of-bag" in found.said


@pytest.mark.parametrize("trials", [15, 120])
def test_importance_claims_nothing_it_cannot_know(trials: int) -> None:
    """Neither of too few schedules, nor of scores that are noise."""
    made = make_contents(trials)
    noise = np.random.default_rng(1).permutation(trials) / 1000
    drawn = [
        replace(t, score=t.score and float(s)) for t, s in zip(made.trials, noise, strict=True)
    ]
    found = importance(replace(made, trials=tuple(drawn)))
    assert found.figure is None
    assert "mportance" in found.said


def test_details_hold_each_stage_run_once_and_every_restart() -> None:
    """Two trials name the same first stage, its columns are of one length, gaps are no numbers."""
    found = details_of(make_contents(10, epochs=300))
    first, second = found["trials"][:2]
    assert first["runs"][0] == second["runs"][0] != second["runs"][1]
    run = found["runs"][str(first["runs"][0])]
    assert (run["stage"], run["image_size"], run["shared"]) == (1, 64, 2)
    columns = ("cycle", "train_loss", "valid_loss", "accuracy", "score", "lr")
    assert {len(run[name]) for name in columns} == {len(run["epoch"])}
    assert len(run["epoch"]) <= 202
    assert run["epoch"][run["cycle"].index(2)] == 151
    assert run["epoch"][-1] == 300
    diverged = found["runs"][str(found["trials"][3]["runs"][1])]
    assert set(diverged["valid_loss"]) == {None}
    assert found["trials"][3]["failure"].startswith("<script>")


def test_curves_name_the_best_and_thin_the_others() -> None:
    """Twenty lines have a trial's name, in order of rank; all others are one line with gaps."""
    made = make_contents(60)
    loss = [trace for trace in _told(curves(made))["data"] if trace["yaxis"] == "y"]
    named = [trace["customdata"][0] for trace in loss if trace["name"] != "others"]
    assert named == [trial.number for trial in made.ranked[:20]]
    behind = next(trace for trace in loss if trace["name"] == "others")
    assert behind["x"].count(None) == 40
    assert "From the second epoch" in curves(replace(make_contents(1), epochs={})).said


def test_the_tree_keeps_all_time_when_it_merges() -> None:
    """Of too many stage runs the weak become one box a parent: none of their time is lost."""
    small, big = make_contents(20), make_contents(400)
    assert len(boxes_of(small)) == len(small.runs)
    boxes = boxes_of(big)
    assert MOST_NODES <= len(boxes) < len(big.runs)
    assert any(box.label == f"{box.merged} more" for box in boxes)
    assert sum(box.merged for box in boxes) == len(big.runs)
    assert sum(box.seconds for box in boxes) == SECONDS * len(big.runs)
    assert {box.parent for box in boxes} <= {"study", *(box.id for box in boxes)}
    best = max(trial.score or 0 for trial in big.trials)
    assert max(box.score or 0 for box in boxes if box.merged == 1) == best


def test_a_box_of_the_tree_says_all_and_leads_to_its_trials() -> None:
    """A stage run's box has its settings, score, time and trials, and how many were pruned there.

    A box comes after its parent, and the better its score the more orange it is.
    """
    made = make_contents(20)
    boxes = {box["id"]: box for box in stage_tree(made).data}
    shared, failed = boxes[f"{9:064x}"], boxes[f"{8:064x}"]
    assert (shared["trials"], shared["n_trials"], shared["stopped"]) == ([4, 5], 2, 1)
    assert shared["label"] == "64 px · 4 ep · lr 0.001002"
    assert (shared["time_text"], failed["state"]) == ("10 s", "failed")
    seen = {"study"}
    for box in boxes.values():
        assert box["parent"] in seen
        seen.add(box["id"])
    best = max(made.trials, key=lambda trial: trial.score or 0)
    assert boxes[f"{2 * best.number + 2:064x}"]["colour"] == colour_at(1)


def test_cells_of_the_confusion_lead_to_their_photos() -> None:
    """Each cell's photos have its true and its predicted class, the surest mistakes first."""
    made = make_contents()
    found, labels = made.predictions, made.labels
    assert found is not None
    panel = confusion(made)
    counts = confusion_matrix(labels, found.predicted, 3)
    drawn = _told(panel)
    assert drawn["data"][0]["text"] == [[n or "" for n in row] for row in counts.tolist()]
    # A row's shares add up to one, and on a dark page an empty cell is dark.
    assert np.sum(drawn["data"][0]["z"], axis=1) == pytest.approx(1, abs=0.01)
    assert drawn["layout"]["meta"]["dark_scale"][0] == [0, "#1F2226"]
    for cell in panel.data:
        places = cell["photos"]
        assert {(int(labels[p]), int(found.predicted[p])) for p in places} == {
            (cell["true"], cell["predicted"])
        }
        assert cell["count"] == counts[cell["true"], cell["predicted"]]
        sure = [float(found.confidence[p]) for p in places]
        assert sure == sorted(sure, reverse=cell["true"] != cell["predicted"])
    assert sum(cell["count"] for cell in panel.data) == len(labels)


def test_of_many_classes_the_most_confused_are_shown() -> None:
    """A thousand classes become forty; the table has them all, the weakest first."""
    made = make_contents(5, 1000, each=2)
    panel = confusion(made)
    trace = _told(panel)["data"][0]
    assert len(trace["z"]) == len(trace["z"][0]) == 40
    assert "of 1000" in panel.said
    rows = class_table(made).data
    assert len(rows) == 1000
    assert [row["recall"] for row in rows] == sorted(row["recall"] for row in rows)
    worst = rows[0]
    assert worst["times"] > 0
    assert worst["taken_for"] in made.classes


def test_the_reliability_diagram_tells_the_calibration_error() -> None:
    """Its errors are those of the definition, and less by far after the temperature."""
    made = make_contents(classes=4, each=60)
    found, _ = answers_of(made)
    assert found is not None
    errors = reliability_diagram(made, found).data
    for when, table in (("before", found.plain), ("after", found.calibrated)):
        sure, right = table.max(axis=1), table.argmax(axis=1) == found.labels
        inside = [(sure >= low / 10) & (sure < (low + 1) / 10) for low in range(9)]
        inside.append(sure >= 0.9)
        off = sum(abs(float((sure - right)[mine].sum())) for mine in inside)
        assert errors[when] == pytest.approx(off / len(sure), rel=1e-3)
    assert errors["before"] > errors["after"]


@pytest.mark.parametrize("classes", [2, 15])
def test_areas_are_those_that_others_find(classes: int) -> None:
    """Areas under ROC as in the scores, average precision as scikit-learn's, ties included."""
    from sklearn.metrics import average_precision_score

    made = make_contents(classes=classes, each=30)
    found, _ = answers_of(made)
    assert found is not None
    found = replace(found, plain=np.round(found.plain, 1))
    area_under, precise = roc(made, found), precision_recall(made, found)
    labels = [1] if classes == 2 else list(range(classes))
    assert list(area_under.data) == [str(label) for label in labels]
    for label in labels:
        one = found.plain[:, label]
        positive = found.labels == label
        area = auroc(positive.astype(np.int64), np.stack([1 - one, one], axis=1))
        assert area_under.data[str(label)] == pytest.approx(area, abs=1e-3)
        wanted = average_precision_score(positive, one)
        assert precise.data[str(label)] == pytest.approx(wanted, abs=1e-3)
    curves_drawn = len(_told(area_under)["data"])
    assert curves_drawn == (2 if classes == 2 else 1 + 1 + 12)


def test_the_thresholds_trade_one_recall_for_the_other() -> None:
    """Each point's counts are those of naming the first class from that probability on."""
    made = make_contents(classes=2, each=80)
    found, _ = answers_of(made)
    assert found is not None
    data = trade_off(made, found).data
    assert (data["kind"], data["own"], data["priced"]) == ("threshold", 0.5, False)
    for point in data["points"]:
        # The point is rounded for the page, so the photo at it may lie on either side.
        near = np.abs(found.calibrated[:, 0] - point["at"]) < 1e-3
        named = np.where(found.calibrated[:, 0] >= point["at"], 0, 1)
        counts = confusion_matrix(found.labels, named, 2)
        assert np.abs(counts - point["confusion"]).max() <= near.sum()
        wrong = point["confusion"][0][1] + point["confusion"][1][0]
        assert point["cost"] == pytest.approx(wrong / 160, abs=1e-3)
    recalls = [point["recalls"] for point in data["points"]]
    assert recalls == sorted(recalls, key=lambda pair: (-pair[0], pair[1]))


def test_of_more_classes_doubt_is_left_to_a_person() -> None:
    """Ever more photos are answered; when all are, the mistakes are the classifier's."""
    made = make_contents(classes=5, each=40)
    found, _ = answers_of(made)
    assert found is not None
    points = trade_off(made, found).data["points"]
    shares = [point["answered"] for point in points]
    assert shares == sorted(shares)
    assert points[-1]["answered"] == 1
    assert points[-1]["wrong"] == int((found.calibrated.argmax(axis=1) != found.labels).sum())
    assert points[0]["cost"] <= points[-1]["cost"]


@pytest.mark.parametrize("classes", [2, 4])
def test_under_prices_the_curve_is_that_of_best(finished: Lab, classes: int) -> None:
    """Its settings and costs are the operation's, and the mark stands at the rule's own."""
    made = make_contents(classes=classes, each=40)
    found, _ = answers_of(made)
    selection = read_contents(storage=finished.url).selection
    assert found is not None
    assert selection is not None
    costs = np.full((classes, classes), 3.0)
    costs[0] = 1.0
    np.fill_diagonal(costs, 0)
    goal = Goal(tuple(map(tuple, costs.tolist())), None if classes == 2 else 0.6)
    operation = operate(found.labels, found.plain, goal)
    priced = replace(made, selection=replace(selection, goal=goal, operation=operation))
    panel = trade_off(priced, found)
    points = panel.data["points"]
    assert [point["cost"] for point in points] == [
        pytest.approx(point.cost, rel=1e-3) for point in operation.trade_off
    ]
    assert (panel.data["priced"], panel.data["costs"]) == (True, costs.tolist())
    assert panel.data["own"] == (0.75 if classes == 2 else 0.6)
    if classes > 2:
        wrong = int(np.sum(operation.confusion) - np.trace(operation.confusion))
        assert min(p["wrong"] for p in points) <= wrong <= max(p["wrong"] for p in points)
        assert all(p["wrong"] <= p["answered"] * len(found.labels) + 1 for p in points)
        assert points[-1]["wrong"] <= points[-1]["cost"] * len(found.labels) + 1e-2
    mark = _told(panel)["layout"]["shapes"][0]["x0"]
    key = "at" if classes == 2 else "answered"
    near = min(points, key=lambda point: abs(point["at"] - panel.data["own"]))
    assert mark == near[key]


def test_without_all_probabilities_the_reason_is_told() -> None:
    """Of big data sets two probabilities a photo are kept: the confusion stays, curves do not."""
    found = panels(make_contents(compact=True))
    for name in ("reliability", "roc", "precision_recall", "trade_off"):
        assert found[name].figure is None
        assert "all classes" in found[name].said
    assert found["confusion"].figure is not None


@pytest.mark.parametrize("metric", [Metric.ACCURACY, Metric.LOG_LOSS])
def test_the_best_so_far_only_gets_better(metric: Metric) -> None:
    """Its line ends at the study's best score, and never turns back."""
    made = make_contents(40, metric=metric)
    line = _told(progress(made))["data"][-1]
    assert line["y"][-1] == pytest.approx(made.ranked[0].score)
    assert line["y"] == sorted(line["y"], reverse=not metric.higher_is_better)


def test_sharing_saves_what_it_did_not_train() -> None:
    """A first stage that two trials use was paid once: half of what it would have cost."""
    rows = panels(make_contents(10))["compute"].data
    assert rows == [
        {"stage": 1, "image_size": 64, "spent": 50.0, "saved": 50.0},
        {"stage": 2, "image_size": 96, "spent": 90.0, "saved": 0.0},
    ]


def test_the_estimate_is_drawn_beside_what_was_observed(finished: Lab) -> None:
    """On one axis: the estimate with its interval, the observed score, the mean and its seeds."""
    found = read_contents(storage=finished.url)
    chosen = found.selection
    assert chosen is not None
    assert chosen.bias_corrected is not None
    seen = replace(chosen, seed_scores={0: 0.8, 1: 0.9}, schedule_mean=0.85, schedule_spread=0.07)
    drawn = _told(estimate(replace(found, selection=seen)))
    rows = {trace["name"]: trace for trace in reversed(drawn["data"])}
    guess = rows["estimated on new photos"]
    assert guess["x"] == [pytest.approx(chosen.bias_corrected.estimate)]
    assert chosen.bias_corrected.high is not None
    reach = guess["x"][0] + guess["error_x"]["array"][0]
    assert reach == pytest.approx(chosen.bias_corrected.high, abs=1e-3)
    assert rows["observed"]["x"] == [pytest.approx(chosen.score)]
    assert rows["mean of 2 seeds"]["x"] == [0.85]
    assert [0.8, 0.9] in [trace["x"] for trace in drawn["data"]]
    labels = drawn["layout"]["yaxis"]["ticktext"]
    assert labels[:3] == ["estimated on new photos", "observed", "mean of 2 seeds"]
    assert {trace["xaxis"] for trace in drawn["data"] if "xaxis" in trace} == set()
    nothing = estimate(make_contents(1))
    assert (nothing.figure, "Once a trial has finished" in nothing.said) == (None, True)


def test_without_a_second_seed_no_seeds_are_drawn(finished: Lab) -> None:
    """An exhibit of single dots would say nothing: a line says what would fill it."""
    found = read_contents(storage=finished.url)
    assert found.selection is not None
    alone = [replace(line, scores={0: line.mean}) for line in found.schedules]
    panel = seeds(replace(found, selection=replace(found.selection, schedules=tuple(alone))))
    assert panel.figure is None
    assert "--repeats 3" in panel.said


@pytest.mark.parametrize(("epochs", "step"), [(2, 1), (4, 1), (50, None)])
def test_epochs_are_whole_numbers(epochs: int, step: int | None) -> None:
    """Of few epochs each has its tick; of many plotly's own steps are whole anyway."""
    layout = _told(curves(make_contents(10, epochs=epochs)))["layout"]
    assert layout["xaxis2"].get("dtick") == step


@pytest.mark.parametrize(
    ("seconds", "unit"), [(40, "seconds"), (600, "minutes"), (7000, "minutes"), (9000, "hours")]
)
def test_time_is_in_the_unit_that_fits(seconds: float, unit: str) -> None:
    """Where there are no hours, the axis has minutes, and where there are none, seconds."""
    assert time_unit(seconds)[0] == unit
    made = make_contents(2)
    end = BEGAN + timedelta(seconds=seconds)
    trials = tuple(replace(made.trials[0], id=n, number=n, finished_at=end) for n in (0, 1))
    title = _told(progress(replace(made, trials=trials)))["layout"]["xaxis"]["title"]["text"]
    assert title == f"{unit} since the first trial began"


def test_contents_are_those_of_the_selection(finished: Lab) -> None:
    """Of a real study the predictions give the selection's confusion, and seeds their trials."""
    found = read_contents(storage=finished.url)
    assert found.selection is not None
    assert found.predictions is not None
    assert found.winner is not None
    assert found.winner.number == found.selection.trial
    counts = confusion_matrix(found.labels, found.predictions.predicted, 3)
    assert counts.tolist() == found.selection.confusion
    with finished.reading() as (store, study, _):
        for trial in store.trials(study.id):
            assert found.epochs_of(trial.number) == store.epochs_of_trial(trial.id)
    drawn = panels(found)
    points = _told(drawn["seeds"])["data"][0]
    by_number = {trial.number: trial for trial in found.trials}
    for x, (number, seed) in zip(points["x"], points["customdata"], strict=True):
        assert by_number[number].seed == seed
        assert by_number[number].score == pytest.approx(x)


def test_a_study_that_has_just_begun_can_be_read(
    make_lab: Callable[..., Lab], photos: Manifest
) -> None:
    """One running trial with one epoch: no winner, but its curve and its place in the tree."""
    lab = make_lab(schedule(stage(32, 1e-3, 5)), manifest=photos)
    lab.search(stop=lambda: bool(lab.trainer.trained))
    found = read_contents(storage=lab.url)
    assert [trial.state for trial in found.trials] == [State.RUNNING]
    assert (found.selection, found.winner, found.predictions) == (None, None, None)
    assert "no trial" in found.unselected
    drawn = panels(found)
    assert {name for name, panel in drawn.items() if panel.figure} == {"compute"}
    assert len(drawn["tree"].data) == 1
