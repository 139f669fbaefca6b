"""The official Anthropic client against the real binary: chats, streams, tools, counting, errors.

    python tests/clients/anthropic_client.py target/debug/shardwire

Starts the server itself (the default model) and ends with exit code 0 if everything held.
"""

import sys

import anthropic
from serving import server

QUESTION = dict(model="default", max_tokens=24, extra_body={"temperature": 0}, messages=[{"role": "user", "content": "What is the capital of France?"}])
WEATHER = {
    "name": "get_weather",
    "description": "The weather of a city.",
    "input_schema": {"type": "object", "properties": {"city": {"type": "string", "maxLength": 20}}, "required": ["city"], "additionalProperties": False},
}


def a_message_is_answered(client):
    """A plain message."""
    message = client.messages.create(**QUESTION)
    assert message.type == "message" and message.role == "assistant" and message.id.startswith("msg_"), message
    assert "Paris" in message.content[0].text, message
    assert message.stop_reason in ("end_turn", "max_tokens"), message
    assert message._request_id, "the request has a name"


def a_stream_adds_up(client):
    """The events of a stream add up to the whole message."""
    whole = client.messages.create(**QUESTION)
    with client.messages.stream(**QUESTION) as stream:
        text = "".join(stream.text_stream)
        final = stream.get_final_message()
    assert text == whole.content[0].text == final.content[0].text, (text, whole, final)
    assert final.stop_reason == whole.stop_reason and final.usage.output_tokens == whole.usage.output_tokens, final


def a_system_prompt_in_blocks_is_read(client):
    """A system prompt as blocks with cache_control, as coding agents send it; the second time it is cached."""
    system = [{"type": "text", "text": "You are a helpful assistant. " * 40, "cache_control": {"type": "ephemeral"}}]
    first, second = (client.messages.create(**QUESTION, system=system, metadata={"user_id": "u"}) for _ in range(2))
    total = first.usage.input_tokens + first.usage.cache_read_input_tokens
    assert second.usage.cache_read_input_tokens > 100, second.usage
    assert second.usage.input_tokens + second.usage.cache_read_input_tokens == total, second.usage
    assert first.content == second.content, (first, second)


def tokens_are_counted_beforehand(client):
    """Counted tokens are used tokens."""
    for further in [{}, {"system": "Be brief."}, {"tools": [WEATHER]}]:
        counted = client.messages.count_tokens(model=QUESTION["model"], messages=QUESTION["messages"], **further)
        usage = client.messages.create(**QUESTION, **further).usage
        assert counted.input_tokens == usage.input_tokens + usage.cache_read_input_tokens, (further, counted, usage)


def a_stop_sequence_is_named(client):
    """The stop sequence that ended the message is named."""
    message = client.messages.create(**QUESTION, stop_sequences=["Paris", "Nowhere"])
    assert (message.stop_reason, message.stop_sequence) == ("stop_sequence", "Paris"), message
    assert "Paris" not in message.content[0].text, message


def the_beginning_of_an_answer_is_continued(client):
    """An assistant's text at the end is continued."""
    messages = [*QUESTION["messages"], {"role": "assistant", "content": "The capital of France is"}]
    message = client.messages.create(**{**QUESTION, "messages": messages})
    assert message.content[0].text.lstrip().startswith("Paris"), message


def a_forced_tool_is_called(client):
    """A forced tool call, whole and streamed, and the answer to its result."""
    ask = {**QUESTION, "max_tokens": 64, "tools": [WEATHER], "messages": [{"role": "user", "content": "How is the weather in Paris?"}]}
    for choice in [{"type": "tool", "name": "get_weather"}, {"type": "any", "disable_parallel_tool_use": True}]:
        message = client.messages.create(**ask, tool_choice=choice)
        call = message.content[-1]
        assert message.stop_reason == "tool_use" and call.type == "tool_use" and call.name == "get_weather", message
        assert isinstance(call.input["city"], str), message
        with client.messages.stream(**ask, tool_choice=choice) as stream:
            final = stream.get_final_message()
        assert final.content[-1].input == call.input and final.stop_reason == "tool_use", (final, message)
    result = {"type": "tool_result", "tool_use_id": call.id, "content": [{"type": "text", "text": "Sunny, 25 degrees."}]}
    turns = [{"role": "assistant", "content": message.content}, {"role": "user", "content": [result]}]
    answer = client.messages.create(**{**ask, "messages": [*ask["messages"], *turns]})
    assert answer.content and answer.usage.output_tokens > 0, answer


def output_keeps_to_a_schema(client):
    """output_config.format: the text is JSON of the schema."""
    import json

    schema = {"type": "object", "properties": {"country": {"type": "string", "maxLength": 20}, "known": {"type": "boolean"}}, "required": ["country", "known"], "additionalProperties": False}
    message = client.messages.create(**{**QUESTION, "max_tokens": 80}, output_config={"format": {"type": "json_schema", "schema": schema}})
    answer = json.loads(message.content[0].text)
    assert isinstance(answer["country"], str) and isinstance(answer["known"], bool), answer


def errors_are_the_clients(client):
    """Bad requests raise the client's own exceptions, with Anthropic's words."""
    for fields in [{"extra_body": {"temperature": -1}}, {"extra_body": {"top_p": 2}}, {"max_tokens": 0}, {"messages": []}, {"tools": [{"type": "web_search_20250305", "name": "web_search"}]}]:
        try:
            client.messages.create(**{**QUESTION, **fields})
        except anthropic.BadRequestError as error:
            assert error.body["error"]["type"] == "invalid_request_error" and error.body["request_id"], error.body
        else:
            raise AssertionError(f"{fields} was accepted")


def a_key_is_wanted(url):
    """Without the key: an authentication error; with it, as x-api-key: an answer."""
    try:
        anthropic.Anthropic(base_url=url, api_key="wrong", max_retries=0).messages.create(**QUESTION)
    except anthropic.AuthenticationError as error:
        assert error.body["error"]["type"] == "authentication_error", error.body
    else:
        raise AssertionError("a wrong key was accepted")
    assert anthropic.Anthropic(base_url=url, api_key="secret").messages.create(**QUESTION).content


def main():
    checks = [
        a_message_is_answered,
        a_stream_adds_up,
        a_system_prompt_in_blocks_is_read,
        tokens_are_counted_beforehand,
        a_stop_sequence_is_named,
        the_beginning_of_an_answer_is_continued,
        a_forced_tool_is_called,
        output_keeps_to_a_schema,
        errors_are_the_clients,
    ]
    with server(sys.argv[1], "--tool-call-parser", "hermes") as url:
        client = anthropic.Anthropic(base_url=url, api_key="null", max_retries=0)
        for check in checks:
            check(client)
            print("ok  ", check.__doc__)
    with server(sys.argv[1], "--api-key", "secret") as url:
        a_key_is_wanted(url)
        print("ok  ", a_key_is_wanted.__doc__)


if __name__ == "__main__":
    main()
