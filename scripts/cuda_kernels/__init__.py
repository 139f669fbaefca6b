"""What `scripts/cuda-kernels` is made of: `sources` says what is compiled, `compiler` compiles it, `figures` reads the
results, `table` holds them against the committed ones, `summary` tells people, `modules` writes what servers load."""

import pathlib

REPOSITORY = pathlib.Path(__file__).resolve().parent.parent.parent
TOOLKIT = REPOSITORY / "target/cuda-toolkit"


class Failure(Exception):
    """What a person has to know; printed without a trace."""


def say(text):
    print(f"cuda-kernels: {text}", flush=True)
