"""What `scripts/bench_peers` is made of: a peer's build, servers, loads, the machine, a table."""

import pathlib

REPOSITORY = pathlib.Path(__file__).resolve().parents[2]


class Failure(Exception):
    """What can't be done, in one line for people."""
