"""The server against its own description: schemathesis makes requests out of /openapi.json, good ones and bad ones.

    python tests/clients/openapi_fuzz.py target/debug/shardwire

No request may be answered with a fault of the server, or with a status, a type, a header or a body that the description
does not have. A tiny model with a short context answers fast, so that thousands of requests take a minute or two.
"""

import json
import pathlib
import subprocess
import sys
import tempfile
import urllib.request

from serving import server

TINY_MODEL = pathlib.Path(__file__).parents[1] / "fixtures/golden/models/llama3_rope"
REQUESTS_MIN = 2000
SECONDS_MAX = 420
EXAMPLES_PER_OPERATION = 80
CHECKS = [
    "not_a_server_error",
    "status_code_conformance",
    "content_type_conformance",
    "response_headers_conformance",
    "response_schema_conformance",
]


def fuzz(url, report):
    """Runs schemathesis, which leaves notes where it runs; its exit code."""
    # One worker: threads of Python 3.11 disturb each other's syntax trees, which hypothesis reads (CPython issue 106905).
    command = [
        str(pathlib.Path(sys.executable).with_name("schemathesis")), "run", f"{url}/openapi.json",
        "--checks", ",".join(CHECKS), "--phases", "examples,coverage,fuzzing",
        "--max-examples", str(EXAMPLES_PER_OPERATION), "--seed", "20260101", "--workers", "1",
        "--request-timeout", "60", "--continue-on-failure", "--no-shrink", "--suppress-health-check", "all",
        "--warnings", "off", "--report", "json", "--report-json-path", str(report),
    ]  # fmt: skip
    return subprocess.run(command, timeout=SECONDS_MAX, check=False, cwd=report.parent).returncode


def serves(url):
    """Whether the server still says that it is well."""
    with urllib.request.urlopen(f"{url}/health", timeout=10) as answer:
        return answer.status == 200


def main():
    flags = ["--model", str(TINY_MODEL), "--max-model-len", "64", "--enable-logprob", "--max-concurrency", "64"]
    with tempfile.TemporaryDirectory() as folder, server(sys.argv[1], *flags) as url:
        path = pathlib.Path(folder, "report.json")
        code = fuzz(url, path)
        assert serves(url), "the server no longer serves"
        report = json.loads(path.read_text())
    count = report["test_cases"]["generated"]
    print(f"{count} requests of {report['operations']['tested']} operations, {len(report['failures'])} kinds of fault")
    if count < REQUESTS_MIN:
        sys.exit(f"at least {REQUESTS_MIN} requests are wanted: raise EXAMPLES_PER_OPERATION")
    sys.exit(code)


if __name__ == "__main__":
    main()
