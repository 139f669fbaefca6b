"""The official OpenAI client against the real binary: the usual example unchanged, and what else users do with it.

    python tests/clients/openai_client.py target/debug/shardwire

Starts the server itself (the default model, two CPU ranks) and ends with exit code 0 if everything held.
"""

import concurrent.futures
import contextlib
import re
import subprocess
import sys
import tempfile

import openai


@contextlib.contextmanager
def server(binary, *flags):
    """Runs the server on a free port until the block ends; gives its base URL."""
    with tempfile.TemporaryDirectory() as log_dir:
        command = [binary, "serve", "--host", "127.0.0.1", "--port", "0", "--log-dir", log_dir, *flags]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        try:
            line = process.stdout.readline()
            ready = re.match(r"Shardwire is ready: (http://\S+)", line)
            assert ready, f"no ready line, but: {line!r}"
            yield ready.group(1)
        finally:
            process.terminate()
            code = process.wait(timeout=60)
        assert code == 0, f"the server ended with {code}"


def usual_example(url):
    """The example of the serving page: model and key are "null"."""
    host, port = url.removeprefix("http://").split(":")
    client = openai.Client(base_url=f"http://{host}:{port}/v1", api_key="null")
    response = client.chat.completions.create(
        model="null",
        messages=[
            {"role": "system", "content": "I'm a helpful AI assistant."},
            {"role": "user", "content": "把李白的静夜思改写为现代诗"},
        ],
        stream=True,
        max_tokens=48,
    )
    for chunk in response:
        if chunk.choices[0].delta:
            print(chunk.choices[0].delta.content, end="")
    print("\n")


def chat_matches_its_stream(client):
    """The streamed pieces of a greedy answer join to the plain one."""
    question = dict(model="default", temperature=0, max_tokens=24, messages=[{"role": "user", "content": "What is the capital of France?"}])
    plain = client.chat.completions.create(**question)
    assert "Paris" in plain.choices[0].message.content, plain
    assert plain.choices[0].finish_reason in ("stop", "length")
    assert plain.usage.total_tokens == plain.usage.prompt_tokens + plain.usage.completion_tokens

    chunks = list(client.chat.completions.create(**question, stream=True, stream_options={"include_usage": True}))
    streamed = "".join(c.choices[0].delta.content or "" for c in chunks if c.choices)
    assert streamed == plain.choices[0].message.content, (streamed, plain)
    assert chunks[-1].usage.completion_tokens == plain.usage.completion_tokens


def many_at_once(client):
    """Sixteen requests together answer as each does alone."""
    prompts = [f"The number {n} is" for n in range(16)]

    def complete(prompt):
        return client.completions.create(model="default", prompt=prompt, temperature=0, max_tokens=8).choices[0].text

    alone = [complete(prompt) for prompt in prompts]
    with concurrent.futures.ThreadPoolExecutor(16) as pool:
        together = list(pool.map(complete, prompts))
    assert alone == together


def errors_are_the_clients(client):
    """Bad requests raise the client's own exception types, with the parameter at fault."""
    for field, value in [("temperature", -1), ("top_p", 1.5), ("max_tokens", 0), ("n", 0)]:
        try:
            client.chat.completions.create(model="default", messages=[{"role": "user", "content": "Hi"}], **{field: value})
        except openai.BadRequestError as error:
            assert error.param == field, error
        else:
            raise AssertionError(f"{field}={value} was accepted")


def models_are_listed(client):
    """/v1/models names what is served."""
    models = client.models.list().data
    assert len(models) == 1 and models[0].object == "model", models


def main():
    with server(sys.argv[1], "--tensor-parallel-size", "2") as url:
        usual_example(url)
        client = openai.Client(base_url=f"{url}/v1", api_key="null", max_retries=0)
        for check in [chat_matches_its_stream, many_at_once, errors_are_the_clients, models_are_listed]:
            check(client)
            print("ok  ", check.__doc__)


if __name__ == "__main__":
    main()
