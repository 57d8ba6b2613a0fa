"""What a run is told: the schema, and how files and words become one checked `Config`."""

from jaxforget.config.load import config_from, load_config, to_yaml
from jaxforget.config.places import naming_options
from jaxforget.config.schema import Config, ForgetOptions, TrainOptions, options

__all__ = [
    "Config",
    "ForgetOptions",
    "TrainOptions",
    "config_from",
    "load_config",
    "naming_options",
    "options",
    "to_yaml",
]
