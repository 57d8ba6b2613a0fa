"""Processes that are forked from one that has imported the packages, as importing them takes seconds of each.

A forked process has pipes, environment, signals and an exit status as any other. The packages start no thread when they
are imported, so that forking is safe; JAX starts its threads where it is first used. Variables that are read at the
import of a package, as most that begin with JAX_, are those of the server.
"""

import faulthandler
import gc
import json
import os
import select
import signal
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

ROOT = Path(__file__).parents[2]


class Forked:
    """A forked process, to be used as one of `subprocess`."""

    def __init__(self, stdout: int, stderr: int, status: int):
        self.stdout, self.stderr = (os.fdopen(pipe, encoding="utf-8") for pipe in (stdout, stderr))
        self._status = os.fdopen(status)
        self._code: int | None = None
        self.pid = int(self._status.readline())

    def wait(self, timeout: float | None = None) -> int:
        """Its exit status, when it has ended; negative for a signal.

        Raises:
          subprocess.TimeoutExpired: it runs after `timeout` seconds.
        """
        if self._code is None:
            if not select.select([self._status], [], [], timeout)[0]:
                raise subprocess.TimeoutExpired(f"process {self.pid}", timeout)
            self._code = int(self._status.readline())
        return self._code

    def poll(self) -> int | None:
        """Its exit status; None while it runs."""
        try:
            return self.wait(0)
        except subprocess.TimeoutExpired:
            return None

    def send_signal(self, number: int) -> None:
        """Send a signal to it, unless it has ended."""
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        """End it."""
        self.send_signal(signal.SIGKILL)


class Server:
    """The process that forks; it ends with the one that started it."""

    def __init__(self, environment: Mapping[str, str]):
        self._requests, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        # Libraries of linear algebra would start threads.
        env = {**environment, "OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}
        with theirs:
            command = [sys.executable, "-m", "tests.end_to_end.forked", str(theirs.fileno())]
            # Kept, because Python warns of a process that runs when its object is gone.
            self._process = subprocess.Popen(
                command, cwd=ROOT, env=env, pass_fds=[theirs.fileno()], stdin=subprocess.DEVNULL
            )

    def fork(self, words: Sequence[str], environment: Mapping[str, str], code: str) -> Forked:
        """Start `jaxforget WORDS` in a process that runs `code` before."""
        pipes = [os.pipe() for _ in range(3)]
        request = json.dumps({"words": words, "environment": dict(environment), "code": code})
        socket.send_fds(self._requests, [request.encode()], [end for _, end in pipes])
        for _, end in pipes:
            os.close(end)
        return Forked(*(end for end, _ in pipes))


def serve(requests: socket.socket) -> tuple[list[str], str]:
    """Fork a process for each request, and return in that process alone: its words and its code."""
    while True:
        message, pipes, *_ = socket.recv_fds(requests, 1 << 20, 3)
        if not message:
            sys.exit()
        if os.fork() == 0:
            break
        for pipe in pipes:
            os.close(pipe)
    requests.close()
    stdout, stderr, status = pipes
    if child := os.fork():
        # This process alone may wait for the command, whose parent it is.
        os.close(stdout)
        os.close(stderr)
        os.write(status, f"{child}\n".encode())
        os.write(status, f"{os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])}\n".encode())
        os._exit(0)
    os.close(status)
    for pipe, number in ((stdout, 1), (stderr, 2)):
        os.dup2(pipe, number)
        os.close(pipe)
    request = json.loads(message)
    os.environ.clear()
    os.environ.update(request["environment"])
    return request["words"], request["code"]


def main() -> None:
    """Import the packages, serve, and run the command in the processes that are forked."""
    import tensorboardX  # noqa: F401
    import transformers

    import jaxforget.pipeline  # noqa: F401
    from jaxforget.cli import main as run

    _ = transformers.AutoTokenizer
    threads = os.listdir("/proc/self/task")
    assert len(threads) == 1, f"a package started threads when it was imported, which no fork has: {threads}"
    gc.freeze()
    sys.argv[1:], code = serve(socket.socket(fileno=int(sys.argv[1])))
    # Ctrl-C as from a terminal, whatever started the tests (a shell has its background jobs ignore it), and the stacks
    # of all threads where a process does not end.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    faulthandler.register(signal.SIGUSR1, all_threads=True)
    exec(code, {})
    sys.exit(run())


if __name__ == "__main__":
    main()
