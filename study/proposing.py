"""From the policy's action to a new trial: its schedule, its seed, its rows."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

from storage.records import Role, State, StudyRecord, Trial, stage_run_key
from storage.store import Store
from study.config import StudyConfig
from study.halving import HALVING, goes_on
from study.policy import Action, Branch, Explore, Repeat, RunGiven, fresh_seed
from study.space import params_of
from study.tree import StageTree
from trainers.schedule import Schedule

if TYPE_CHECKING:
    from study.suggestions import Suggestions  # Optuna, which `best` and `ls` do without


class Proposals:
    """Begins the trials of a study."""

    def __init__(
        self,
        study: StudyRecord,
        config: StudyConfig,
        weights: str,
        store: Store,
        suggestions: "Suggestions",
    ) -> None:
        self._study = study
        self._config = config
        self._weights = weights
        self._store = store
        self._suggestions = suggestions

    def begin(self, action: Action, trials: Mapping[int, Trial], tree: StageTree) -> Trial:
        """Begin the trial that the policy asks for, in Optuna and in our own tables."""
        match action:
            case RunGiven(schedule):
                params = params_of(schedule, self._config.resolved_space)
                number, role = self._suggestions.add(params=params), Role.PRESET
            case Explore(free):
                number, schedule = self._ask(tree, None, free=free)
                role = Role.FREE if free else Role.EXPLORE
            case Branch():
                number, schedule = self._ask(tree, action)
                role = Role.BRANCH
            case Repeat(of):
                number, schedule = self._suggestions.add(like=of.number), of.schedule
                role = Role.REPEAT
        # Repeats train on what halving stopped: without its weak seeds a mean would flatter.
        tried = [t for t in trials.values() if role is not Role.REPEAT or t.state != State.PRUNED]
        # A suggestion that was already run becomes one more seed of that schedule.
        seed = fresh_seed(tried, schedule, self._config.seeds.first)
        trial = self._store.add_trial(self._study.id, number, schedule, seed, role)
        self._suggestions.annotate(
            number, {"seed": seed, "schedule": trial.schedule_digest, "role": role.value}
        )
        return trial

    def _ask(
        self, tree: StageTree, after: Branch | None, *, free: bool = False
    ) -> tuple[int, Schedule]:
        """Ask the sampler; ask again if what it says would be stopped before any training."""
        return self._suggestions.ask(
            self._config.resolved_space,
            self._weights,
            after,
            lambda schedule: free or not self._leads_nowhere(schedule, tree),
        )

    def _leads_nowhere(self, schedule: Schedule, tree: StageTree) -> bool:
        if self._config.strategy not in HALVING:
            return False
        manifest, seed = self._study.manifest_digest, self._config.seeds.first
        trained = None
        for prefix in schedule.prefixes():
            node = tree.find(stage_run_key(manifest, prefix, seed))
            if node is not None and node.failed:
                return True
            if node is None or node.rank is None:
                break
            trained = node
        else:
            return False  # it becomes one more seed
        if trained is None or trained.rank is None or trained.probe:
            return False
        reached = tree.reached(trained.position)
        return not goes_on(trained.rank, reached, self._config.halving.eta)
