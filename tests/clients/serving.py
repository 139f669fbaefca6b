"""The real binary, served for as long as a block of a test."""

import contextlib
import re
import subprocess
import tempfile


@contextlib.contextmanager
def server(binary, *flags):
    """Runs the server on a free port until the block ends, however it ends; gives its base URL."""
    with tempfile.TemporaryDirectory() as log_dir:
        command = [binary, "serve", "--host", "127.0.0.1", "--port", "0", "--log-dir", log_dir, *flags]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
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
