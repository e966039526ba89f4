"""Prices may change while a study runs: they say what to do with weights, not how to train."""

from pathlib import Path
from typing import Any

from storage.database import open_database
from storage.store import Store
from study.config.loading import load_config
from study.config.schema import StudyConfig
from study.studies import open_study, plain_config, stored_config
from trainers.data.manifest import Manifest


def test_a_study_goes_on_under_other_costs(tmp_path: Path, photos: Manifest) -> None:
    """The same study opens, and once its config is renewed the new costs are read from it."""
    url = f"sqlite:///{tmp_path / 'encore.db'}"

    def told(**costs: Any) -> StudyConfig:
        return load_config({"study": "planes", "storage": url, "costs": costs})

    store = Store(open_database(url))
    try:
        first = open_study(store, told(), photos)
        after = told(prices={"a>b": 5.0}, matrix=[[0, 2], [3, 0]], reject=0.3, recall={"a": 0.99})
        again = open_study(store, after, photos)
        assert again.id == first.id
        assert stored_config(again, url).costs == told().costs
        store.update_config(again.id, {**again.config, **plain_config(after)})
        assert stored_config(store.study("planes"), url).costs == after.costs
        assert stored_config(store.study("planes"), url, {"costs": {"reject": 0.1}}).costs == (
            after.costs.model_copy(update={"reject": 0.1})
        )
    finally:
        store.close()
