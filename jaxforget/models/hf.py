"""Hugging Face folders in and out: the front door to the modules that do it."""

from jaxforget.models.adapters import AdapterFile, is_adapter, load_adapter, read_adapter, save_adapter, save_merged
from jaxforget.models.export import config_to_hf, save_params
from jaxforget.models.folders import read_config, resolve_folder
from jaxforget.models.load import float_dtype, load_params
from jaxforget.models.tokenizer import check_tokenizer, load_tokenizer

__all__ = [
    "AdapterFile",
    "check_tokenizer",
    "config_to_hf",
    "float_dtype",
    "is_adapter",
    "load_adapter",
    "load_params",
    "load_tokenizer",
    "read_adapter",
    "read_config",
    "resolve_folder",
    "save_adapter",
    "save_merged",
    "save_params",
]
