"""The command line: one file per command, which parses words and calls the library; `main` reports errors."""

from jaxforget.cli.main import main

__all__ = ["main"]
