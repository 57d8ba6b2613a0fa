"""Arrays that are gathered on every process; several processes are in tests/train and tests/models."""

import jax
import numpy as np

from jaxforget.processes import fetch
from jaxforget.sharding import make_mesh, put_rows


def test_rows_go_out_and_come_back():
    mesh = make_mesh(data=2, fsdp=2, tensor=2)
    batch = {"tokens": np.arange(24, dtype=np.int32).reshape(8, 3), "retain": np.ones(8, np.float32)}
    placed = put_rows(batch, mesh)
    assert placed["tokens"].sharding.shard_shape((8, 3)) == (2, 3)
    for name, value in batch.items():
        np.testing.assert_array_equal(fetch(placed[name]), value)
    assert isinstance(fetch(jax.numpy.ones(3)), np.ndarray)
