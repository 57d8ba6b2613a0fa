"""Run the command line: `python -m jaxforget`."""

import sys

from jaxforget.cli import main

sys.exit(main())
