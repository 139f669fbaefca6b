"""From a source's text to what the compiler and the disassembler say of it, kept as long as nothing changes."""

import collections
import concurrent.futures
import ctypes
import hashlib
import itertools
import json
import os
import re
import struct
import subprocess
import tempfile

from . import REPOSITORY, TOOLKIT, Failure
from .sources import ARCHITECTURES, variants

CACHE = REPOSITORY / "target/cuda-kernels"
OPTIONS = ["--std=c++17", "-default-device"]
PARALLEL = min(2, os.cpu_count() or 1)
DISASSEMBLED_AT_ONCE = 16
# Of all GPUs since Volta.
INSTRUCTION_BYTES = 16


class Compiler:
    """NVRTC. Its functions may be called on several threads at once."""

    def __init__(self):
        self.library = ctypes.CDLL(str(TOOLKIT / "lib/libnvrtc.so.12"))
        self.library.nvrtcGetErrorString.restype = ctypes.c_char_p

    def compile(self, variant, architecture):
        """The log, and the results of each kind. For a virtual architecture (compute_80) there is no machine code."""
        program = ctypes.c_void_p()
        options = [option.encode() for option in compiler_options(variant, architecture)]
        name = f"{variant.name}.cu".encode()
        self.call("CreateProgram", ctypes.byref(program), variant.source.text.encode(), name, 0, None, None)
        try:
            array = (ctypes.c_char_p * len(options))(*options)
            failed = self.library.nvrtcCompileProgram(program, len(options), array)
            log = self.get(program, "ProgramLog").decode()
            if failed:
                raise Failure(f"{variant.name} does not compile for {architecture}:\n{log}")
            return log, {kind: self.get(program, kind) for kind in ("PTX", "CUBIN")}
        finally:
            self.call("DestroyProgram", ctypes.byref(program))

    def get(self, program, what):
        size = ctypes.c_size_t()
        self.call(f"Get{what}Size", program, ctypes.byref(size))
        room = ctypes.create_string_buffer(size.value)
        self.call(f"Get{what}", program, room)
        return room.raw.rstrip(b"\0") if what != "CUBIN" else room.raw

    def call(self, function, *arguments):
        code = getattr(self.library, f"nvrtc{function}")(*arguments)
        if code:
            raise Failure(f"nvrtc{function}: {self.library.nvrtcGetErrorString(code).decode()}")


def compiler_options(variant, architecture):
    return [f"--gpu-architecture={architecture}", "--ptxas-options=-v", *OPTIONS, *variant.defines]


def cache_path(suffix, parts):
    """Where a result is kept that depends on nothing but the parts and the toolkit."""
    CACHE.mkdir(parents=True, exist_ok=True)
    hashed = hashlib.sha256((REPOSITORY / "scripts/cuda-toolkit.lock").read_bytes())
    for part in parts:
        hashed.update(part.encode() + b"\0")
    return CACHE / f"{hashed.hexdigest()[:32]}{suffix}"


def write_whole(path, text):
    """All of it or nothing."""
    with tempfile.NamedTemporaryFile("w", dir=path.parent, prefix=f".{path.name}.", delete=False) as file:
        file.write(text)
    os.chmod(file.name, 0o644)
    os.replace(file.name, path)


def in_parallel(function, items):
    with concurrent.futures.ThreadPoolExecutor(PARALLEL) as threads:
        try:
            yield from threads.map(function, items)
        except BaseException:
            threads.shutdown(wait=False, cancel_futures=True)
            raise


def compilations(chosen):
    """All that these sources are compiled to, as `(architecture, variant)`."""
    return [
        (architecture, variant)
        for architecture in ARCHITECTURES
        for variant in variants(chosen)
        if architecture in variant.architectures
    ]


def compile_all(wanted):
    """What `compile_some` says, as `{(architecture, variant): JSON}`, and how much of it is new."""
    paths = {
        (architecture, variant): cache_path(".json", [variant.source.text, *compiler_options(variant, architecture)])
        for architecture, variant in wanted
    }
    missing = [one for one, path in paths.items() if not path.exists()]
    chunks = [
        list(chunk)
        for _, same in itertools.groupby(missing, key=lambda one: one[0])
        for chunk in batched(same, DISASSEMBLED_AT_ONCE)
    ]
    compiler = Compiler()
    for texts in in_parallel(lambda chunk: compile_some(compiler, chunk), chunks):
        for one, text in texts.items():
            write_whole(paths[one], text)
    return {one: json.loads(path.read_text()) for one, path in paths.items()}, len(missing)


def batched(items, size):
    items = iter(items)
    while batch := list(itertools.islice(items, size)):
        yield batch


def compile_some(compiler, chunk):
    """For each variant of one architecture, as JSON: the assembler's report, what the PTX says of each entry, and how
    often each has which instruction."""
    logs, heads, codes = {}, {}, {}
    for one in chunk:
        architecture, variant = one
        logs[one], results = compiler.compile(variant, architecture)
        heads[one] = entry_heads(results["PTX"].decode())
        for entry, code in machine_code(results["CUBIN"]):
            codes[one, entry] = code
    counts = opcodes(architecture, codes)
    return {
        one: json.dumps({"log": logs[one], "ptx": heads[one], "code": {name: counts[one, name] for name in heads[one]}})
        for one in chunk
    }


def entry_heads(ptx):
    """`{entry: [most threads of a block, least blocks of a multiprocessor, whether it uses dynamic shared memory]}`"""
    heads = {}
    for entry, head, body in re.findall(r"\.entry (\w+)\((.*?)\n\{(.*?)\n\}", ptx, re.DOTALL):
        threads = re.search(r"\.maxntid (\d+)", head)
        blocks = re.search(r"\.minnctapersm (\d+)", head)
        dynamic = "dynamic_shared" in body
        heads[entry] = [int(threads[1]) if threads else None, int(blocks[1]) if blocks else 1, dynamic]
    return heads


def machine_code(cubin):
    """The sections of an ELF file that hold code, by the names of the entries (System V ABI, "Object files")."""
    section_table = struct.unpack_from("<Q", cubin, 0x28)[0]
    size, count, names = struct.unpack_from("<3H", cubin, 0x3A)
    sections = [struct.unpack_from("<IIQQQQ", cubin, section_table + at * size) for at in range(count)]
    names_start = sections[names][4]
    for name_offset, _, _, _, start, length in sections:
        name = cubin[names_start + name_offset :].split(b"\0", 1)[0].decode()
        if name.startswith(".text."):
            yield name.removeprefix(".text."), cubin[start : start + length]


def opcodes(architecture, codes):
    """`{entry: {opcode: count}}`. The disassembler takes a while to start, so it is given many entries at once."""
    with tempfile.NamedTemporaryFile() as file:
        file.write(b"".join(codes.values()))
        file.flush()
        name = architecture.replace("sm_", "SM")
        command = [TOOLKIT / "bin/nvdisasm", "-json", "-ndf", "-b", name, file.name]
        done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    if done.returncode:
        raise Failure(f"nvdisasm: {done.stderr.strip()}")
    _, functions = json.loads(done.stdout)
    lines = iter([line["opcode"] for function in functions for line in function["sass-instructions"]])
    return {
        entry: collections.Counter(itertools.islice(lines, len(code) // INSTRUCTION_BYTES))
        for entry, code in codes.items()
    }
