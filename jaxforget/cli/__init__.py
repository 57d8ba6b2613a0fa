"""The command line: a file a command; each parses, calls, and leaves faults to `main`."""

from jaxforget.cli.main import main

__all__ = ["main"]
