"""Python runs this file at its start where this folder is in PYTHONPATH: importing PyTorch then fails.

Users need not have PyTorch, and importing it, as transformers and tensorboardX do where it is installed, takes seconds.
"""

import sys

sys.modules["torch"] = None
