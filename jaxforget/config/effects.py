"""The options that matter to a stage, and their values."""

import dataclasses
from collections.abc import Collection
from typing import Any

from jaxforget.config.option import LAYOUT, RESULT
from jaxforget.config.schema import Config, options


def stages_of(name: str, field: dataclasses.Field) -> tuple[str, ...]:
    """Return the stages that the option `name` matters to; the section's own name if the option lists none."""
    return field.metadata["stages"] or (name.partition(".")[0],)


def value_of(config: Config, name: str) -> Any:
    """Return the value of an option, for example of "forget.batch"."""
    section, _, key = name.rpartition(".")
    return getattr(getattr(config, section) if section else config, key)


def result_options(config: Config, stage: str, unused: Collection[str] = ()) -> dict[str, str]:
    """Return the options that change what `stage` computes, as name -> repr of the value.

    Args:
      unused: options, or whole sections, that change nothing under this configuration.
    """
    return {
        name: repr(value_of(config, name))
        for name, field in options()
        if field.metadata["affects"] == RESULT
        and stage in stages_of(name, field)
        and not {name, name.partition(".")[0]} & set(unused)
    }


def with_default_layout(config: Config) -> Config:
    """Return `config` with every layout option at its default, which describes the same result."""
    sections: dict[str, dict[str, Any]] = {}
    for name, field in options():
        if field.metadata["affects"] == LAYOUT:
            section, _, key = name.rpartition(".")
            sections.setdefault(section, {})[key] = field.default
    return dataclasses.replace(
        config,
        **sections.pop("", {}),
        **{section: dataclasses.replace(getattr(config, section), **values) for section, values in sections.items()},
    )


def told_options(config: Config) -> dict[str, str]:
    """Return every option that is no layout option, as name -> repr of the value."""
    return {name: repr(value_of(config, name)) for name, field in options() if field.metadata["affects"] != LAYOUT}
