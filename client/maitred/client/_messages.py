"""What was said in a turn, for `record_turn`."""

from __future__ import annotations

from maitred.v1.conversation_pb2 import NewMessage
from maitred.v1.state_pb2 import MessageRole


def user(text: str, *, name: str = "") -> NewMessage:
    """A message of the guest."""
    return NewMessage(role=MessageRole.MESSAGE_ROLE_USER, text=text, name=name)


def assistant(text: str, *, name: str = "") -> NewMessage:
    """A message of the agent."""
    return NewMessage(role=MessageRole.MESSAGE_ROLE_ASSISTANT, text=text, name=name)


def tool(name: str, text: str) -> NewMessage:
    """The result of a tool."""
    return NewMessage(role=MessageRole.MESSAGE_ROLE_TOOL, text=text, name=name)


def system(text: str) -> NewMessage:
    """An instruction to the model."""
    return NewMessage(role=MessageRole.MESSAGE_ROLE_SYSTEM, text=text)


def staff(text: str, *, name: str = "") -> NewMessage:
    """A message of a member of staff."""
    return NewMessage(role=MessageRole.MESSAGE_ROLE_STAFF, text=text, name=name)
