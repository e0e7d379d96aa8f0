"""Calls by the official Python SDKs, unmodified, from inside of a workspace. The environment names the bridge; keys are placeholders."""

import sys

import anthropic
import openai
from google import genai
from google.genai import types

TOOL_ARGUMENTS = {"path": "/home/developer/made-by-tool", "content": "made\n"}
SCHEMA = {"type": "object", "properties": {"path": {"type": "string"}, "content": {"type": "string"}}}
WHOLE = "Hello w1 w2 w3 w4 w5 w6 w7"


def with_anthropic():
    client = anthropic.Anthropic()
    asked = {"model": "claude-haiku-4-5", "max_tokens": 1000}
    hello = [{"role": "user", "content": "hello"}]
    message = client.messages.create(messages=hello, **asked)
    assert message.content[0].text == WHOLE, message
    with client.messages.stream(messages=hello, **asked) as stream:
        assert "".join(stream.text_stream) == WHOLE
        assert stream.get_final_message().usage.output_tokens == 8
    tools = [{"name": "write", "description": "Writes.", "input_schema": SCHEMA}]
    turn = [{"role": "user", "content": "[tool][think]"}]
    message = client.messages.create(messages=turn, tools=tools, **asked)
    call = message.content[-1]
    assert (call.type, call.input) == ("tool_use", TOOL_ARGUMENTS), message
    # The answer goes back as the SDK has it, thinking and signature included.
    turn += [
        {"role": "assistant", "content": message.content},
        {"role": "user", "content": [{"type": "tool_result", "tool_use_id": call.id, "content": "done"}]},
    ]
    message = client.messages.create(messages=turn, tools=tools, **asked)
    assert message.content, message
    assert client.messages.count_tokens(model=asked["model"], messages=hello).input_tokens > 0
    assert any(model.id == asked["model"] for model in client.models.list())
    try:
        client.messages.create(messages=hello, container="c", **asked)
    except anthropic.BadRequestError as error:
        assert "container" in str(error)
    else:
        raise AssertionError("a container passes")


def with_openai():
    client = openai.OpenAI()
    hello = [{"role": "user", "content": "hello"}]
    chat = client.chat.completions.create(model="gpt-5-mini", messages=hello)
    assert chat.choices[0].message.content == WHOLE, chat
    chunks = list(client.chat.completions.create(model="gpt-5-mini", messages=hello, stream=True))
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == WHOLE
    usage = {"include_usage": True}
    chunks = list(client.chat.completions.create(model="gpt-5-mini", messages=hello, stream=True, stream_options=usage))
    assert chunks[-1].usage.completion_tokens == 8, chunks[-1]
    function = {"name": "write", "description": "Writes.", "parameters": SCHEMA}
    turn = [{"role": "user", "content": "[tool]"}]
    tools = [{"type": "function", "function": function}]
    message = client.chat.completions.create(model="gpt-5-mini", messages=turn, tools=tools).choices[0].message
    assert message.tool_calls[0].function.name == "write", message
    turn += [message, {"role": "tool", "tool_call_id": message.tool_calls[0].id, "content": "done"}]
    assert client.chat.completions.create(model="gpt-5-mini", messages=turn, tools=tools).choices
    response = client.responses.create(model="gpt-5-mini", input="hello")
    assert response.output_text == WHOLE, response
    events = list(client.responses.create(model="gpt-5-mini", input="hello", stream=True))
    assert events[-1].type == "response.completed", events[-1]
    tools = [{"type": "function", "strict": False, **function}]
    response = client.responses.create(model="gpt-5-mini", input="[tool]", tools=tools)
    call = response.output[-1]
    assert (call.type, call.name) == ("function_call", "write"), response
    turn = [{"role": "user", "content": "[tool]"}, *response.output]
    turn.append({"type": "function_call_output", "call_id": call.call_id, "output": "done"})
    assert client.responses.create(model="gpt-5-mini", input=turn, tools=tools).output
    assert client.embeddings.create(model="text-embedding-3-small", input="a", encoding_format="float").data[0].embedding
    try:
        client.responses.create(model="gpt-5-mini", input="a", previous_response_id="resp_1")
    except openai.BadRequestError as error:
        assert "previous_response_id" in str(error)
    else:
        raise AssertionError("an object of the provider's is named")


def with_google():
    client = genai.Client()
    model = "gemini-2.5-flash"
    assert client.models.generate_content(model=model, contents="hello").text == WHOLE
    chunks = client.models.generate_content_stream(model=model, contents="hello")
    assert "".join(chunk.text or "" for chunk in chunks) == WHOLE
    declaration = {"name": "write", "description": "Writes.", "parameters_json_schema": SCHEMA}
    tool = types.Tool(function_declarations=[declaration])
    config = types.GenerateContentConfig(tools=[tool], max_output_tokens=500)
    answer = client.models.generate_content(model=model, contents="[tool]", config=config)
    assert answer.function_calls[0].args == TOOL_ARGUMENTS, answer
    turn = [
        types.Content(role="user", parts=[types.Part(text="[tool]")]),
        answer.candidates[0].content,
        types.Content(role="user", parts=[types.Part.from_function_response(name="write", response={"result": "done"})]),
    ]
    assert client.models.generate_content(model=model, contents=turn, config=config).candidates
    assert client.models.count_tokens(model=model, contents="hello").total_tokens > 0


for work in (with_anthropic, with_openai, with_google):
    work()
    print(work.__name__, anthropic.__version__, openai.__version__, genai.__version__, file=sys.stderr)
print("ok")
