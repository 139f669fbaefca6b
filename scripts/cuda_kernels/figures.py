"""What an entry needs of a GPU, and how much of a multiprocessor it can fill."""

import collections
import dataclasses
import re

from . import Failure


@dataclasses.dataclass(frozen=True)
class Figures:
    """What one entry needs of one architecture; the fields are the columns of the table."""

    # The most threads of a block (its launch bounds).
    threads: int
    # The least blocks that shall fit into a multiprocessor (its launch bounds).
    blocks: int
    # Per thread.
    registers: int
    # Bytes per thread.
    stack: int
    # Bytes that are moved to memory and back for want of registers, in the code.
    spills: int
    # Static bytes per block; a plus: and dynamic ones.
    shared: str
    # Instructions in the code, by kind; `HMMA:16+IMMA:8`.
    tensor: str
    async_copies: int
    matrix_loads: int
    wide_loads: int


WIDE = {"128", "256"}
KINDS = {
    "async_copies": lambda base, rest: base in ("LDGSTS", "UBLKCP") or base.startswith("UTMALDG"),
    "matrix_loads": lambda base, rest: base == "LDSM",
    "wide_loads": lambda base, rest: base == "LDG" and WIDE & set(rest),
}


def read_all(compiled):
    """`{(source/entry, architecture): Figures}` of what the compiler said."""
    return {
        (f"{variant.source.name}/{entry}", architecture): figures
        for (architecture, variant), raw in compiled.items()
        for entry, figures in read_module(raw)
    }


def read_module(raw):
    for entry, report in assembler_reports(raw["log"]).items():
        threads, blocks, has_dynamic = raw["ptx"][entry]
        if not threads:
            raise Failure(f"{entry} has no launch bounds; write it KERNEL(name, threads)")
        report["shared"] = f"{report['shared']}{'+' if has_dynamic else ''}"
        yield entry, Figures(threads=threads, blocks=blocks, **report, **instructions(raw["code"][entry]))


def assembler_reports(log):
    reports = {}
    for line in log.splitlines():
        if entry := re.search(r"Compiling entry function '(\w+)'", line):
            report = reports[entry[1]] = {"registers": 0, "stack": 0, "spills": 0, "shared": 0}
        # Functions that were not inlined have such a line too.
        elif found := re.search(r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads", line):
            report["stack"] += int(found[1])
            report["spills"] += int(found[2]) + int(found[3])
        elif found := re.search(r"Used (\d+) registers", line):
            report["registers"] = int(found[1])
            shared = re.search(r"(\d+) bytes smem", line)
            report["shared"] = int(shared[1]) if shared else 0
        elif "warning" in line or "Performance Loss" in line:
            usual = r"ptxas (info)? *[:.] +(\d+ bytes|Comp|Function|Used)|$"
            unusual = [line for line in log.splitlines() if not re.match(usual, line)]
            raise Failure("\n".join(["the compiler warns:", *unusual]))
    return reports


def instructions(counts):
    tensor = collections.Counter()
    others = dict.fromkeys(KINDS, 0)
    for opcode, count in counts.items():
        base, *rest = opcode.split(".")
        if base.endswith("MMA"):
            tensor[base] += count
        for kind, belongs in KINDS.items():
            if belongs(base, rest):
                others[kind] += count
    return {"tensor": "+".join(f"{name}:{count}" for name, count in sorted(tensor.items())), **others}


@dataclasses.dataclass(frozen=True)
class Multiprocessor:
    """Limits of one multiprocessor (CUDA C++ programming guide, compute capabilities)."""

    warps: int
    blocks: int
    shared: int


MULTIPROCESSORS = {
    "sm_80": Multiprocessor(64, 32, 164 << 10),
    "sm_86": Multiprocessor(48, 16, 100 << 10),
    "sm_89": Multiprocessor(48, 24, 100 << 10),
    "sm_90a": Multiprocessor(64, 32, 228 << 10),
    "sm_100a": Multiprocessor(64, 32, 228 << 10),
    "sm_120": Multiprocessor(48, 24, 100 << 10),
}
REGISTERS = 65536
REGISTERS_MAX = 255
# Registers are handed out to warps by this many, in each of the four quarters of a multiprocessor.
REGISTER_UNIT = 256
QUARTERS = 4
# Shared memory is handed out to blocks by this many bytes, and each block costs some for the system.
SHARED_UNIT = 128
SHARED_RESERVED = 1024


def resident_blocks(architecture, figures):
    """How many blocks of the most threads fit at once, without dynamic shared memory."""
    limits = MULTIPROCESSORS[architecture]
    warps = -(-figures.threads // 32)
    unit = -(-figures.registers * 32 // REGISTER_UNIT) * REGISTER_UNIT
    by_registers = REGISTERS // QUARTERS // max(unit, 1) * QUARTERS // warps
    static = int(figures.shared.rstrip("+")) + SHARED_RESERVED
    by_shared = limits.shared // (-(-static // SHARED_UNIT) * SHARED_UNIT)
    return min(limits.blocks, limits.warps // warps, by_registers, by_shared)


def occupancy(architecture, figures):
    """Per cent of the warps that a multiprocessor can hold."""
    warps = -(-figures.threads // 32)
    return 100 * resident_blocks(architecture, figures) * warps // MULTIPROCESSORS[architecture].warps
