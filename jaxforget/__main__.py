"""Run the command line: `python -m jaxforget`, and the entry point `jaxforget`."""

import gc
import sys

from jaxforget.interrupts import Ending

# Imports and JAX's tracing make millions of objects that stay. Looking for garbage among them after every 700, as
# Python does, took an eighth of the processor time of a short run.
GARBAGE_THRESHOLDS = (50_000, 20, 50)


def main() -> int:
    """Run the command of this process; return its exit status.

    This installs handlers of SIGINT and SIGTERM, and sets the thresholds of the garbage collector. A signal may end the
    process by `os._exit`, and then this does not return.
    """
    ending = Ending()
    ending.install()  # before the imports, which take seconds
    gc.set_threshold(*GARBAGE_THRESHOLDS)
    from jaxforget.cli.main import main as run

    return run(ending=ending)


if __name__ == "__main__":
    sys.exit(main())
