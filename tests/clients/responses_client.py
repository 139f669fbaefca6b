"""The official OpenAI client against the real binary: responses, their streams, tools, the store, the background.

    python tests/clients/responses_client.py target/debug/shardwire

Starts the server itself (the default model) and ends with exit code 0 if everything held.
"""

import json
import sys
import time

import openai
from serving import server

QUESTION = dict(model="default", input="What is the capital of France?", max_output_tokens=24, temperature=0)
WEATHER = {
    "type": "function",
    "name": "get_weather",
    "description": "The weather of a city.",
    "parameters": {"type": "object", "properties": {"city": {"type": "string", "maxLength": 20}}, "required": ["city"], "additionalProperties": False},
    "strict": True,
}


def a_response_is_answered(client):
    """A plain response."""
    response = client.responses.create(**QUESTION)
    assert response.object == "response" and response.id.startswith("resp_"), response
    assert "Paris" in response.output_text, response
    assert response.status in ("completed", "incomplete"), response
    assert response.usage.total_tokens == response.usage.input_tokens + response.usage.output_tokens, response.usage


def a_stream_adds_up(client):
    """The events of a stream add up to the whole response."""
    whole = client.responses.create(**QUESTION)
    events = list(client.responses.create(**QUESTION, stream=True))
    assert [event.sequence_number for event in events] == list(range(len(events)))
    deltas = "".join(event.delta for event in events if event.type == "response.output_text.delta")
    assert deltas == whole.output_text == events[-1].response.output_text, (deltas, whole)
    with client.responses.stream(**QUESTION) as stream:
        kinds = {event.type for event in stream}
    assert {"response.created", "response.output_item.done"} <= kinds, kinds


def a_conversation_goes_on(client):
    """previous_response_id: the conversation goes on, without its instructions."""
    first = client.responses.create(**QUESTION, instructions="Answer in one word.")
    second = client.responses.create(**{**QUESTION, "input": "And of Italy?"}, previous_response_id=first.id)
    assert second.previous_response_id == first.id and second.instructions is None, second
    items = [{"role": "user", "content": QUESTION["input"]}, *first.output, {"role": "user", "content": "And of Italy?"}]
    told = client.responses.create(**{**QUESTION, "input": items}, store=False)
    assert told.output_text == second.output_text, (told, second)


def what_is_stored_is_found(client):
    """Retrieving, listing what was asked, deleting."""
    response = client.responses.create(**QUESTION)
    assert client.responses.retrieve(response.id) == response
    assert client.responses.input_items.list(response.id).data[0].content[0].text == QUESTION["input"]
    client.responses.delete(response.id)
    for gone in [response.id, client.responses.create(**QUESTION, store=False).id]:
        try:
            client.responses.retrieve(gone)
        except openai.NotFoundError:
            pass
        else:
            raise AssertionError(f"{gone} was found")


def the_background_works(client):
    """In the background: polled to its end, and cancelled."""
    response = client.responses.create(**QUESTION, background=True)
    limit = time.monotonic() + 60
    while response.status in ("queued", "in_progress"):
        assert time.monotonic() < limit, "it never ended"
        time.sleep(0.05)
        response = client.responses.retrieve(response.id)
    assert "Paris" in response.output_text, response
    long = client.responses.create(**{**QUESTION, "max_output_tokens": 2000}, background=True, extra_body={"ignore_eos": True})
    assert client.responses.cancel(long.id).status == "cancelled"
    assert client.responses.retrieve(long.id).status == "cancelled"


def an_agent_s_request_is_read(client):
    """The shape of a coding agent's request: developer message, hosted tools, encrypted reasoning, nothing stored."""
    items = [
        {"type": "message", "role": "developer", "content": [{"type": "input_text", "text": "You are in a sandbox."}]},
        {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "<cwd>/tmp</cwd>"}]},
        {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "List the files."}]},
        {"type": "reasoning", "summary": [], "encrypted_content": "SG0u"},
        {"type": "function_call", "call_id": "call_1", "name": "get_weather", "arguments": '{"city": "Paris"}'},
        {"type": "function_call_output", "call_id": "call_1", "output": "Sunny."},
    ]
    response = client.responses.create(
        **{**QUESTION, "input": items},
        instructions="You are a coding agent.",
        tools=[WEATHER, {"type": "web_search"}],
        tool_choice="auto",
        parallel_tool_calls=False,
        reasoning={"effort": "low", "summary": "auto"},
        include=["reasoning.encrypted_content"],
        store=False,
        prompt_cache_key="a",
    )
    assert response.output and [tool.name for tool in response.tools] == ["get_weather"], response


def a_forced_tool_is_called(client):
    """A forced function call, whole and streamed, and the answer to its output."""
    ask = {**QUESTION, "max_output_tokens": 64, "tools": [WEATHER], "input": "How is the weather in Paris?"}
    for choice in [{"type": "function", "name": "get_weather"}, "required"]:
        response = client.responses.create(**ask, tool_choice=choice, parallel_tool_calls=False)
        call = response.output[-1]
        assert call.type == "function_call" and call.name == "get_weather", response
        assert isinstance(json.loads(call.arguments)["city"], str), call
        events = list(client.responses.create(**ask, tool_choice=choice, parallel_tool_calls=False, stream=True))
        deltas = "".join(event.delta for event in events if event.type == "response.function_call_arguments.delta")
        assert deltas == call.arguments, (deltas, call)
    output = {"type": "function_call_output", "call_id": call.call_id, "output": "Sunny, 25 degrees."}
    answer = client.responses.create(**{**ask, "input": [output]}, previous_response_id=response.id, tool_choice="none")
    assert answer.output_text, answer


def output_keeps_to_a_schema(client):
    """text.format: the text is JSON of the schema."""
    schema = {"type": "object", "properties": {"country": {"type": "string", "maxLength": 20}, "known": {"type": "boolean"}}, "required": ["country", "known"], "additionalProperties": False}
    form = {"type": "json_schema", "name": "country", "schema": schema, "strict": True}
    response = client.responses.create(**{**QUESTION, "max_output_tokens": 80}, text={"format": form})
    answer = json.loads(response.output_text)
    assert isinstance(answer["country"], str) and isinstance(answer["known"], bool), answer


def errors_are_the_clients(client):
    """Bad requests raise the client's own exceptions, with the parameter at fault."""
    for field, value in [("temperature", -1), ("top_p", 1.5), ("max_output_tokens", 0), ("input", []), ("truncation", "some")]:
        try:
            client.responses.create(**{**QUESTION, field: value})
        except openai.BadRequestError as error:
            assert error.param == field, error
        else:
            raise AssertionError(f"{field}={value} was accepted")


def main():
    checks = [
        a_response_is_answered,
        a_stream_adds_up,
        a_conversation_goes_on,
        what_is_stored_is_found,
        the_background_works,
        an_agent_s_request_is_read,
        a_forced_tool_is_called,
        output_keeps_to_a_schema,
        errors_are_the_clients,
    ]
    with server(sys.argv[1], "--tool-call-parser", "hermes", "--enable-logprob") as url:
        client = openai.Client(base_url=f"{url}/v1", api_key="null", max_retries=0)
        for check in checks:
            check(client)
            print("ok  ", check.__doc__)


if __name__ == "__main__":
    main()
