"""Modules for servers without a compiler."""

import re
import subprocess
import tempfile

from . import TOOLKIT, Failure, say
from .compiler import Compiler, cache_path, compiler_options, in_parallel, write_whole
from .sources import variants

SHIPPED = ["compute_80", "compute_90a"]
# A driver refuses newer text than it knows, so shipped modules claim the oldest version that has all their words;
# drivers since 525 (CUDA 12.0) know this one.
SHIPPED_VERSION = "8.0"


def write_modules(chosen, folder):
    folder.mkdir(parents=True, exist_ok=True)
    compiler = Compiler()
    work = [
        (variant, architecture)
        for variant in variants(chosen)
        for architecture in SHIPPED
        if architecture.replace("compute", "sm") in variant.architectures
    ]
    for (variant, architecture), text in zip(work, in_parallel(lambda one: module(compiler, *one), work)):
        write_whole(folder / f"{variant.name}.{architecture}.ptx", text)
    say(f"wrote {len(work)} modules to {folder}")


def module(compiler, variant, architecture):
    path = cache_path(".ptx", [variant.source.text, *compiler_options(variant, architecture), SHIPPED_VERSION])
    if path.exists():
        return path.read_text()
    _, results = compiler.compile(variant, architecture)
    text = re.sub(r"^\.version .*$", f".version {SHIPPED_VERSION}", results["PTX"].decode(), flags=re.MULTILINE)
    assemble(variant, architecture, text)
    write_whole(path, text)
    return text


def assemble(variant, architecture, text):
    """Whether the assembler accepts the text as one of the version that it claims."""
    with tempfile.NamedTemporaryFile("w", suffix=".ptx") as file:
        file.write(text)
        file.flush()
        target = architecture.replace("compute", "sm")
        command = [TOOLKIT / "bin/ptxas", f"--gpu-name={target}", "--output-file=/dev/null", file.name]
        done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    if done.returncode:
        raise Failure(f"{variant.name} for {architecture} is no PTX {SHIPPED_VERSION}:\n{done.stdout.strip()}")
