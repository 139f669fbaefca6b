"""Loads: what one client, and many at once, get out of a server."""

import concurrent.futures
import importlib.machinery
import importlib.util
import math
import random
import time

from . import REPOSITORY


def load_speed():
    """scripts/speed, which speaks to servers, as a module."""
    loader = importlib.machinery.SourceFileLoader("speed", str(REPOSITORY / "scripts/speed"))
    module = importlib.util.module_from_spec(importlib.util.spec_from_loader("speed", loader))
    loader.exec_module(module)
    return module


speed = load_speed()


def percentile(values, share):
    """The smallest value that `share` of them do not exceed."""
    ordered = sorted(values)
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)]


def many(url, clients, prompt, output, seed):
    """A burst of as many requests as clients; tokens per second of all together, and milliseconds as each client sees them."""
    rng = random.Random(seed)
    prompts = [[rng.randrange(1000, 20000) for _ in range(prompt)] for _ in range(clients)]
    begun = time.perf_counter()
    threads = concurrent.futures.ThreadPoolExecutor(clients)
    try:
        streams = list(threads.map(lambda ids: speed.tokens_arriving(url, ids, output), prompts))
    finally:
        # Whoever ends this early ends the servers next, and with them the streams that these wait for.
        threads.shutdown(wait=False, cancel_futures=True)
    wall = time.perf_counter() - begun
    # Servers may tell the end in an event of its own.
    streams = [moments[: output + 1] for moments in streams]
    first = [1e3 * (moments[1] - moments[0]) for moments in streams]
    between = [1e3 * (late - early) for moments in streams for early, late in zip(moments[1:], moments[2:])]
    return {
        "output, tok/s": clients * output / wall,
        "TTFT p50, ms": percentile(first, 0.5),
        "TTFT p99, ms": percentile(first, 0.99),
        "ITL p50, ms": percentile(between, 0.5),
        "ITL p99, ms": percentile(between, 0.99),
    }
