"""The messages by which two processes prove to each other that they belong to one run.

A message is one line of JSON, at most `MAX_BYTES` long. The token itself is never sent: each side
proves that it knows the token by a keyed digest (HMAC-SHA256) of a random challenge from the other
side, so a recorded exchange is useless. This file opens no socket.

    process 0     {"challenge": C}
    process i     {"process": i, "processes": n, "challenge": D, "proof": digest of i, n, C, D}
    process 0     {"missing": [...], "num_missing": m, "proof": digest of these and C, D}
                  or {"refused": reason}
"""

import hashlib
import hmac
import json
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from aetheria.config.json_types import JsonObject

MAX_BYTES = 4096
_MAX_NAMED = 32  # missing processes that a verdict names, so that it fits a message
_VERSION = "aetheria-meeting-1"
_CHALLENGE_CHARS = 64


class HandshakeError(ValueError):
    """A message that a process of this run would not send."""


@dataclass(frozen=True)
class Hello:
    """The introduction of a process; its proof is not checked yet."""

    index: int
    count: int
    challenge: str
    proof: str


def new_challenge() -> str:
    """A random text to digest."""
    return secrets.token_hex(16)


def encode(message: JsonObject) -> bytes:
    """A message as the bytes that are sent."""
    return json.dumps(message).encode() + b"\n"


def decode(line: bytes) -> dict[str, Any]:
    """Reads a message; raises HandshakeError if the line is not one."""
    try:
        message = json.loads(line)
    except (ValueError, RecursionError):
        raise HandshakeError("what it sent is not JSON") from None
    if not isinstance(message, dict):
        raise HandshakeError("what it sent is not a message")
    return message


def make_hello(index: int, count: int, token: str, challenge: str) -> tuple[dict[str, Any], str]:
    """Makes the introduction of a process, and returns its challenge too."""
    mine = new_challenge()
    proof = _digest(token, "process", index, count, challenge, mine)
    return {"process": index, "processes": count, "challenge": mine, "proof": proof}, mine


def read_hello(message: JsonObject) -> Hello:
    """Reads an introduction; raises HandshakeError if the message is not one."""
    index, count = message.get("process"), message.get("processes")
    challenge, proof = message.get("challenge"), message.get("proof")
    if type(index) is not int or type(count) is not int:
        raise HandshakeError("what it sent has no process number")
    return Hello(index, count, _checked_text(challenge), _checked_text(proof))


def is_proven(hello: Hello, token: str, challenge: str) -> bool:
    """Whether the sender of an introduction knows the token."""
    expected = _digest(token, "process", hello.index, hello.count, challenge, hello.challenge)
    return hmac.compare_digest(expected, hello.proof)


def make_verdict(missing: Sequence[int], token: str, challenge: str, theirs: str) -> dict[str, Any]:
    """Makes the last message: how many processes are missing, and the numbers of the first ones."""
    named, total = list(missing[:_MAX_NAMED]), len(missing)
    proof = _digest(token, "coordinator", named, total, challenge, theirs)
    return {"missing": named, "num_missing": total, "proof": proof}


def read_verdict(
    message: JsonObject, token: str, challenge: str, mine: str
) -> tuple[list[int], int]:
    """The numbers of missing processes, and how many there are.

    Raises:
        HandshakeError: the message is not a verdict, or process 0 of this run did not send it.
    """
    named, total = message.get("missing"), message.get("num_missing")
    if not isinstance(named, list) or type(total) is not int:
        raise HandshakeError("what it sent is not a verdict")
    expected = _digest(token, "coordinator", named, total, challenge, mine)
    if not hmac.compare_digest(expected, _checked_text(message.get("proof"))):
        raise HandshakeError("it does not know the token")
    return named, total


def read_challenge(message: JsonObject) -> str:
    """The challenge of process 0; raises HandshakeError if the message has none."""
    return _checked_text(message.get("challenge"))


def _checked_text(value: object) -> str:
    if not isinstance(value, str) or not value.isascii() or len(value) > _CHALLENGE_CHARS:
        raise HandshakeError("what it sent has another shape")
    return value


def _digest(token: str, *parts: object) -> str:
    key = token.encode("utf-8", "surrogateescape")
    text = json.dumps([_VERSION, *parts]).encode()
    return hmac.new(key, text, hashlib.sha256).hexdigest()
