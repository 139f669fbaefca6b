"""Sources that the committed table was made of. What they compile to is known as long as they and the compiler are the
same, so that a check compiles few of them: others for each commit, lest a table be believed that nobody made."""

import hashlib
import subprocess

from . import REPOSITORY, say
from .sources import variants

SUMS = REPOSITORY / "kernels/cuda/compiled.sources"
# One compilation of so many.
SAMPLE = 16


def sum_of(source):
    """Over all that a source's rows depend on: its text and headers, the compiler, and who reads the results."""
    told = hashlib.sha256()
    for path in ["scripts/cuda-toolkit.lock", *(f"scripts/cuda_kernels/{name}.py" for name in ["compiler", "figures"])]:
        told.update((REPOSITORY / path).read_bytes())
    told.update(source.text.encode())
    for variant in variants([source]):
        told.update(f"{variant.name} {' '.join(variant.architectures)}\n".encode())
    return told.hexdigest()[:16]


def write_sums(chosen):
    SUMS.write_text("".join(f"{source.name} {sum_of(source)}\n" for source in chosen))
    say(f"wrote {SUMS.relative_to(REPOSITORY)}")


def vouched(chosen):
    """The names of those that the table was made of."""
    known = dict(line.split() for line in SUMS.read_text().splitlines()) if SUMS.exists() else {}
    return {source.name for source in chosen if known.get(source.name) == sum_of(source)}


def sample(wanted):
    """Some of these compilations, which are others at each commit."""
    done = subprocess.run(["git", "-C", REPOSITORY, "rev-parse", "HEAD"], capture_output=True, text=True)
    commit = done.stdout.strip()

    def is_chosen(one):
        architecture, variant = one
        told = hashlib.sha256(f"{commit} {architecture} {variant.name}".encode())
        return int.from_bytes(told.digest()[:4]) % SAMPLE == 0

    return [one for one in wanted if is_chosen(one)]
