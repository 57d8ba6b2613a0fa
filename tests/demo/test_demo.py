"""The times of a demo: summed over its attempts, and the time that is left."""

from jaxforget.demo.demo import TYPICAL_SECONDS, _Times
from jaxforget.files import write_json


def test_time_left_is_the_typical_time_without_what_is_done(tmp_path):
    path = tmp_path / "seconds.json"
    assert _Times(path, complete=False).left() == TYPICAL_SECONDS
    write_json(path, {"world": 4.0, "base": 50.0})
    assert _Times(path, complete=False).left() == TYPICAL_SECONDS - 54
    assert _Times(path, complete=True).left() is None
    write_json(path, {"base": 999.0})  # on a slower machine nothing is known
    assert _Times(path, complete=False).left() is None
