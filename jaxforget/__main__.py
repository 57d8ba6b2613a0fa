"""Run the command line: `python -m jaxforget`, and the entry point `jaxforget`."""

import sys

from jaxforget.interrupts import Ending


def main() -> int:
    """Run the command of this process; return its exit status."""
    ending = Ending()
    ending.install()  # before the imports, which take seconds
    from jaxforget.cli.main import main as run

    return run(ending=ending)


if __name__ == "__main__":
    sys.exit(main())
