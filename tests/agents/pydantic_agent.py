"""Agent made with Pydantic AI, as its users write one: it does what the prompt asks for, with a tool that writes files."""

import sys

from pydantic_ai import Agent

agent = Agent("openai-chat:gpt-5.4-mini")


@agent.tool_plain
def write_file(path: str, content: str) -> str:
    """Write a file."""
    with open(path, "w", encoding="utf-8") as file:
        file.write(content)
    return "written"


print(agent.run_sync(sys.argv[1]).output)
