"""Servers as processes: started, waited for, and ended in every case."""

import ctypes
import os
import pathlib
import signal
import socket
import subprocess
import time
import urllib.error
import urllib.request

from . import Failure, load
from .machine import children, seconds_of

READY_WITHIN_S = 300
LEAVES_WITHIN_S = 20
LIBC = ctypes.CDLL(None)
PR_SET_PDEATHSIG = 1


class Server:
    """A server that listens at a free port of this machine. Leaving its context ends it."""

    def __init__(self, name, command, folder):
        self.name, self.command = name, [str(word) for word in command]
        self.log = pathlib.Path(folder) / f"{name.replace(' ', '_')}.log"
        self.process = self.url = None

    def __enter__(self):
        port = free_port()
        self.url = f"http://127.0.0.1:{port}"
        with self.log.open("wb") as log:
            try:
                self.process = subprocess.Popen(
                    [*self.command, str(port)], stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                    # Ctrl-C is for this script, which then ends its servers; if it is killed, they are told.
                    start_new_session=True, preexec_fn=die_with_parent,
                )  # fmt: skip
            except OSError as error:
                raise Failure(f"{self.name} can't be started: {error}") from None
        try:
            self.await_ready()
        except BaseException:
            self.end()
            raise
        return self

    def __exit__(self, *_):
        self.end()

    def await_ready(self):
        """Returns once it can be asked."""
        deadline = time.monotonic() + READY_WITHIN_S
        while time.monotonic() < deadline:
            if self.process.poll() is not None:
                raise Failure(f"{self.name} ended with {self.process.returncode}: {self.last_words()}")
            try:
                with urllib.request.urlopen(f"{self.url}/health", timeout=5) as answer:
                    if answer.status == 200:
                        return
            except (urllib.error.URLError, OSError):
                pass
            time.sleep(0.1)
        raise Failure(f"{self.name} was not ready within {READY_WITHIN_S} s")

    def last_words(self):
        """The last line of its log that says something."""
        lines = [line for line in self.log.read_text(errors="replace").splitlines() if line.strip()]
        return lines[-1] if lines else "it said nothing"

    def prefill_speed(self, length, rng):
        """Tokens per second of a prompt of so many until the first token arrives."""
        return load.speed.prefill_speed(self.url, length, rng)

    def decode_speed(self, output, rng, depth):
        """Tokens per second of so many after a prompt of `depth`."""
        return load.speed.decode_speed(self.url, output, rng, depth)

    def many(self, clients, prompt, output, seed):
        """What a burst of clients sees, by name."""
        return load.many(self.url, clients, prompt, output, seed)

    def cpu_seconds(self):
        """Processor time that it and its workers have taken."""
        return sum(seconds_of(pid) for pid in [self.process.pid, *children(self.process.pid)])

    def end(self):
        """Asks it to leave, and kills what is left of it."""
        if self.process is None:
            return
        own = children(self.process.pid)
        self.process.terminate()
        try:
            self.process.wait(LEAVES_WITHIN_S)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        for pid in own:
            # A worker leaves with its server; one that does not is still in a session that was made for it.
            if session_of(pid) == self.process.pid:
                os.kill(pid, signal.SIGKILL)
        self.process = None


def session_of(pid):
    """The session of a process; none where it is gone."""
    try:
        return os.getsid(pid)
    except ProcessLookupError:
        return None


def die_with_parent():
    """In the new process: it is told to leave when this script dies."""
    LIBC.prctl(PR_SET_PDEATHSIG, signal.SIGTERM)


def free_port():
    """A port that nobody has at the moment."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]
