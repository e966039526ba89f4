"""What a stage hands on: the network that the next one starts from, and nothing beside it."""

from dataclasses import replace
from pathlib import Path
from typing import Self

import numpy as np
import pytest
import safetensors.numpy

from storage.records import Kind, Role
from study.searching.checkpoints import WeightsFiles
from tests.lab import Lab, schedule, stage
from tests.tiny_training import card_of, in_last, metrics_of, network_of, same
from trainers.base import BEST, LAST
from trainers.checkpoint import load_network_weights, save_training_state, save_weights
from trainers.handover import network_alone
from trainers.metrics import EpochMetrics, Evaluation, Metric

EPOCHS, PHOTOS, CLASSES = 4, 500, 100
LABELS = np.arange(PHOTOS) % CLASSES


def epoch_of(number: int) -> EpochMetrics:
    """Make an epoch of many photos and classes."""
    table = np.random.default_rng(number).dirichlet(np.ones(CLASSES), PHOTOS)
    return replace(metrics_of(number), evaluation=Evaluation(LABELS, table.astype(np.float32)))


@pytest.mark.long
def test_a_sealed_last_is_as_large_as_its_network(tmp_path: Path) -> None:
    """However much its epochs predicted; and the next stage starts from the same weights."""
    lab, network, history = Lab(tmp_path), network_of(3), [epoch_of(n + 1) for n in range(EPOCHS)]
    with lab.bench() as bench:
        store, vault = bench.store, bench.vault
        trial = store.add_trial(bench.study.id, 0, schedule(stage(), stage()), 0, Role.EXPLORE)
        run = store.begin_stage_run(trial, "a" * 64, 0)
        for epoch in history:
            store.record_epoch(run.id, epoch)
        folder = vault.workspace(run.key)
        save_training_state(folder / LAST, in_last(network), history)
        save_weights(folder / BEST, network.state_dict(), card_of())
        weights = WeightsFiles(store, vault, Metric.ACCURACY)
        weights.enter(run, weights.seal(run, trial, 0, with_last=True))
        sealed = vault.path(weights.kept(run)[Kind.LAST].path)
        with safetensors.safe_open(sealed, "np") as file:
            assert {name.partition(".")[0] for name in file.keys()} == {"network"}  # noqa: SIM118
        assert sealed.stat().st_size < vault.path(weights.kept(run)[Kind.BEST].path).stat().st_size
        child = network_of(9)
        load_network_weights(sealed, child)
    assert same(dict(child.state_dict()), dict(network.state_dict()))


def test_a_child_reads_nothing_but_the_network(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a `last` of an older Encore, too, which still holds what its epochs predicted."""
    network, read = network_of(3), []
    save_training_state(tmp_path / LAST, in_last(network), [epoch_of(1)])
    opened = safetensors.safe_open

    class Watched:
        """An open file that notes what is taken from it."""

        def __init__(self, *given: object, **more: object) -> None:
            self.file = opened(*given, **more)

        def __enter__(self) -> Self:
            self.file.__enter__()
            return self

        def __exit__(self, *error: object) -> None:
            self.file.__exit__(*error)

        def keys(self) -> list[str]:
            """Name what there is."""
            return list(self.file.keys())

        def get_tensor(self, name: str) -> object:
            """Note what is read."""
            read.append(name)
            return self.file.get_tensor(name)

    monkeypatch.setattr(safetensors, "safe_open", Watched)
    load_network_weights(tmp_path / LAST, network_of(9))
    assert set(read) == set(in_last(network))


def test_what_is_no_state_of_ours_is_handed_on_as_it_is(tmp_path: Path) -> None:
    """A network alone, an own trainer's tensors or text, and a file that is not there."""
    contents = {"network.a": np.ones(2)}, {"probabilities": np.ones(3), "layer": np.ones(2)}
    for place, tensors in enumerate(contents):
        path = tmp_path / f"{place}.safetensors"
        safetensors.numpy.save_file(tensors, path)
        assert network_alone(path) == path
    (text := tmp_path / "text").write_text("mine")
    assert network_alone(text) == text
    assert network_alone(tmp_path / "absent") == tmp_path / "absent"
    assert len(list(tmp_path.iterdir())) == 3
