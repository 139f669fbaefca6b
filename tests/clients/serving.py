"""The real binary, served for as long as a block of a test."""

import contextlib
import pathlib
import re
import subprocess
import sys
import tempfile


@contextlib.contextmanager
def server(binary, *flags):
    """Runs the server on a free port until the block ends, however it ends; gives its base URL. What it said is shown
    where the block failed."""
    with tempfile.TemporaryDirectory() as log_dir:
        said = pathlib.Path(log_dir, "stderr")
        try:
            with said.open("w") as stderr, serving(binary, stderr, "--log-dir", log_dir, *flags) as url:
                yield url
        except BaseException:
            print("the server said:", *said.read_text().splitlines()[-40:], sep="\n  ", file=sys.stderr)
            raise


@contextlib.contextmanager
def serving(binary, stderr, *flags):
    """The process behind `server`."""
    command = [binary, "serve", "--host", "127.0.0.1", "--port", "0", *flags]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=stderr, text=True)
    try:
        line = process.stdout.readline()
        ready = re.match(r"Shardwire is ready: (http://\S+)", line)
        assert ready, f"no ready line, but: {line!r}"
        yield ready.group(1)
    finally:
        process.terminate()
        try:
            code = process.wait(timeout=60)
        except subprocess.TimeoutExpired:
            process.kill()
            raise
    assert code == 0, f"the server ended with {code}"
