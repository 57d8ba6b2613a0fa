"""The key of an endpoint reaches the endpoint, and no file, message or traceback of a whole run."""

import pytest

from jaxforget.cli import main
from tests.fake_endpoint import serve
from tests.stages.test_anchors import SAID
from tests.tiny_run import settings, write_config

__all__ = ["serve"]
CANARY = "sk-canary-0f1e2d3c4b5a"


@pytest.fixture
def config(serve, tiny_world, tiny_run, tmp_path, monkeypatch):
    """A run whose anchors come from an endpoint, with the key in the environment; also the endpoint."""
    monkeypatch.setenv("OPENAI_API_KEY", CANARY)
    fake = serve(lambda *_: SAID)
    values = settings(
        tiny_world,
        tmp_path / "run",
        anchors={"path": None, "extractor": "endpoint"},
        endpoint={"base_url": fake.url, "model": "m", "max_calls": 20},
        model={"reinforced": str(tiny_run / "reinforced")},
        forget={"max_steps": 1},
    )
    return write_config(tmp_path / "c.yaml", values), fake


def test_a_whole_run_leaves_the_key_nowhere(config, tmp_path, capfd):
    path, fake = config
    assert main(["run", str(path)]) == 0
    assert CANARY in fake.headers[0]["authorization"]
    told = capfd.readouterr()
    assert CANARY not in told.out + told.err
    files = [file for file in (tmp_path / "run").rglob("*") if file.is_file()]
    assert len(files) > 20
    assert not [file for file in files if CANARY.encode() in file.read_bytes()]


def test_a_refused_key_is_not_told(config, capfd):
    path, fake = config
    fake.reply = lambda *_: 401
    assert main(["run", str(path)]) == 2
    told = capfd.readouterr()
    assert "key is refused" in told.err
    assert CANARY not in told.out + told.err
