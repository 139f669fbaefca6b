"""What is compiled: each source for each type of activations and each of its formats, for which GPUs."""

import dataclasses
import re

from . import REPOSITORY, Failure

KERNELS = REPOSITORY / "kernels"
ACTIVATIONS = ["f32", "bf16"]
ARCHITECTURES = ["sm_80", "sm_86", "sm_89", "sm_90a", "sm_100a", "sm_120"]
# Kernels of some operations exist for many formats, and differ little from one GPU to the next: but for the main
# formats they are compiled for these only.
FEW_ARCHITECTURES = ["sm_80", "sm_90a"]
MANY_FORMATS = 8
MAIN_FORMATS = ["bf16", "wint8", "wint4", "f8_e4m3", "q4_0", "q8_0", "q4_k"]


@dataclasses.dataclass(frozen=True)
class Source:
    name: str
    text: str
    formats: tuple
    # What it is compiled for, if not for all GPUs: it has a line `// architectures: …`.
    architectures: tuple = tuple(ARCHITECTURES)


@dataclasses.dataclass(frozen=True)
class Variant:
    """A source as it is compiled."""

    source: Source
    format: str | None
    activation: str

    @property
    def name(self):
        return "_".join(part for part in (self.source.name, self.format, self.activation) if part)

    @property
    def defines(self):
        defines = [f"-DACTIVATION_{self.activation.upper()}"]
        if self.format:
            defines += [f"-DFORMAT={self.format.upper()}", f"-DFORMAT_NAME={self.format}"]
        return defines

    @property
    def architectures(self):
        many = len(self.source.formats) > MANY_FORMATS
        wanted = FEW_ARCHITECTURES if many and self.format not in MAIN_FORMATS else ARCHITECTURES
        return [architecture for architecture in wanted if architecture in self.source.architectures]


def sources(names):
    """Those of these names, or all."""
    found = {path.parent.name: path for path in sorted(KERNELS.glob("**/cuda.cu"))}
    unknown = set(names) - set(found)
    if unknown:
        raise Failure(f"no kernels/{unknown.pop()}/cuda.cu; there are {', '.join(found)}")
    return [source(name, path.read_text()) for name, path in found.items() if not names or name in names]


def source(name, text):
    marker = re.search(r"^// variants: FORMAT\b(.*)$", text, re.MULTILINE)
    if not marker and re.search(r"\bFORMAT\b", text):
        raise Failure(f"kernels/{name}/cuda.cu uses FORMAT, but has no line `// variants: FORMAT`")
    formats = (None,)
    if marker:
        named = marker[1].split()
        unknown = set(named) - set(all_formats())
        if unknown:
            raise Failure(f"kernels/{name}/cuda.cu names a format {unknown.pop()!r}, which kernels/dtype.rs has not")
        formats = tuple(named or all_formats())
    marker = re.search(r"^// architectures: (.*)$", text, re.MULTILINE)
    architectures = tuple(marker[1].split()) if marker else tuple(ARCHITECTURES)
    if unknown := set(architectures) - set(ARCHITECTURES):
        raise Failure(f"kernels/{name}/cuda.cu names an architecture {unknown.pop()!r}")
    return Source(name, expand(text), formats, architectures)


def all_formats():
    return re.findall(r'DType::\w+ => "(\w+)"', (KERNELS / "dtype.rs").read_text())


def expand(text):
    """The text with the headers of kernels/cuda in the places where it includes them, as the server does it."""

    def line_or_header(line):
        header = re.fullmatch(r'#include "(\w+\.cuh)"', line)
        return expand((KERNELS / "cuda" / header[1]).read_text()) if header else line + "\n"

    return "".join(line_or_header(line) for line in text.splitlines())


def variants(chosen):
    return [Variant(source, form, act) for source in chosen for form in source.formats for act in ACTIVATIONS]
