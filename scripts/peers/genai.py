"""OpenVINO GenAI, a library without a server: in an environment of its own, with a process of its own that answers how fast it
was. Run as a program it is that process, to which this file may not look like the library's modules: hence its name."""

import json
import pathlib
import subprocess
import sys

VERSION = "2026.4.1.0"
# Each is one token of every vocabulary that was seen so far, with the space before it.
WORDS = "time year people way day man thing woman life child world school state family group country problem hand part".split()
SLOTS_MAX = 64


class Library:
    """The library in a process of its own, which has a model loaded and waits. Leaving its context ends it."""

    name = "OpenVINO GenAI"

    def __init__(self, model, threads, folder):
        self.model, self.threads, self.folder = model, threads, folder
        self.process = None

    def __enter__(self):
        from . import Failure, servers

        python = environment()
        self.log = (pathlib.Path(self.folder) / "openvino.log").open("w+")
        self.process = subprocess.Popen(
            [python, __file__, self.model, str(self.threads)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self.log,
            text=True, start_new_session=True, preexec_fn=servers.die_with_parent,
        )  # fmt: skip
        if not self.process.stdout.readline():
            self.log.seek(0)
            words = [line for line in self.log if line.strip()] or ["it said nothing"]
            raise Failure(f"{self.name} can't load the model: {words[-1].strip()}")
        return self

    def __exit__(self, *_):
        self.process.kill()
        self.process.wait()

    def cpu_seconds(self):
        """Processor time that it has taken."""
        from .machine import seconds_of

        return seconds_of(self.process.pid)

    def prefill_speed(self, length, _):
        """Tokens per second of a prompt of so many until there is a token."""
        return length / self.ask(1, length, 1)[0]

    def decode_speed(self, output, _, depth):
        """Tokens per second of so many after a prompt of `depth`, but for the first."""
        all_of_them, first = self.ask(1, depth, output)
        return (output - 1) / (all_of_them - first)

    def many(self, prompts, prompt, output, _):
        """Tokens per second of all prompts of a batch."""
        return {"output, tok/s": prompts * output / self.ask(prompts, prompt, output)[0]}

    def ask(self, prompts, prompt, output):
        """Seconds until each of some prompts of so many tokens has had so many more, and until the first one had one."""
        from . import Failure

        try:
            self.process.stdin.write(json.dumps([prompts, prompt, output]) + "\n")
            self.process.stdin.flush()
            answer = self.process.stdout.readline()
        except BrokenPipeError:
            answer = ""
        if not answer:
            raise Failure(f"{self.name} ended with {self.process.wait()}")
        return json.loads(answer)


def environment():
    """The Python of an environment that has the library: made where it is missing."""
    from . import REPOSITORY
    from .llama import run

    folder = REPOSITORY / f"target/peers/openvino-{VERSION}"
    python = folder / "bin/python"
    if not (folder / "complete").exists():
        run([sys.executable, "-m", "venv", folder])
        run([python, "-m", "pip", "--quiet", "--disable-pip-version-check", "install", f"openvino-genai=={VERSION}"])
        (folder / "complete").touch()
    return python


def answer(model, threads):
    """Answers lines `[prompts, tokens of each, tokens to generate]` with `[seconds, seconds to the first token]`."""
    import random
    import time

    import openvino_genai as genai

    scheduler = genai.SchedulerConfig()
    scheduler.cache_size, scheduler.max_num_seqs = 2, SLOTS_MAX
    scheduler.max_num_batched_tokens, scheduler.enable_prefix_caching = 2048, False
    pipeline = genai.LLMPipeline(model, "CPU", scheduler_config=scheduler, INFERENCE_NUM_THREADS=threads)
    rng = random.Random(1)
    out = sys.stdout
    print("ready", file=out, flush=True)
    for line in sys.stdin:
        prompts, prompt, output = json.loads(line)
        config = genai.GenerationConfig()
        config.max_new_tokens, config.ignore_eos, config.do_sample, config.apply_chat_template = output, True, False, False
        texts = [" ".join(rng.choice(WORDS) for _ in range(prompt)) for _ in range(prompts)]
        begun = time.perf_counter()
        result = pipeline.generate(texts, config)
        took = time.perf_counter() - begun
        print(json.dumps([took, result.perf_metrics.get_ttft().mean / 1e3]), file=out, flush=True)


if __name__ == "__main__":
    answer(sys.argv[1], int(sys.argv[2]))
