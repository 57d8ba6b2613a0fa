"""The configuration of a run: the schema, and how files and words become one checked `Config`."""

from jaxforget.config.effects import result_options, stages_of, told_options, value_of, with_default_layout
from jaxforget.config.load import config_from, load_config, run_folder, to_yaml
from jaxforget.config.option import TRAINING
from jaxforget.config.places import check_places, naming_options
from jaxforget.config.schema import Config, options
from jaxforget.config.training import ForgetOptions, TrainOptions

__all__ = [
    "TRAINING",
    "Config",
    "ForgetOptions",
    "TrainOptions",
    "check_places",
    "config_from",
    "load_config",
    "naming_options",
    "options",
    "result_options",
    "run_folder",
    "stages_of",
    "to_yaml",
    "told_options",
    "value_of",
    "with_default_layout",
]
