"""Suites of evaluations: what `jaxforget eval CONFIG suite=NAME` and `jaxforget.evaluate` measure."""
