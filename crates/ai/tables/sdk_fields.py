"""Request types of the official Python SDKs, as JSON on standard output.

Usage: sdk_fields.py anthropic|openai-chat|openai-responses|openai-embeddings|google

The output is {type: {field: {"required": bool, "is": [alternative]}}}. An alternative is `string`, `number`, `bool`, `null`, `any`,
`'literal'`, a type's name, or one of these with `[]` (list) or `{}` (map) behind it. The first type is the request.
"""

import collections.abc
import json
import sys
import types
import typing

import typing_extensions

ENTRIES = {
    "anthropic": "anthropic.types.beta.message_create_params:MessageCreateParamsBase",
    "anthropic-count": "anthropic.types.beta.message_count_tokens_params:MessageCountTokensParams",
    "openai-chat": "openai.types.chat.completion_create_params:CompletionCreateParamsBase",
    "openai-responses": "openai.types.responses.response_create_params:ResponseCreateParamsBase",
    "openai-embeddings": "openai.types.embedding_create_params:EmbeddingCreateParams",
    "google": "google.genai.types:GenerateContentConfigDict",
    "google-contents": "google.genai.types:ContentDict",
}
# Names of HTTP headers that the SDK's function takes among the fields.
NOT_IN_BODY = {"betas", "workspace_id", "user_profile_id"}


def is_typed_dict(t):
    return typing_extensions.is_typeddict(t) or typing.is_typeddict(t)


def is_required(t, hint):
    # Not `__required_keys__`, which annotations that are text do not reach.
    origin = typing.get_origin(hint)
    if origin in (typing_extensions.Required, typing_extensions.NotRequired):
        return origin is typing_extensions.Required
    return t.__total__


class Dump:
    def __init__(self):
        self.types = {}
        self.names = {}

    def name(self, t):
        if t not in self.names:
            name = t.__name__.removeprefix("Beta")
            taken = set(self.names.values())
            while name in taken:
                name += "_"
            self.names[t] = name
            self.types[name] = {}
            hints = typing_extensions.get_type_hints(t, include_extras=True)
            self.types[name] = {
                field: {"required": is_required(t, hint), "is": sorted(set(self.alternatives(hint)))}
                for field, hint in hints.items()
                if field not in NOT_IN_BODY
            }
        return self.names[t]

    def alternatives(self, t):
        origin, arguments = typing.get_origin(t), typing.get_args(t)
        if t is typing.Any or t is object:
            return ["any"]
        if t is None or t is type(None):
            return ["null"]
        if isinstance(t, typing.TypeVar) or isinstance(t, (str, typing.ForwardRef)):
            return ["any"]
        if origin in (typing_extensions.Required, typing_extensions.NotRequired, typing.Annotated):
            return self.alternatives(arguments[0])
        if origin in (typing.Union, types.UnionType):
            return [a for part in arguments for a in self.alternatives(part)]
        if origin in (typing.Literal, typing_extensions.Literal):
            return [f"'{a}'" if isinstance(a, str) else json.dumps(a) for a in arguments]
        if is_typed_dict(t):
            return [self.name(t)]
        if isinstance(t, type) and issubclass(t, str):
            return ["string"]
        if t is bool:
            return ["bool"]
        if t in (int, float):
            return ["number"]
        if origin in (list, collections.abc.Iterable, collections.abc.Sequence, set, tuple):
            return [a + "[]" for a in self.alternatives(arguments[0])]
        if origin in (dict, collections.abc.Mapping):
            return [a + "{}" for a in self.alternatives(arguments[1])]
        if t is dict:
            return ["any"]
        if isinstance(t, type):
            return ["string"] if t.__name__ in ("bytes", "datetime", "Base64FileInput", "PathLike") else ["any"]
        return ["any"]


def main():
    module, _, name = ENTRIES[sys.argv[1]].partition(":")
    entry = getattr(__import__(module, fromlist=[name]), name)
    dump = Dump()
    dump.name(entry)
    json.dump(dump.types, sys.stdout, indent=1)


main()
