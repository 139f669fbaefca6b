"""The files of deploy/ against the real binary: what they name must be there.

    python tests/clients/deploy_files.py target/debug/shardwire

Every metric and label of the dashboard and of the alerts is looked for in a live `/metrics`, every flag in the binary's
help, every path of a probe at the server; manifests are checked against Kubernetes' schemas, the unit by systemd itself
where that is installed.
"""

import json
import pathlib
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
import urllib.error
import urllib.request

import kubernetes_validate
import promql_parser
import yaml

from serving import server

ROOT = pathlib.Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
TINY_MODEL = ROOT / "tests/fixtures/golden/models/llama3_rope"
KUBERNETES = "1.34"

# What Prometheus adds to every series, and the series that it makes itself.
TARGET_LABELS = {"job", "instance"}
PROMETHEUS_SERIES = {"up": set()}
# Kinds that no schema of Kubernetes' own describes.
CUSTOM_KINDS = {"PodMonitor"}
# What Grafana fills in.
VARIABLES = {"$__rate_interval": "1m", "$__range": "1h"}


def gpu_series():
    """Metrics that only ranks on GPUs have, with their labels: no live server tells them here, so the source must."""
    source = (ROOT / "src/monitor/ranks.rs").read_text()
    units = re.findall(r'\("(shardwire:rank_gpu_\w+)", (?:None|Some\("(\w+)"\))', source)
    series = {"_".join(filter(None, pair)): {"rank"} for pair in units}
    assert '"shardwire:rank_gpu_throttled"' in source and len(series) == 7, series
    return series | {"shardwire:rank_gpu_throttled": {"rank", "reason"}}


def live_series(url):
    """Every series' name in /metrics with the values of its labels, after a few requests of every sort."""
    chat = {"messages": [{"role": "user", "content": "Hello!"}], "max_tokens": 4}
    for body, status in [(chat, 200), (chat | {"stream": True}, 200), (chat | {"n": 0}, 400)]:
        assert answer(url, "/v1/chat/completions", body)[0] == status
    series = {}
    for line in answer(url, "/metrics")[1].splitlines():
        if not line.startswith("#"):
            name, labels = re.match(r"([\w:]+)(?:\{(.*)\})? ", line).groups()
            known = series.setdefault(name, {})
            for label, value in re.findall(r'(\w+)="([^"]*)"', labels or ""):
                known.setdefault(label, set()).add(value)
    return series


def answer(url, path, body=None):
    """Status and text of a request."""
    headers = {"Content-Type": "application/json"}
    request = urllib.request.Request(url + path, data=body and json.dumps(body).encode(), headers=headers)
    try:
        with urllib.request.urlopen(request, timeout=60) as response:
            return response.status, response.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


class Series:
    """What a query may ask for."""

    def __init__(self, url):
        self.values = live_series(url)
        on_gpus = gpu_series()
        assert not on_gpus.keys() & self.values.keys(), "metrics of GPUs without a GPU"
        self.labels = {name: set(labels) for name, labels in self.values.items()} | on_gpus | PROMETHEUS_SERIES

    def check(self, query, where, legend=""):
        """Names, labels and the values that labels are compared with."""
        text = query
        for variable, value in VARIABLES.items():
            text = text.replace(variable, value)
        used, seen = set(), set()

        def visit(node):
            if isinstance(node, promql_parser.VectorSelector):
                assert node.name in self.labels, f"{where}: no metric {node.name}: {query}"
                known = self.labels[node.name] | TARGET_LABELS
                seen.update(known)
                for matcher in node.matchers.matchers:
                    assert matcher.name in known, f"{where}: {node.name} has no label {matcher.name}: {query}"
                    if self.is_unheard_of(node.name, matcher):
                        raise AssertionError(f"{where}: {node.name} never has {matcher.name}={matcher.value!r}")
            modifier = getattr(node, "modifier", None)
            used.update(getattr(modifier, "labels", None) or [])
            used.update(getattr(getattr(modifier, "matching", None), "labels", None) or [])

        promql_parser.walk(promql_parser.parse(text), visit)
        assert seen, f"{where}: asks for nothing: {query}"
        used.update(re.findall(r"\{\{\s*(?:\$labels\.)?(\w+)\s*\}\}", legend))
        assert used <= seen, f"{where}: no label {used - seen}: {query}"

    def is_unheard_of(self, name, matcher):
        """Statuses differ from hour to hour; all other labels of ours have values that are there from the start."""
        told = self.values.get(name, {}).get(matcher.name)
        is_equality = matcher.op == promql_parser.MatchOp.Equal
        return is_equality and told is not None and matcher.name != "status" and matcher.value not in told


def dashboard(series):
    """Every query of the Grafana dashboard."""
    board = json.loads((DEPLOY / "grafana/shardwire.json").read_text())
    queries = 0
    for panel in board["panels"]:
        for target in panel.get("targets", []):
            series.check(target["expr"], panel["title"], target["legendFormat"])
            queries += 1
    for note in board["annotations"]["list"]:
        series.check(note["expr"], note["name"], note["textFormat"])
    for variable in board["templating"]["list"]:
        for name, label in re.findall(r"label_values\((\S+), (\w+)\)", variable.get("definition", "")):
            assert name in series.labels and label in series.labels[name] | TARGET_LABELS, variable
    check_layout(board["panels"])
    return f"{queries} queries of {len(board['panels'])} panels"


def check_layout(panels):
    """No panel lies on another, or has another's id."""
    assert len({panel["id"] for panel in panels}) == len(panels)
    taken = set()
    for panel in panels:
        at = panel["gridPos"]
        cells = {(x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])}
        assert not cells & taken and at["x"] + at["w"] <= 24, panel["title"]
        taken |= cells


def alerts(series):
    """Every alert, and what its words name."""
    rules = [rule for group in read("prometheus/alerts.yml")[0]["groups"] for rule in group["rules"]]
    for rule in rules:
        said = " ".join(rule["annotations"].values())
        series.check(rule["expr"], rule["alert"], said)
        assert rule["labels"]["severity"] in ("warning", "critical"), rule
    names = [rule["alert"] for rule in rules]
    assert len(set(names)) == len(names), names
    [job] = read("prometheus/prometheus.yml")[0]["scrape_configs"]
    assert f'job="{job["job_name"]}"' in rules[0]["expr"], "the alert for a server that is gone names another job"
    return f"{len(names)} alerts"


def read(path):
    """The documents of a YAML file."""
    return list(yaml.safe_load_all((DEPLOY / path).read_text()))


class Help:
    """The flags that a subcommand knows."""

    def __init__(self, binary):
        self.binary = binary
        self.known = {}

    def check(self, words, where):
        """Flags of a command line such as `serve --port=8000`."""
        subcommand = words[0]
        if subcommand not in self.known:
            told = subprocess.run([self.binary, subcommand, "--help"], capture_output=True, text=True, check=True)
            self.known[subcommand] = set(re.findall(r"--[\w-]+", told.stdout))
        flags = {word.split("=")[0] for word in words[1:] if word.startswith("--")}
        assert flags <= self.known[subcommand], f"{where}: {flags - self.known[subcommand]}"


def seconds_of_draining(words):
    """What `--timeout-graceful-shutdown` is in a command line."""
    line = " ".join(words).replace("=", " ")
    return int(re.search(r"--timeout-graceful-shutdown (\d+)", line).group(1))


def manifests(url, series, flags):
    """Kubernetes' own kinds by its schemas, and what only we know of them."""
    documents = [document for path in sorted((DEPLOY / "kubernetes").glob("*.yaml")) for document in read(path)]
    for document in documents:
        if document["kind"] not in CUSTOM_KINDS:
            kubernetes_validate.validate(document, KUBERNETES, strict=True)
    by_kind = {document["kind"]: document for document in documents}
    template = by_kind["StatefulSet"]["spec"]["template"]
    [container] = template["spec"]["containers"]
    flags.check(container["args"], "StatefulSet")
    pause = container["lifecycle"]["preStop"]["sleep"]["seconds"]
    limit = pause + seconds_of_draining(container["args"]) + 5
    assert template["spec"]["terminationGracePeriodSeconds"] > limit
    for probe in ["startupProbe", "readinessProbe", "livenessProbe"]:
        assert answer(url, container[probe]["httpGet"]["path"])[0] == 200, probe
    ports = {port["name"]: port["containerPort"] for port in container["ports"]}
    assert {f"--port={ports['http']}", f"--metrics-port={ports['metrics']}"} <= set(container["args"])
    assert by_kind["Service"]["spec"]["ports"][0]["targetPort"] in ports
    assert by_kind["PodMonitor"]["spec"]["podMetricsEndpoints"][0]["port"] in ports
    for name, value in template["metadata"]["annotations"].items():
        if name.endswith("-metric"):
            assert value in series.values, f"no gauge {value}"
    labels = by_kind["Service"]["spec"]["selector"]
    for selector in [by_kind["StatefulSet"]["spec"]["selector"], by_kind["PodMonitor"]["spec"]["selector"]]:
        assert selector["matchLabels"] == labels == template["metadata"]["labels"]
    mounted = {mount["name"]: mount["mountPath"] for mount in container["volumeMounts"]}
    [shm] = [volume for volume in template["spec"]["volumes"] if mounted[volume["name"]] == "/dev/shm"]
    assert shm["emptyDir"]["medium"] == "Memory" and shm["emptyDir"]["sizeLimit"]
    assert template["spec"]["securityContext"]["runAsNonRoot"]
    return f"{len(documents)} manifests"


def unit(binary, flags):
    """The systemd unit, its times and its command line."""
    text = (DEPLOY / "systemd/shardwire.service").read_text()
    said = dict(re.findall(r"^(\w+)=(.*)$", text, re.MULTILINE))
    installed, *words = shlex.split(said["ExecStart"])
    flags.check(words, "shardwire.service")
    assert int(said["TimeoutStopSec"]) > seconds_of_draining(words) + 5
    assert (said["Type"], said["RestartPreventExitStatus"]) == ("notify", "2")
    if not shutil.which("systemd-analyze"):
        return "the unit, without systemd-analyze, which is not here"
    # The binary need not be installed for its unit to be right.
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder, "shardwire.service")
        path.write_text(text.replace(installed, str(pathlib.Path(binary).resolve())))
        command = ["systemd-analyze", "verify", "--man=no", "--recursive-errors=no", str(path)]
        result = subprocess.run(command, capture_output=True, text=True, check=False)
    faults = [line for line in result.stderr.splitlines() if "shardwire" in line]
    assert result.returncode == 0 and not faults, result.stderr
    return "the unit, verified by systemd-analyze"


def container(flags):
    """The Containerfile: two stages, not root, commands as lists, and sources that are there."""
    text = (DEPLOY / "container/Containerfile").read_text().replace("\\\n", " ")
    lines = [line.split(None, 1) for line in text.splitlines() if line.strip() and not line.startswith("#")]
    instructions = {}
    for word, rest in lines:
        instructions.setdefault(word, []).append(rest)
    assert len(instructions["FROM"]) == 2 and "python" not in text.lower().split("from ${base}")[1].lower()
    assert instructions["STOPSIGNAL"] == ["SIGTERM"]
    user = instructions["USER"][-1]
    assert re.fullmatch(r"[1-9]\d*:[1-9]\d*", user), f"not the number of somebody else than root: {user}"
    health = instructions["HEALTHCHECK"][0].split("CMD ", 1)[1]
    [entry], command, health = (json.loads(said) for said in (instructions["ENTRYPOINT"][0], instructions["CMD"][0], health))
    assert entry == health[0] == "shardwire"
    flags.check(command, "CMD")
    flags.check(health[1:], "HEALTHCHECK")
    kept = set(re.findall(r"^!(\S+)$", (ROOT / ".dockerignore").read_text(), re.MULTILINE))
    for copied in instructions["COPY"]:
        *sources, _ = copied.split()
        for source in [] if sources[0].startswith("--from") else sources:
            assert (ROOT / source).exists() and source in kept, f"{source} is not there, or in .dockerignore"
    return "the Containerfile"


def main():
    binary = sys.argv[1]
    flags = Help(binary)
    with server(binary, "--model", str(TINY_MODEL), "--tensor-parallel-size", "2") as url:
        series = Series(url)
        checked = [dashboard(series), alerts(series), manifests(url, series, flags)]
    for what in [*checked, unit(binary, flags), container(flags)]:
        print("ok  ", what)


if __name__ == "__main__":
    main()
