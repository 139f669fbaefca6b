"""The committed table, and the check against it."""

import collections
import csv
import dataclasses
import io

from . import REPOSITORY, Failure, say
from .figures import REGISTERS_MAX, Figures, resident_blocks

TABLE = REPOSITORY / "kernels/cuda/compiled.csv"
COLUMNS = [field.name for field in dataclasses.fields(Figures)]


def table_text(compiled):
    """A row for each entry. A cell is one figure, or where they differ one for each of its architectures."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["entry", "architectures", *COLUMNS])
    for entry, everywhere in sorted(by_entry(compiled).items()):
        columns = zip(*(dataclasses.astuple(figures) for figures in everywhere.values()))
        cells = [" ".join(map(str, cells if len(set(cells)) > 1 else cells[:1])) for cells in columns]
        writer.writerow([entry, " ".join(everywhere), *cells])
    return text.getvalue()


def by_entry(compiled):
    """`{entry: {architecture: Figures}}`"""
    entries = {}
    for (entry, architecture), figures in compiled.items():
        entries.setdefault(entry, {})[architecture] = figures
    return entries


def read_table():
    if not TABLE.exists():
        raise Failure(f"there is no {TABLE.relative_to(REPOSITORY)}; `scripts/cuda-kernels --write` makes it")
    types = [field.type for field in dataclasses.fields(Figures)]
    _, *rows = csv.reader(TABLE.read_text().splitlines())
    table = {}
    for entry, architectures, *cells in rows:
        architectures = architectures.split()
        columns = [[kind(cell) for cell in row.split(" ")] for kind, row in zip(types, cells)]
        for at, architecture in enumerate(architectures):
            table[entry, architecture] = Figures(*(column[at if len(column) > 1 else 0] for column in columns))
    return table


def write_table(compiled):
    check_bounds(compiled)
    spills = [Fault(*key, "spills registers") for key, figures in compiled.items() if figures.spills]
    if spills:
        say(f"that stands in the table now:\n{told(spills)}")
    TABLE.write_text(table_text(compiled))
    say(f"wrote {TABLE.relative_to(REPOSITORY)}")


def check(compiled, anew, vouched, whole):
    """Of the sources `anew` everything was compiled, of those that are vouched for a sample; `whole`: there are no
    others."""
    table = read_table()
    faults = unconditional_faults(compiled)
    for key, figures in compiled.items():
        before = table.get(key)
        if before is None:
            faults.append(Fault(*key, "is not in the table"))
        elif source_of(key) in vouched and figures != before:
            faults.append(Fault(*key, f"is not as the table says, which claims to be made of this source: {figures}"))
        else:
            faults += [Fault(*key, text) for text in got_worse(before, figures)]
    for key in table:
        expected = source_of(key) in anew or (whole and source_of(key) not in vouched)
        if expected and key not in compiled:
            faults.append(Fault(*key, "is in the table, but no longer there"))
    if faults:
        raise Failure(f"{told(faults)}\nIf this is meant: scripts/cuda-kernels --write")
    changed = sum(table[key] != figures for key, figures in compiled.items())
    say(f"no kernel got worse; {changed} figures of the table are out of date" if changed else "all is as in the table")


def source_of(key):
    return key[0].split("/")[0]


Fault = collections.namedtuple("Fault", "entry, architecture, text")


def told(faults):
    """A line for what is the same on several architectures."""
    lines = {}
    for entry, architecture, text in faults:
        lines.setdefault((entry, text), []).append(architecture)
    return "\n".join(f"{entry} {text} ({', '.join(where)})" for (entry, text), where in lines.items())


def unconditional_faults(compiled):
    return [Fault(*key, text) for key, figures in compiled.items() for text in not_launchable(key[1], figures)]


def check_bounds(compiled):
    if faults := unconditional_faults(compiled):
        raise Failure(told(faults))


def not_launchable(architecture, figures):
    if figures.registers > REGISTERS_MAX:
        yield f"uses {figures.registers} registers; there are {REGISTERS_MAX}"
    elif resident_blocks(architecture, figures) < figures.blocks:
        needs = f"{figures.registers} registers a thread and {figures.shared} bytes of shared memory"
        yield f"cannot be launched as its bounds say, {figures.blocks} × {figures.threads} threads: it needs {needs}"


def got_worse(before, now):
    if now.spills > before.spills:
        yield f"spills {now.spills} bytes of registers, before {before.spills}"
    if now.stack > before.stack:
        yield f"has a stack of {now.stack} bytes, before {before.stack}: an array is not in registers"
    losses = {
        "tensor": "tensor-core instructions",
        "async_copies": "asynchronous copies",
        "matrix_loads": "matrix loads",
        "wide_loads": "128-bit loads",
    }
    for what, words in losses.items():
        if getattr(before, what) and not getattr(now, what):
            yield f"has no {words} any more"
