"""Settings before the first computation; settings of a whole process are tested in separate processes."""

import http.server
import json
import os
import re
import socket
import subprocess
import sys
import threading
import time
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import jax
import pytest

from jaxforget import start
from jaxforget.errors import UserError
from jaxforget.start import (
    _has_gpu,
    _has_tpu,
    allow_whole_gpu,
    count_hosts,
    join_processes,
    remove_broken_cache_entries,
    start_jax,
)

ROOT = Path(__file__).parents[1]
ENDPOINTS, ENVIRONMENT = "worker-network-endpoints", "tpu-env"
OLD = "worker-0:12:10.0.0.2,worker-1:13:10.0.0.3"
TWO_SLICES = "ACCELERATOR_TYPE: 'v5litepod-16'\nMEGASCALE_NUM_SLICES: '2'\nWORKER_ID: '0'\n"


def environment(**values: str) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("JAX_", "TPU_", "XLA_"))}
    return kept | values


def python(code: str, **values: str) -> subprocess.CompletedProcess:
    words = [sys.executable, "-c", code]
    return subprocess.run(words, capture_output=True, text=True, cwd=ROOT, env=environment(**values), timeout=120)


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


@pytest.fixture
def metadata() -> Iterator[Callable[..., str]]:
    """Start a metadata server with the given attributes and return its address."""
    servers = []

    def serve(attributes: dict[str, str], broken: int = 0) -> str:
        faults = iter(range(broken))

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                found = attributes.get(self.path.removeprefix("/computeMetadata/v1/instance/attributes/"))
                if self.headers["Metadata-Flavor"] != "Google":
                    status = 403
                elif next(faults, None) is not None:
                    status = 503
                else:
                    status = 404 if found is None else 200
                self.send_response(status)
                self.end_headers()
                self.wfile.write((found or "").encode())

            def log_message(self, *_: object) -> None:
                pass

        server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        servers.append(server)
        return f"127.0.0.1:{server.server_port}"

    yield serve
    for server in servers:
        server.shutdown()
        server.server_close()


@pytest.fixture
def on_tpu(monkeypatch) -> None:
    """A machine with TPUs, without variables about other hosts, without a metadata server, and without waits."""
    for name in list(os.environ):
        if name.startswith(("TPU_", "MEGASCALE_", "JAX_COORD")):
            monkeypatch.delenv(name)
    monkeypatch.setattr(start, "_has_tpu", lambda devices: True)
    there = SimpleNamespace(util=SimpleNamespace(find_spec=lambda name: name))  # libtpu, installed here or not
    monkeypatch.setattr(start, "importlib", there)
    monkeypatch.setattr(start.time, "sleep", lambda seconds: None)
    monkeypatch.setenv("GCE_METADATA_IP", f"127.0.0.1:{free_port()}")
    monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{free_port()}")
    monkeypatch.delenv("no_proxy", raising=False)
    before = jax.config.jax_platforms
    jax.config.update(
        "jax_platforms", "tpu,cpu"
    )  # the setting on a TPU; the backend of this process is already initialised
    yield
    jax.config.update("jax_platforms", before)


@pytest.fixture
def joined(monkeypatch) -> list[tuple]:
    """Collect the arguments of `jax.distributed.initialize`."""
    calls: list[tuple] = []
    monkeypatch.setattr(jax.distributed, "initialize", lambda *given, **_: calls.append(given))
    return calls


def test_compilations_are_kept_and_libtpu_without_a_tpu_is_quiet(tmp_path):
    code = (
        "from jaxforget.start import start_jax\nstart_jax()\nstart_jax()\n"
        "import jax\nprint(jax.config.jax_compilation_cache_dir, jax.devices()[0].platform)"
    )
    done = python(code, XDG_CACHE_HOME=str(tmp_path))
    assert done.stdout.split()[0] == str(tmp_path / "jaxforget" / "xla")
    assert done.stderr == ""


def test_a_cache_that_the_user_chose_stays(tmp_path):
    code = (
        "import jax\njax.config.update('jax_compilation_cache_dir', '/elsewhere')\n"
        "from jaxforget.start import start_jax\nstart_jax()\nprint(jax.config.jax_compilation_cache_dir)"
    )
    assert python(code, JAX_PLATFORMS="cpu").stdout.split() == ["/elsewhere"]


def test_run_from_python_joins_hosts_and_says_when_it_is_too_late(tmp_path):
    code = (
        "import jax, jaxforget\njax.numpy.zeros(3) + 1\n"
        f"try: jaxforget.run({{'out': {str(tmp_path / 'run')!r}}})\n"
        "except jaxforget.errors.UserError as error: print(error)"
    )
    hosts = {"JAX_COORDINATOR_ADDRESS": "localhost:1", "JAX_NUM_PROCESSES": "2", "JAX_PROCESS_ID": "0"}
    done = python(code, JAX_PLATFORMS="cpu", **hosts)
    assert done.stdout.startswith("this process has used JAX before the hosts of the run were joined"), done.stderr


def test_device_files_of_a_tpu(tmp_path):
    (tmp_path / "vfio").mkdir()
    (tmp_path / "vfio" / "vfio").touch()  # this file exists without a TPU, too
    assert not _has_tpu(tmp_path)
    (tmp_path / "vfio" / "0").touch()
    assert _has_tpu(tmp_path)
    (tmp_path / "old").mkdir()
    (tmp_path / "old" / "accel0").touch()
    assert _has_tpu(tmp_path / "old")


@pytest.mark.parametrize(
    "set_", [{}, {"JAX_NUM_PROCESSES": "2"}, {"JAX_NUM_PROCESSES": "2", "JAX_PROCESS_ID": "first"}], ids=str
)
def test_half_a_description_of_processes(monkeypatch, set_):
    for name in ("JAX_NUM_PROCESSES", "JAX_PROCESS_ID"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("JAX_COORDINATOR_ADDRESS", "localhost:1")
    for name, value in set_.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(UserError, match="set JAX_NUM_PROCESSES and JAX_PROCESS_ID to whole numbers"):
        join_processes()


@pytest.mark.parametrize(
    ("variables", "hosts"),
    [
        ({"TPU_WORKER_HOSTNAMES": "localhost"}, 1),
        ({"TPU_WORKER_HOSTNAMES": "t0,t1"}, 2),
        ({"TPU_WORKER_HOSTNAMES": "t0,t1", "TPU_PROCESS_ADDRESSES": "t0:1,t0:2,t1:1,t1:2"}, 4),
        ({"TPU_WORKER_HOSTNAMES": "t0", "MEGASCALE_NUM_SLICES": "3"}, 3),
        ({"TPU_WORKER_HOSTNAMES": "t0,t1", "TPU_PROCESS_BOUNDS": "1,1,1"}, 1),
        ({"TPU_SKIP_MDS_QUERY": "1"}, 1),
    ],
    ids=str,
)
def test_hosts_that_the_environment_names(on_tpu, joined, monkeypatch, capsys, variables, hosts):
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert count_hosts() == hosts
    join_processes()
    assert joined == [()] * (hosts > 1)
    assert capsys.readouterr().err == (f"joining {hosts} hosts ...\n" if hosts > 1 else "")


@pytest.mark.parametrize(
    ("attributes", "hosts"),
    [
        ({}, 1),
        ({ENDPOINTS: "10.0.0.2"}, 1),
        ({ENDPOINTS: "10.0.0.2", ENVIRONMENT: "WORKER_ID: '0'\n"}, 1),
        ({ENDPOINTS: "t0,t1,t2,t3"}, 4),
        ({ENDPOINTS: OLD}, 2),
        ({ENDPOINTS: "t0,t1", ENVIRONMENT: TWO_SLICES}, 4),
        ({ENDPOINTS: "t0", ENVIRONMENT: TWO_SLICES}, 2),
    ],
    ids=str,
)
def test_hosts_that_the_metadata_server_names(on_tpu, joined, monkeypatch, capsys, metadata, attributes, hosts):
    monkeypatch.setenv("GCE_METADATA_IP", metadata(attributes))
    join_processes()
    assert joined == [()] * (hosts > 1)
    assert capsys.readouterr().err == (f"joining {hosts} hosts ...\n" if hosts > 1 else "")
    monkeypatch.setenv("TPU_SKIP_MDS_QUERY", "1")
    assert count_hosts() == 1


def test_a_server_that_stumbles_is_asked_again(on_tpu, monkeypatch, metadata):
    monkeypatch.setenv("GCE_METADATA_IP", metadata({ENDPOINTS: "t0,t1"}, broken=2))
    assert count_hosts() == 2


def test_without_a_server_or_a_tpu_there_is_one_host(on_tpu, joined, monkeypatch, metadata):
    join_processes()  # no process listens there
    monkeypatch.setenv("GCE_METADATA_IP", metadata({ENDPOINTS: "t0,t1"}))
    jax.config.update("jax_platforms", "cpu")
    join_processes()
    jax.config.update("jax_platforms", "tpu,cpu")
    monkeypatch.setattr(start, "_has_tpu", lambda devices: False)
    join_processes()
    assert joined == []
    monkeypatch.setattr(start, "_has_tpu", lambda devices: True)
    join_processes()
    assert joined == [()]


def test_a_server_that_does_not_answer_is_told_of_and_not_waited_for(on_tpu, joined, capsys):
    join_processes()
    assert not joined
    assert "no answer about worker-network-endpoints: no other hosts are joined" in capsys.readouterr().err


def test_alone_on_a_pod_the_processors_compute(on_tpu, joined, monkeypatch, capsys):
    monkeypatch.setenv("TPU_WORKER_HOSTNAMES", "t0,t1")
    start_jax(alone=True)
    assert jax.config.jax_platforms == "cpu"
    assert "one of 2 hosts alone" in capsys.readouterr().err
    jax.config.update("jax_platforms", "tpu,cpu")
    monkeypatch.setenv("TPU_WORKER_HOSTNAMES", "t0")
    start_jax(alone=True)
    assert jax.config.jax_platforms == "tpu,cpu"
    assert joined == []


def test_what_the_platform_refuses_is_told_in_a_line(on_tpu, monkeypatch):
    monkeypatch.setenv("TPU_WORKER_HOSTNAMES", "t0,t1")

    def refuse(**_: object) -> None:
        raise ValueError("coordinator_address should be defined.\nand more")

    monkeypatch.setattr(jax.distributed, "initialize", refuse)
    with pytest.raises(UserError, match=r"^joining 2 hosts: coordinator_address should be defined.; .*--worker=all"):
        join_processes()
    monkeypatch.setenv("MEGASCALE_NUM_SLICES", "few")
    with pytest.raises(UserError, match="MEGASCALE_NUM_SLICES=few"):
        join_processes()


def test_hosts_that_do_not_come_are_given_up():
    # The first process waits for the others. JAX alone would end it with a stack trace, or hang.
    code = (
        "from jaxforget.errors import UserError\nfrom jaxforget.start import join_processes\n"
        "try: join_processes(patience=1)\nexcept UserError as error: print(error)"
    )
    address = f"localhost:{free_port()}"
    hosts = {"JAX_COORDINATOR_ADDRESS": address, "JAX_NUM_PROCESSES": "2", "JAX_PROCESS_ID": "0"}
    done = python(code, JAX_PLATFORMS="cpu", **hosts)
    assert re.fullmatch(r"joining 2 processes: not all joined within 1 s; .*JAX_PROCESS_ID.*\n", done.stdout)
    assert (done.stderr, done.returncode) == ("joining 2 processes ...\n", 2)


def test_two_hosts_of_a_pod_find_each_other_by_their_metadata(metadata):
    # Everything but the TPU is real: JAX and this program are told that there is one and then compute on the CPU.
    code = (
        "import json, os, jax\nfrom jaxforget import start\n"
        "del os.environ['TPU_SKIP_MDS_QUERY']\nstart._has_tpu = lambda devices: True\n"
        "start.importlib.util.find_spec = lambda name: name\n"  # libtpu, installed here or not
        "start.start_jax()\n"
        "jax.config.update('jax_platforms', 'cpu')\n"
        "jax.config.update('jax_cpu_collectives_implementation', 'gloo')\n"
        "print(json.dumps([jax.process_index(), jax.process_count(), jax.device_count()]))\n"
    )
    common = {"JAX_FORCE_TPU_INIT": "1", "JAX_COORDINATOR_PORT": str(free_port())}
    started = []
    for index in range(2):
        said = {ENDPOINTS: "localhost,localhost", "agent-worker-number": str(index), ENVIRONMENT: "WORKER_ID: '0'\n"}
        variables = environment(**common, GCE_METADATA_IP=metadata(said))
        words = [sys.executable, "-c", code]
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        started.append(subprocess.Popen(words, env=variables, cwd=ROOT, **pipes))
    try:
        ended = [process.communicate(timeout=120) for process in started]
    finally:
        for process in started:
            process.kill()
    assert [json.loads(out) for out, _ in ended] == [[0, 2, 2], [1, 2, 2]], ended
    assert all("joining 2 hosts ..." in err for _, err in ended)


@pytest.mark.parametrize("name", ["nvidia0", "kfd", "dxg"])
def test_a_gpu_is_seen_by_its_device_files(name, tmp_path):
    assert not _has_gpu(tmp_path)
    (tmp_path / "nvidiactl-not").touch()
    assert not _has_gpu(tmp_path)
    (tmp_path / name).touch()
    assert _has_gpu(tmp_path)


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({}, {"XLA_CLIENT_MEM_FRACTION": "0.95"}),
        ({"XLA_CLIENT_MEM_FRACTION": ".5"}, {"XLA_CLIENT_MEM_FRACTION": ".5"}),
        ({"XLA_PYTHON_CLIENT_MEM_FRACTION": ".5"}, {"XLA_PYTHON_CLIENT_MEM_FRACTION": ".5"}),
        (
            {"XLA_PYTHON_CLIENT_PREALLOCATE": "false"},
            {"XLA_PYTHON_CLIENT_PREALLOCATE": "false", "XLA_CLIENT_MEM_FRACTION": "0.95"},
        ),
    ],
    ids=["nothing", "new-name", "old-name", "preallocation"],
)
def test_jax_may_take_the_whole_gpu_unless_the_user_said_otherwise(monkeypatch, given, expected):
    environ = dict(given)
    monkeypatch.setattr(start.os, "environ", environ)
    allow_whole_gpu()
    assert environ == expected


def test_a_share_under_both_names_is_refused(monkeypatch):
    names = ("XLA_CLIENT_MEM_FRACTION", "XLA_PYTHON_CLIENT_MEM_FRACTION")
    monkeypatch.setattr(start.os, "environ", dict.fromkeys(names, ".5"))
    with pytest.raises(UserError, match="are both set, which JAX refuses; unset XLA_PYTHON_CLIENT_MEM_FRACTION"):
        allow_whole_gpu()


def test_jax_reads_the_share_under_these_names():
    """JAX reads the variables as this program expects; a test without a GPU can check only that."""
    code = "from jaxlib import xla_client; print(xla_client.generate_pjrt_gpu_plugin_options()['memory_fraction'])"
    for name in start._GPU_SHARES:
        assert python(code, **{name: "0.95"}).stdout == "0.95\n"


def test_the_start_of_a_program_sets_the_share(tmp_path):
    code = "import os; from jaxforget.start import start_jax; start_jax(); print(os.environ['XLA_CLIENT_MEM_FRACTION'])"
    assert python(code, XDG_CACHE_HOME=str(tmp_path)).stdout == "0.95\n"


def test_a_half_written_entry_of_the_compilation_cache_is_removed(tmp_path):
    whole, cut, fresh, other = (tmp_path / name for name in ("a-cache", "b-cache", "c-cache", "notes.txt"))
    content = zlib.compress(bytes(range(256)) * 50)
    whole.write_bytes(content)
    for path in (cut, fresh, other):
        path.write_bytes(content[:-20])
    for path in (whole, cut, other):
        os.utime(path, (1e9, 1e9))
    assert remove_broken_cache_entries(str(tmp_path)) == [cut]
    # One of the last minute may still be written; later it is judged as well.
    assert all(path.exists() for path in (whole, fresh, other))
    assert remove_broken_cache_entries(str(tmp_path)) == []
    os.utime(fresh, (time.time() - 61, time.time() - 61))
    os.utime(tmp_path / ".checked", (1e9, 1e9))
    assert remove_broken_cache_entries(str(tmp_path)) == [fresh]
    assert remove_broken_cache_entries(str(tmp_path / "none")) == []


def test_an_entry_that_jax_writes_is_whole(tmp_path):
    code = (
        "import jax, sys\n"
        "jax.config.update('jax_platforms', 'cpu')\n"
        "from jaxforget.start import remove_broken_cache_entries\n"
        "jax.jit(lambda x: x * 2 + 1)(3.0)\n"
        "import os, pathlib\n"
        f"entries = list(pathlib.Path({str(tmp_path)!r}).glob('*-cache'))\n"
        "assert entries\n"
        "for entry in entries: os.utime(entry, (1e9, 1e9))\n"
        f"assert remove_broken_cache_entries({str(tmp_path)!r}) == []\n"
    )
    kept = {"JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0", "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "0"}
    done = python(code, JAX_COMPILATION_CACHE_DIR=str(tmp_path), **kept)
    assert done.returncode == 0, done.stderr
