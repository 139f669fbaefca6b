"""The machine: what it is, and how busy others keep it while servers are measured."""

import contextlib
import os
import pathlib
import platform
import subprocess
import time

from . import REPOSITORY

TICKS = os.sysconf("SC_CLK_TCK")


def description():
    """Processor, cores and system, in a line."""
    text = pathlib.Path("/proc/cpuinfo").read_text()
    fields = dict(line.split(":", 1) for line in text.splitlines() if ":" in line)
    named = {name.strip(): value.strip() for name, value in fields.items()}
    features = [name for name in ("avx2", "fma", "avx_vnni", "avx512f", "avx512_vnni", "amx_int8") if name in named.get("flags", "").split()]
    usable = len(os.sched_getaffinity(0))
    return f"{named.get('model name', platform.machine())}, {usable} cores ({', '.join(features) or 'no vectors known'}), Linux {platform.release()}"


def commit():
    """What is checked out, and whether files differ from it."""
    def git(*words):
        return subprocess.run(["git", "-C", REPOSITORY, *words], capture_output=True, text=True, check=False).stdout.strip()

    name = git("rev-parse", "--short", "HEAD") or "unknown"
    return f"{name} with changes" if git("status", "--porcelain", "--untracked-files=no") else name


def children(pid):
    """All processes below one."""
    parents = {}
    for entry in pathlib.Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError, IndexError, ValueError):
                parents.setdefault(int(stat_of(entry.name)[1]), []).append(int(entry.name))
    found, ahead = [], [pid]
    while ahead:
        ahead += (below := parents.get(ahead.pop(), []))
        found += below
    return found


def seconds_of(pid):
    """Processor time of a process with all its threads; zero where it is gone."""
    with contextlib.suppress(OSError, IndexError):
        fields = stat_of(pid)
        return (int(fields[11]) + int(fields[12])) / TICKS
    return 0.0


def stat_of(pid):
    """The fields of /proc/PID/stat after the command, which may hold blanks."""
    return pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()


def busy_seconds():
    """Processor time that all processes have taken since the machine started, interrupts included."""
    user, nice, system, _idle, _waiting, irq, softirq, *_ = map(int, pathlib.Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:])
    return (user + nice + system + irq + softirq) / TICKS


class Others:
    """Processor time that others take while servers are measured, in cores."""

    def __init__(self, servers):
        self.servers, self.taken, self.wall = servers, 0.0, 0.0

    def own(self):
        """What the servers have taken, and this script."""
        return sum(server.cpu_seconds() for server in self.servers) + time.process_time()

    @contextlib.contextmanager
    def watching(self):
        """Counts while it lasts."""
        begun, busy, own = time.monotonic(), busy_seconds(), self.own()
        yield
        self.wall += time.monotonic() - begun
        self.taken += max(0.0, busy_seconds() - busy - (self.own() - own))

    def cores(self):
        """Taken on average."""
        return self.taken / self.wall if self.wall else 0.0
