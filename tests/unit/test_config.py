"""Settings: defaults, under a file, under flags; and one sentence for each that cannot be."""

from pathlib import Path
from typing import Any

import pytest

from study.config.loading import load_config, settings_of
from study.config.portfolio import TYPICAL, space_for
from study.config.schema import DIGITS_SPACE, PHOTO_SPACE, Preset, Sampler, Space, StudyConfig
from study.config.space import StageChoices
from study.errors import ConfigError
from trainers.metrics import Metric

SPACE: dict[str, Any] = {"image_size": [64], "batch_size": [32]}


def toml(folder: Path, text: str) -> Path:
    """Write a config file."""
    (folder / "study.toml").write_text(text, encoding="utf-8")
    return folder / "study.toml"


def refused(settings: dict[str, Any] | None = None, file: Path | None = None) -> str:
    """Return the text of the ConfigError, and check that it is one sentence."""
    with pytest.raises(ConfigError) as error:
        load_config(settings, file)
    text = str(error.value)
    assert "\n" not in text
    assert "pydantic" not in text.lower()
    return text


def test_defaults_lie_under_the_file_and_the_file_under_the_flags(tmp_path: Path) -> None:
    """Each layer changes only what it names; a flag that was not given changes nothing."""
    file = toml(tmp_path, 'metric = "f1"\n[budget]\ntrials = 7\n[seeds]\nfirst = 3\nrepeats = 2')
    flags = settings_of(trials=9, metric=None, repeats=None, seed=4, data=None)
    config = load_config(flags, file)
    assert (config.budget.trials, config.budget.max_failures) == (9, 5)
    assert (config.seeds.first, config.seeds.repeats, config.seeds.finalists) == (4, 2, 5)
    assert config.metric is Metric.F1
    assert config.data.source is None
    assert load_config() == StudyConfig()


def test_flags_find_their_sections(tmp_path: Path) -> None:
    """Every flag of the command line has its place, and paths become text."""
    config = load_config(
        settings_of(
            data=tmp_path,
            data_root=tmp_path / "root",
            trials=1,
            max_failures=2,
            seed=3,
            repeats=4,
            finalists=5,
            study="s",
            backbone="resnet18",
            preset="quick",
            sampler="random",
            precision="bf16",
            compile=True,
            deterministic=True,
            cache_limit="20GB",
        )
    )
    assert config.data.source == str(tmp_path)
    assert config.data.root == str(tmp_path / "root")
    assert (config.budget.trials, config.budget.max_failures) == (1, 2)
    assert (config.seeds.first, config.seeds.repeats, config.seeds.finalists) == (3, 4, 5)
    assert (config.preset, config.sampler) == (Preset.QUICK, Sampler.RANDOM)
    assert (config.precision, config.compile, config.deterministic) == ("bf16", True, True)
    assert config.data.cache_limit == 20_000_000_000


def test_how_to_compute_is_set_in_the_file_too(tmp_path: Path) -> None:
    """Precision, compile, deterministic, checkpoints and the cache's limit; none was set before."""
    default = load_config()
    told = (default.precision, default.compile, default.deterministic, default.checkpoint_seconds)
    assert (*told, default.data.cache_limit) == ("auto", False, False, 30.0, None)
    config = load_config(
        settings_of(precision=None, compile=None, deterministic=None, cache_limit=None),
        toml(
            tmp_path,
            'precision = "tf32"\ncompile = true\ndeterministic = true\ncheckpoint_seconds = 0\n'
            '[data]\ncache_limit = "500MB"\n',
        ),
    )
    told = (config.precision, config.compile, config.deterministic, config.checkpoint_seconds)
    assert told == ("tf32", True, True, 0.0)
    assert config.data.cache_limit == 500_000_000


def test_a_size_may_have_a_unit() -> None:
    """As a flag, which is text, and as bytes in a study of an earlier Encore."""
    sizes: dict[object, int] = {"20GB": 20 * 10**9, "500MB": 5 * 10**8, "1.5TB": 15 * 10**11}
    for limit, size in (sizes | {"20 gib": 20 * 2**30, "0": 0, 0: 0}).items():
        assert load_config(settings_of(cache_limit=limit)).data.cache_limit == size
    assert load_config(stored={"keep": {"max_disk": 4096}}).keep.max_disk == 4096


@pytest.mark.parametrize("size", ["5", " 5 ", "1.5", 5, 5.0])
def test_a_size_without_a_unit_is_refused(size: object) -> None:
    """`--max-disk 5` was 5 bytes, and all weights but one were deleted."""
    assert refused(settings_of(max_disk=size)).startswith(
        "--max-disk must be a size with a unit, such as 20GB, got "
    )


@pytest.mark.parametrize(
    ("settings", "name", "hint"),
    [
        ({"studdy": "x"}, "studdy", "did you mean 'study'?"),
        ({"quite": 1, "else": 2}, "quite", "known are study, storage, metric"),
        ({"budget": {"trial": 3}}, "budget.trial", "did you mean 'trials'?"),
        ({"data": {"sorce": "x"}}, "data.sorce", "did you mean 'source'?"),
        ({"halving": {"etta": 3}}, "halving.etta", "did you mean 'eta'?"),
        ({"keep": {"disk": 3}}, "keep.disk", "did you mean 'max_disk'?"),
        ({"budget": {"time_out": "8h"}}, "budget.time_out", "did you mean 'timeout'?"),
        ({"seeds": {"zzz": 1}}, "seeds.zzz", "known are first, repeats, finalists"),
        ({"space": {**SPACE, "backbones": ["x"]}}, "space.backbones", "did you mean 'backbone'?"),
        (
            {"space": {**SPACE, "stages": [{}, {"image_siz": [64]}]}},
            "space.stages.1.image_siz",
            "did you mean 'image_size'?",
        ),
        (
            {"space": {**SPACE, "stages": [{"backbone": ["a"]}]}},
            "space.stages.0.backbone",
            "known are image_size",
        ),
    ],
)
def test_unknown_settings_are_refused_with_the_nearest_name(
    settings: dict[str, Any], name: str, hint: str
) -> None:
    """At every level, a misspelt name is met with the one that was probably meant."""
    text = refused(settings)
    assert text.startswith(f"there is no setting {name!r}; ")
    assert hint in text


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('metric = "speed"', ("metric", "'accuracy'", "'log_loss'", "'speed'")),
        ("study = 5", ("study", "text", "5")),
        ("[budget]\ntrials = 0", ("budget.trials", "at least 1", "0")),
        ("[budget]\ntrials = 1.5", ("budget.trials", "whole number", "1.5")),
        ('[budget]\ntrials = "many"', ("budget.trials", "whole number", "'many'")),
        ("[budget]\nmax_failures = 0", ("budget.max_failures", "1")),
        ("budget = 3", ("budget", "3")),
        ("[seeds]\nfirst = -1", ("seeds.first", "-1")),
        ("[seeds]\nfirst = 2147483648", ("seeds.first", "below 2147483648")),
        ("[seeds]\nrepeats = 1001", ("seeds.repeats", "1000", "1001")),
        ("[seeds]\nfinalists = 0", ("seeds.finalists", "1")),
        ('sampler = "best"', ("sampler", "'tpe'", "'best'")),
        ('preset = "long"', ("preset", "'quick'", "'long'")),
        ("[data]\nsource = 3", ("data.source", "text", "3")),
        ('[data]\ncache_limit = "20 apples"', ("data.cache_limit", "size with a unit", "'20 a")),
        ("[data]\ncache_limit = -1", ("data.cache_limit", "size with a unit", "-1")),
        ('[data]\ncache_limit = "-1GB"', ("data.cache_limit", "size with a unit", "'-1GB'")),
        ("[data]\ncache_limit = inf", ("data.cache_limit", "size with a unit", "inf")),
        ('[data]\ncache_limit = ""', ("data.cache_limit", "size with a unit", "''")),
        ('precision = "fp8"', ("precision", "'auto', 'bf16', 'fp16', 'tf32' or 'fp32'", "'fp8'")),
        ("checkpoint_seconds = -1", ("checkpoint_seconds", "at least 0", "-1")),
        ("checkpoint_seconds = inf", ("checkpoint_seconds", "finite", "inf")),
        ("checkpoint_seconds = nan", ("checkpoint_seconds", "finite", "nan")),
        ('compile = "maybe"', ("compile", "true or false", "'maybe'")),
        ("[space]\nimage_size = 64", ("space.image_size", "64")),
        (
            '[budget]\ntimeout = "8 parsecs"',
            ("budget.timeout must be a number with a unit", "8h", "'8 parsecs'"),
        ),
        ('[budget]\ntimeout = ""', ("budget.timeout must be a number with a unit", "''")),
        ('[budget]\ntimeout = "90"', ("budget.timeout must be a number with a unit", "'90'")),
        (
            '[budget]\ntimeout = "8h30m"',
            ("budget.timeout must be a number with a unit", "'8h30m'"),
        ),
        ('[budget]\ntimeout = "-1h"', ("budget.timeout", "'-1h'")),
        ('[budget]\ntimeout = "nan s"', ("budget.timeout", "'nan s'")),
        ('[budget]\ntimeout = "inf d"', ("budget.timeout", "'inf d'")),
        ("[budget]\ntimeout = 0", ("budget.timeout", "above 0", "0")),
        ("[budget]\ntimeout = nan", ("budget.timeout", "nan")),
        ("[budget]\ncompute = 0", ("budget.compute", "above 0", "0")),
        ("[budget]\ncompute = inf", ("budget.compute", "finite", "inf")),
        ('[budget]\ncompute = "much"', ("budget.compute must be a number with a unit", "'much'")),
        ("[budget]\nmax_gpu_hours = 9", ("there is no setting 'budget.max_gpu_hours'",)),
        ("[budget]\nmax_retries = -1", ("budget.max_retries", "-1")),
        ("[halving]\neta = 1", ("halving.eta", "at least 2", "1")),
        ("[halving]\neta = 1", ("halving.eta", "2", "1")),
        ("[keep]\ntrials = 0", ("keep.trials", "at least 1", "0")),
        ('[keep]\nmax_disk = "much"', ("keep.max_disk", "size with a unit", "'much'")),
        ("[keep]\nmax_disk = -1", ("keep.max_disk", "size with a unit", "-1")),
        ("[keep]\nmax_disk = 20", ("keep.max_disk", "size with a unit", "20")),
        (
            'strategy = "forest"',
            ("strategy", "'forecast', 'independent', 'asha' or 'grid'", "'forest'"),
        ),
        ('engine = "dask"', ("engine", "inline", "processes", "ray", "'dask'")),
        ('address = "h:1"', ("address", "--engine ray")),
        ('engine = "ray"\naddress = "ray://h:1"', ("address", "HOST:PORT", "'ray://h:1'")),
        ("devices = 0", ("devices", "text", "0")),
        ("workers_per_device = 0", ("workers_per_device", "0")),
        ("workers_per_device = 65", ("workers_per_device", "64", "65")),
    ],
)
def test_wrong_values_are_named_in_a_sentence(
    tmp_path: Path, text: str, words: tuple[str, ...]
) -> None:
    """The sentence has the file, the setting, what it must be and what it is."""
    said = refused(file=toml(tmp_path, text))
    assert said.startswith(str(tmp_path / "study.toml"))
    assert all(word in said for word in words), said


def test_a_span_of_time_may_have_a_unit() -> None:
    """Seconds, minutes, hours and days, as text; a bare number, in a file, is seconds."""
    spans: dict[object, float] = {"90s": 90, "30m": 1800, "8h": 28_800, "2d": 172_800}
    for span, seconds in (spans | {"1.5h": 5400, " 8 H ": 28_800, 90: 90, 0.5: 0.5}).items():
        assert load_config(settings_of(timeout=span)).budget.timeout == seconds


@pytest.mark.parametrize(
    ("settings", "trials"),
    [
        ({}, 50),
        ({"trials": 7}, 7),
        ({"budget": "20m"}, None),
        ({"budget": "20m", "trials": 7}, 7),
        ({"timeout": "8h"}, 50),
    ],
)
def test_fifty_trials_end_a_search_unless_something_else_does(
    settings: dict[str, Any], trials: int | None
) -> None:
    """Device time alone sets no number of trials; what was resolved stays when it is stored."""
    config = load_config(settings_of(**settings))
    assert config.budget.trials == trials
    assert load_config(stored=config.model_dump(mode="json")) == config


def test_repeats_need_a_number_of_trials_to_come_after() -> None:
    """They begin once all trials have ended, which device time alone does not say; a grid's do."""
    text = refused(settings_of(budget="20m", repeats=3))
    assert "give --trials as well, or --repeats 0" in text
    load_config(settings_of(budget="20m", repeats=3, trials=9))
    load_config(settings_of(budget="20m", repeats=3, strategy="grid", grid="g.toml"))


@pytest.mark.parametrize(
    "settings", [{"strategy": "grid"}, {"grid": "g.toml"}, {"grid": "g.toml", "strategy": "asha"}]
)
def test_a_grid_and_its_strategy_come_together(settings: dict[str, Any]) -> None:
    """Neither a grid without a file nor a file for another strategy; the flags are named."""
    text = refused(settings)
    assert "--strategy grid needs a file of schedules" in text
    assert "--strategy grid FILE" in text


def test_settings_that_do_not_go_together_are_found_in_their_file(tmp_path: Path) -> None:
    """If no flag was given, the sentence begins with the file, as for a single wrong value."""
    assert refused(file=toml(tmp_path, 'strategy = "grid"')).startswith(
        str(tmp_path / "study.toml")
    )


def test_how_to_search_finds_its_sections() -> None:
    """Strategy, limits, slots and what is kept: as flags, above defaults that bound nothing."""
    default = load_config()
    assert (default.strategy, default.engine, default.devices) == ("forecast", "auto", "auto")
    assert (default.budget.timeout, default.budget.compute) == (None, None)
    assert default.halving.eta == 3
    assert (default.keep.trials, default.keep.max_disk, default.budget.max_retries) == (10, None, 2)
    config = load_config(
        settings_of(
            strategy="grid",
            grid=Path("g.toml"),
            engine="processes",
            devices="0,1",
            workers_per_device=2,
            timeout="8h",
            budget="2h",
            max_retries=0,
            eta=4,
            keep=3,
            max_disk="20GB",
        )
    )
    assert (config.strategy, config.grid, config.engine) == ("grid", "g.toml", "processes")
    assert (config.devices, config.workers_per_device) == ("0,1", 2)
    assert (config.budget.timeout, config.budget.compute) == (28_800.0, 7200.0)
    assert (config.budget.max_retries, config.halving.eta) == (0, 4)
    assert (config.keep.trials, config.keep.max_disk) == (3, 20 * 10**9)


def test_stored_settings_lie_under_flags() -> None:
    """What a study was searched with is not changed by reading it, and gives way to flags."""
    stored = load_config(settings_of(trials=7, timeout="8h", max_disk="1GB")).model_dump(
        mode="json"
    )
    again = load_config(settings_of(trials=9), stored=stored)
    assert (again.budget.trials, again.budget.timeout, again.keep.max_disk) == (9, 28_800, 10**9)
    assert stored["budget"]["trials"] == 7


def test_a_value_where_a_section_belongs_is_refused_under_flags_too(tmp_path: Path) -> None:
    """A flag of a section that the file spoilt does not hide the mistake, or stumble over it."""
    file = toml(tmp_path, "budget = 3")
    assert "budget must be a table" in refused(settings_of(trials=5), file)


@pytest.mark.parametrize(
    ("space", "words"),
    [
        ({"image_size": []}, "space.image_size"),
        ({"n_stages": []}, "space.n_stages"),
        ({"n_stages": [13]}, "space.n_stages.0"),
        ({"n_stages": [0]}, "space.n_stages.0"),
        ({"backbone": []}, "space.backbone"),
        ({"lrs": []}, "space.lrs"),
        ({"batch_size": None}, "space.batch_size must list at least 1 value, got none"),
        ({"image_size": [4]}, "image_size must be at least 8 pixels, got 4"),
        ({"image_size": [64, 5000]}, "image_size must be at most 4096 pixels, got 5000"),
        ({"batch_size": [1]}, "batch_size must be at least 2 photos, got 1"),
        ({"lrs": [[0.1, 0.2]]}, "lrs must be one number or 3"),
        ({"lrs": [0.1, float("nan")]}, "lrs must be from 0 to 100, got nan"),
        ({"crop": ["round"]}, "crop must be one of random, center, no, googlenet, got 'round'"),
        ({"start_from": ["first"]}, "start_from must be 'last' or 'best', got 'first'"),
        ({"dropout": [1.0]}, "dropout must be from 0 to 0.99, got 1"),
        ({"dropout": [[0.1, 0.2, 0.3]]}, "dropout must list at most 2 rates"),
        ({"dropout": [[0.1, 0.2]], "hidden": [[64], []]}, "dropout must list at most 1 rates"),
        ({"hidden": [[0]]}, "hidden must be at least 1 unit, got 0"),
        ({"hidden": [[64], [64, 70_000]]}, "hidden must be at most 65536 units, got 70000"),
        ({"backbone": ["net", "a/b"]}, "backbone must be the name of a timm model, got 'a/b'"),
        ({"backbone": [""]}, "backbone must be the name of a timm model, got ''"),
        ({"stages": [{}, {"image_size": [4]}], "n_stages": [2]}, "image_size must be at least 8"),
        ({"n_cycles": [1, 100], "cycle_mult": [1, 10]}, "at most 100000 epochs"),
        ({"stages": [{"cycle_len": [1, 9999]}], "n_cycles": [1, 100]}, "at most 100000 epochs"),
    ],
)
def test_a_space_with_a_choice_that_cannot_be_is_refused(space: dict[str, Any], words: str) -> None:
    """Each choice, and the longest stage of all, is tried before anything is trained."""
    assert words in refused({"space": {**SPACE, **space}})


def test_a_space_may_hold_all_its_sizes_in_its_stages() -> None:
    """What every stage lists for itself need not be listed for all."""
    space = Space(stages=(StageChoices(image_size=(32,), batch_size=(8,)),), n_stages=(1,))
    assert space.of_stage(0) == {"image_size": (32,), "batch_size": (8,)}


def test_files_that_cannot_be_read_are_told(tmp_path: Path) -> None:
    """A missing file, a folder, broken TOML and bytes that are no text."""
    assert "there is no config file" in refused(file=tmp_path / "none.toml")
    assert "not a readable TOML file" in refused(file=tmp_path)
    assert "(at line 2" in refused(file=toml(tmp_path, 'study = "a"\nmetric = =\n'))
    (tmp_path / "study.toml").write_bytes(b'study = "\xff"')
    assert "not a readable TOML file" in refused(file=tmp_path / "study.toml")


@pytest.mark.parametrize(
    "name", ["../x", "", "a/b", ".hidden", ".cache", "-x", "ünï", "a b", "a\n", "x" * 101]
)
def test_hostile_study_names_are_refused(name: str) -> None:
    """A study's name is a folder's name too: nothing that leads elsewhere or breaks a line."""
    assert refused({"study": name}).startswith("--study must be at most 100 letters")


@pytest.mark.parametrize(
    ("source", "name"),
    [
        (None, "digits"),
        ("/photos/planes", "planes"),
        ("/photos/planes/", "planes"),
        ("lists/My planes (2).csv", "My-planes--2"),
        ("/photos/_old", "old"),
        ("/photos/.cache", "cache"),
        ("/photos/...", "study"),
        ("/фото", "study"),
        ("/", "study"),
        ("/" + "x" * 200, "x" * 100),
    ],
)
def test_a_study_without_a_name_is_named_after_its_data(source: str | None, name: str) -> None:
    """The name is made of the last part of the path, and is one that `--study` takes."""
    made = load_config(settings_of(data=source)).study_name
    assert made == name
    assert load_config({"study": made}).study_name == made


def test_the_space_is_the_users_own_or_fits_the_data() -> None:
    """Digits, photos and the user's own space; `backbone` puts one network into each."""
    assert load_config().resolved_space == DIGITS_SPACE
    assert load_config(settings_of(data="photos")).resolved_space == space_for(TYPICAL)
    mine = load_config(settings_of(data="photos", trainer="mine:Trainer"))
    assert mine.resolved_space == PHOTO_SPACE
    own = load_config({"space": SPACE})
    assert own.resolved_space.image_size == (64,)
    for settings in ({}, {"space": SPACE}, {"data": {"source": "photos"}}):
        before = load_config(settings).resolved_space
        after = load_config({**settings, "backbone": "resnet18"}).resolved_space
        assert after.backbone == ("resnet18",)
        levels = before.levels and (0,)  # those of the recipe are of the packaged backbones
        assert after == before.model_copy(update={"backbone": ("resnet18",), "levels": levels})


def test_config_comes_back_from_json() -> None:
    """What the database keeps of a config makes the same config again."""
    rates = {
        "lrs": [0.001, [1e-5, 1e-4, 1e-3]],
        "dropout": [0.1, [0.25, 0.5]],
        "hidden": [[], [64]],
    }
    space = {**SPACE, **rates, "dropout": [0.1, [0.25]], "stages": [{}, {"crop": ["no"]}]}
    for config in (
        StudyConfig(),
        load_config({"study": "a", "preset": "article", "metric": "log_loss", "space": space}),
        load_config(settings_of(precision="fp16", cache_limit="1.5TB", compile=True)),
        load_config(settings_of(strategy="asha", timeout="8h", max_disk="1.5TB", devices="cpu:2")),
    ):
        assert StudyConfig(**config.model_dump(mode="json")) == config
