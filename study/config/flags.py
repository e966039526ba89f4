"""How a setting is given on the command line: the part of its field beside type and default."""

from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, get_args

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from trainers.metrics import Criterion


class Group(StrEnum):
    """The groups of `--help`, in their order."""

    CHOICE = "Choice"
    DATA = "Data"
    BUDGET = "Budget"
    SEARCH = "Search"
    TRAINING = "Training"
    DEVICES = "Devices"
    STORAGE = "Storage"
    OUTPUT = "Output"


@dataclass(frozen=True)
class Flag:
    """What `--help` shows of a setting; it is an annotation of the setting's field.

    `name` is the flag's, if not the field's, `metavar` stands for its value, `default` says what
    None means, and `aliases` are names that other tools use.
    """

    group: Group
    help: str
    name: str = ""
    metavar: str = ""
    default: str = ""
    aliases: tuple[str, ...] = ()


@dataclass(frozen=True)
class Setting:
    """A setting that has a flag: `name` as Python writes it, and the `path` to its field."""

    name: str
    path: tuple[str, ...]
    flag: Flag
    field: FieldInfo

    @property
    def option(self) -> str:
        """The flag as it is typed."""
        return f"--{self.name.replace('_', '-')}"

    @property
    def is_switch(self) -> bool:
        """Whether the flag takes no value."""
        return self.field.annotation is bool

    @property
    def choices(self) -> tuple[str, ...]:
        """The values that can be given, where they can be listed."""
        kinds = (self.field.annotation, *get_args(self.field.annotation))
        named = [k for k in kinds if isinstance(k, type) and issubclass(k, StrEnum | Criterion)]
        return tuple(each.value for kind in named for each in kind)


def settings_in(model: type[BaseModel], path: tuple[str, ...] = ()) -> Iterator[Setting]:
    """Yield all settings of a model and its sections that have a flag."""
    for name, field in model.model_fields.items():
        here = (*path, name)
        for flag in field.metadata:
            if isinstance(flag, Flag):
                yield Setting(flag.name or name, here, flag, field)
        section: Any = field.annotation
        if isinstance(section, type) and issubclass(section, BaseModel):
            yield from settings_in(section, here)
