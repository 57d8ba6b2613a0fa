"""Functions that all processes of a run call together: gather an array, check on the first one, wait for all."""

from collections.abc import Callable
from typing import TypeVar

import jax
import numpy as np
from jax.experimental import multihost_utils

from jaxforget.errors import UserError

T = TypeVar("T")


def fetch(array: jax.Array) -> np.ndarray:
    """Return a whole global array on every process; all processes must call this together."""
    if not array.is_fully_addressable:
        array = multihost_utils.process_allgather(array, tiled=True)
    return np.asarray(array)


def on_first_process(check: Callable[[], T]) -> T | None:
    """Call `check` on the first process only; the others return None.

    Raises:
      UserError: `check` raised it, on the first process; the others raise one that refers to its message.
    """
    value, fault = None, None
    if jax.process_index() == 0:
        try:
            value = check()
        except UserError as error:
            fault = error
    if jax.process_count() > 1:
        failed = bool(multihost_utils.broadcast_one_to_all(np.asarray(fault is not None)))
        if failed and fault is None:
            fault = UserError("the first process of the run has ended; see its message")
    if fault is not None:
        raise fault
    return value


def wait_for_all(name: str) -> None:
    """Wait until every process gets here, so that all see what the first one wrote."""
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices(name)
