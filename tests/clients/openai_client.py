"""The official OpenAI client against the real binary: the usual example unchanged, and what else users do with it.

    python tests/clients/openai_client.py target/debug/shardwire

Starts its servers itself (the default model on two CPU ranks, then a tiny one) and ends with exit code 0 if everything
held.
"""

import concurrent.futures
import enum
import json
import math
import pathlib
import sys
import threading

import openai
import pydantic

from serving import server

TINY_MODEL = pathlib.Path(__file__).parents[1] / "fixtures/golden/models/llama3_rope"
MODEL = "default"

WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "Tells the weather of a place.",
        "parameters": {
            "type": "object",
            "properties": {
                "place": {"type": "string", "maxLength": 20},
                "unit": {"type": "string", "enum": ["celsius", "fahrenheit"]},
            },
            "required": ["place", "unit"],
            "additionalProperties": False,
        },
    },
}
TIME = {
    "type": "function",
    "function": {
        "name": "get_time",
        "parameters": {
            "type": "object",
            "properties": {"zone": {"type": "string", "enum": ["UTC", "CET"]}},
            "required": ["zone"],
            "additionalProperties": False,
        },
    },
}


def says(text):
    """A conversation of one sentence."""
    return [{"role": "user", "content": text}]


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
    question = dict(model=MODEL, temperature=0, max_tokens=24, messages=says("What is the capital of France?"))
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
        return client.completions.create(model=MODEL, prompt=prompt, temperature=0, max_tokens=8).choices[0].text

    alone = [complete(prompt) for prompt in prompts]
    with concurrent.futures.ThreadPoolExecutor(16) as pool:
        together = list(pool.map(complete, prompts))
    assert alone == together


def check_call(call, tools):
    """The call is of one of these tools and its arguments fit its parameters."""
    parameters = {tool["function"]["name"]: tool["function"]["parameters"] for tool in tools}
    assert call.type == "function" and call.id, call
    arguments = json.loads(call.function.arguments)
    schema = parameters[call.function.name]
    assert set(arguments) == set(schema["required"]), call
    for name, value in arguments.items():
        assert value in schema["properties"][name].get("enum", [value]), call


def tools_are_called(client):
    """A forced tool is called with arguments that fit; a result can be answered with."""
    question = says("What is the weather in Paris?")
    for choice in ["required", {"type": "function", "function": {"name": "get_weather"}}]:
        answer = client.chat.completions.create(
            model=MODEL, messages=question, tools=[WEATHER, TIME], tool_choice=choice, max_tokens=200, temperature=0
        )
        calls = answer.choices[0].message.tool_calls
        assert calls and answer.choices[0].finish_reason == "tool_calls", answer
        for call in calls:
            check_call(call, [WEATHER, TIME] if choice == "required" else [WEATHER])
    said = answer.choices[0].message
    results = [{"role": "tool", "tool_call_id": call.id, "content": "18 degrees"} for call in said.tool_calls]
    more = client.chat.completions.create(
        model=MODEL, messages=[*question, said.model_dump(exclude_none=True), *results], tools=[WEATHER], max_tokens=16
    )
    assert more.choices[0].message.content, more


def tools_are_streamed(client):
    """The pieces of a streamed call join to the call of the plain answer."""
    question = dict(
        model=MODEL, messages=says("What time is it?"), tools=[TIME], tool_choice="required", parallel_tool_calls=False,
        max_tokens=200, temperature=0,
    )
    plain = client.chat.completions.create(**question).choices[0].message.tool_calls
    name, arguments, ids, finish = "", "", set(), None
    for chunk in client.chat.completions.create(**question, stream=True):
        choice = chunk.choices[0]
        finish = choice.finish_reason or finish
        assert not choice.delta.content, chunk
        for call in choice.delta.tool_calls or []:
            assert call.index == 0, chunk
            ids |= {call.id} - {None}
            name += call.function.name or ""
            arguments += call.function.arguments or ""
    assert finish == "tool_calls" and len(ids) == 1, (finish, ids)
    assert [(name, json.loads(arguments))] == [(c.function.name, json.loads(c.function.arguments)) for c in plain]


class Size(enum.Enum):
    """How large a thing is."""

    SMALL = "small"
    LARGE = "large"


class Part(pydantic.BaseModel):
    """One part of a thing."""

    count: int = pydantic.Field(ge=0, le=99)


class Thing(pydantic.BaseModel):
    """What the model fills."""

    name: str = pydantic.Field(max_length=12)
    size: Size
    broken: bool
    parts: list[Part] = pydantic.Field(min_length=1, max_length=2)


def structure_is_parsed(client):
    """An answer in a schema is read into the user's own class, plain and streamed."""
    question = dict(model=MODEL, messages=says("Describe a bicycle."), response_format=Thing, max_tokens=300, seed=1)
    answer = client.chat.completions.parse(**question).choices[0]
    assert answer.finish_reason == "stop" and isinstance(answer.message.parsed, Thing), answer
    with client.chat.completions.stream(**question) as stream:
        streamed = stream.get_final_completion().choices[0].message.parsed
    assert streamed == answer.message.parsed, (streamed, answer)


def schema_is_followed(client):
    """response_format with a plain schema, and with json_object."""
    schema = {"type": "object", "properties": {"answer": {"enum": ["yes", "no"]}}, "required": ["answer"],
              "additionalProperties": False}
    form = {"type": "json_schema", "json_schema": {"name": "answer", "strict": True, "schema": schema}}
    answer = client.chat.completions.create(model=MODEL, messages=says("Is water wet?"), response_format=form, max_tokens=40)
    assert json.loads(answer.choices[0].message.content)["answer"] in ("yes", "no"), answer
    try:
        form["json_schema"]["schema"] = {"type": "nonsense"}
        client.chat.completions.create(model=MODEL, messages=says("Hi"), response_format=form)
    except openai.BadRequestError as error:
        assert "response_format" in (error.param or ""), error
    else:
        raise AssertionError("a schema of nonsense was accepted")


def embeddings_are_alike(client):
    """Embeddings are of one length, the same each time, and near where texts are near."""
    texts = ["The cat sat on the mat.", "A cat is sitting on a mat.", "Interest rates rose by two percent."]
    answer = client.embeddings.create(model=MODEL, input=texts)
    vectors = [item.embedding for item in sorted(answer.data, key=lambda item: item.index)]
    assert len({len(vector) for vector in vectors}) == 1 and len(vectors) == 3
    assert answer.usage.prompt_tokens == answer.usage.total_tokens > 0
    floats = client.embeddings.create(model=MODEL, input=texts[0], encoding_format="float").data[0].embedding
    # base64 carries 32 bits of each number, JSON may carry more of its digits.
    assert all(math.isclose(a, b, rel_tol=1e-5, abs_tol=1e-6) for a, b in zip(floats, vectors[0], strict=True))

    def nearness(a, b):
        return sum(x * y for x, y in zip(a, b)) / math.sqrt(sum(x * x for x in a) * sum(y * y for y in b))

    assert nearness(vectors[0], vectors[1]) > nearness(vectors[0], vectors[2])


def errors_are_the_clients(client):
    """Bad requests raise the client's own exception types, with the parameter at fault."""
    for field, value in [("temperature", -1), ("top_p", 1.5), ("max_tokens", 0), ("n", 0)]:
        try:
            client.chat.completions.create(model=MODEL, messages=says("Hi"), **{field: value})
        except openai.BadRequestError as error:
            assert error.param == field, error
        else:
            raise AssertionError(f"{field}={value} was accepted")


def models_are_listed(client):
    """/v1/models names what is served."""
    models = client.models.list().data
    assert len(models) == 1 and models[0].object == "model", models


def raises(kind, question):
    """The question is answered with this class of exception; the exception."""
    try:
        question()
    except kind as error:
        assert error.request_id or kind is openai.RateLimitError, error
        return error
    raise AssertionError(f"no {kind.__name__}")


def keys_and_names_are_checked(url):
    """A wrong key, an unknown model and a wrong path raise the client's own exception types."""
    def ask(key="right", model="tiny"):
        client = openai.Client(base_url=f"{url}/v1", api_key=key, max_retries=0)
        return client.chat.completions.create(model=model, messages=says("Hi"), max_tokens=1)

    assert ask().choices
    assert raises(openai.AuthenticationError, lambda: ask(key="wrong")).status_code == 401
    assert raises(openai.NotFoundError, lambda: ask(model="other")).code == "model_not_found"


def a_full_server_is_asked_again(url):
    """Over --max-concurrency the client gets its own exception; with retries it gets its answer."""
    refused = threading.Event()

    def note(response):
        if response.status_code == 429:
            refused.set()

    http = openai.DefaultHttpxClient(event_hooks={"response": [note]})
    once = openai.Client(base_url=f"{url}/v1", api_key="right", max_retries=0)
    patient = openai.Client(base_url=f"{url}/v1", api_key="right", max_retries=20, http_client=http)

    def ask(client):
        return client.completions.create(model="tiny", prompt="Hi", max_tokens=1)

    long = once.completions.create(
        model="tiny", prompt="Hi", max_tokens=480, n=64, stream=True, extra_body={"ignore_eos": True}
    )
    raises(openai.RateLimitError, lambda: ask(once))
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        answer = pool.submit(ask, patient)
        assert refused.wait(timeout=60), "the full server took one more"
        long.close()
        assert answer.result(timeout=60).choices


CHECKS = [
    chat_matches_its_stream,
    many_at_once,
    tools_are_called,
    tools_are_streamed,
    structure_is_parsed,
    schema_is_followed,
    embeddings_are_alike,
    errors_are_the_clients,
    models_are_listed,
]


def main():
    with server(sys.argv[1], "--tensor-parallel-size", "2") as url:
        usual_example(url)
        client = openai.Client(base_url=f"{url}/v1", api_key="null", max_retries=0)
        for check in CHECKS:
            check(client)
            print("ok  ", check.__doc__)
    tiny = ["--model", str(TINY_MODEL), "--served-model-name", "tiny", "--api-key", "right", "--max-concurrency", "1"]
    with server(sys.argv[1], *tiny) as url:
        for check in [keys_and_names_are_checked, a_full_server_is_asked_again]:
            check(url)
            print("ok  ", check.__doc__)


if __name__ == "__main__":
    main()
