"""The figures for people: on the terminal, and as a page of the documentation."""

from . import REPOSITORY, say
from .figures import occupancy
from .sources import ARCHITECTURES, FEW_ARCHITECTURES, MAIN_FORMATS
from .table import by_entry

SUMMARY = REPOSITORY / "docs/cuda-kernels.md"
COUNTED = "sm_90a"
COLUMNS = [
    "kernel",
    "threads",
    "registers",
    "shared",
    "tensor cores",
    "copies",
    "matrix loads",
    "wide loads",
    "occupancy",
]


def show(compiled):
    for (entry, architecture), figures in compiled.items():
        words = [
            f"{figures.threads} threads",
            f"{figures.registers} registers",
            f"{figures.shared} B shared",
            f"occupancy {occupancy(architecture, figures)} %",
            f"SPILLS {figures.spills} B" if figures.spills else "",
            f"STACK {figures.stack} B" if figures.stack else "",
            figures.tensor,
            f"{figures.async_copies} copies" if figures.async_copies else "",
            f"{figures.matrix_loads} ldmatrix" if figures.matrix_loads else "",
            f"{figures.wide_loads} wide loads" if figures.wide_loads else "",
        ]
        print(f"{entry} {architecture}: {', '.join(word for word in words if word)}")


HEAD = """\
# What the CUDA kernels compile to

Made by `scripts/cuda-kernels --write`, which compiles every kernel for every GPU without one (NVRTC and the assembler
of CUDA 12.9) and counts instructions in the machine code. `scripts/cuda-kernels --check` holds the kernels against
[`kernels/cuda/compiled.csv`](../kernels/cuda/compiled.csv) and fails where one spills, has a larger stack, lost its
tensor-core instructions, asynchronous copies or wide loads, or can't be launched with its threads.

Below are the kernels for bf16 activations. *Threads*: the most of a block. *Registers*: per thread, from the GPU that
needs the least to the one that needs the most. *Shared*: static bytes of a block; a plus: and dynamic ones. *Tensor
cores*, *copies* (cp.async and TMA's), *matrix loads* (ldmatrix) and *wide loads* (128 bits or more): instructions in
the code for {counted}. *Occupancy*: per cent of the warps that a multiprocessor holds, as far as registers, static
shared memory and threads allow, for {architectures}; dynamic shared memory may
lower it. A dash: the kernel is not for that GPU.
Kernels that exist for many storage formats are compiled for all of these GPUs for the formats
{formats}; for the others only for {few}, and they are left out here.
"""


def write_summary(compiled, chosen):
    meant_for = {source.name: set(source.architectures) for source in chosen}
    by_source = {}
    for name, everywhere in by_entry(compiled).items():
        source, entry = name.split("/")
        if entry.endswith("_bf16") and set(everywhere) == meant_for[source]:
            by_source.setdefault(source, {})[entry.removesuffix("_bf16")] = everywhere
    text = HEAD.format(
        counted=COUNTED,
        architectures=", ".join(ARCHITECTURES),
        formats=", ".join(MAIN_FORMATS),
        few=" and ".join(FEW_ARCHITECTURES),
    )
    for source, entries in sorted(by_source.items()):
        text += f"\n## {source}\n\n{row(COLUMNS)}{row('---' for _ in COLUMNS)}"
        text += "".join(row(cells(*entry)) for entry in sorted(entries.items()))
    SUMMARY.write_text(text)
    say(f"wrote {SUMMARY.relative_to(REPOSITORY)}")


def row(cells):
    return f"| {' | '.join(map(str, cells))} |\n"


def cells(name, everywhere):
    counted = everywhere[COUNTED]
    registers = sorted(figures.registers for figures in everywhere.values())
    return [
        f"`{name}`",
        counted.threads,
        registers[0] if registers[0] == registers[-1] else f"{registers[0]}–{registers[-1]}",
        counted.shared,
        counted.tensor.replace("+", ", ") or "–",
        counted.async_copies or "–",
        counted.matrix_loads or "–",
        counted.wide_loads or "–",
        " ".join(
            str(occupancy(architecture, everywhere[architecture])) if architecture in everywhere else "–"
            for architecture in ARCHITECTURES
        ),
    ]
