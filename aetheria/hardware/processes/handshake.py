"""What two processes say to each other to prove that they are of one run. Pure: no socket.

A message is one line of JSON, at most `MAX_BYTES` long. The token itself is never sent: each side
proves that it knows it by a keyed digest (HMAC-SHA256) of what the other side has just made up, so
a recorded conversation is worth nothing.

    process 0     {"challenge": C}
    process i     {"process": i, "processes": n, "challenge": D, "proof": digest of i, n, C, D}
    process 0     {"missing": [...], "num_missing": m, "proof": digest of these and C, D}
                  or {"refused": why}
"""

import hashlib
import hmac
import json
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

MAX_BYTES = 4096
_NUM_NAMED = 32
_VERSION = "aetheria-meeting-1"
_CHALLENGE_CHARS = 64


class Stranger(ValueError):
    """What was heard is not what a process of this run says."""


@dataclass(frozen=True)
class Hello:
    """A process's introduction, its proof not yet checked."""

    index: int
    count: int
    challenge: str
    proof: str


def new_challenge() -> str:
    """Something that nobody has signed before."""
    return secrets.token_hex(16)


def encode(message: dict[str, Any]) -> bytes:
    """A message as it is sent."""
    return json.dumps(message).encode() + b"\n"


def decode(line: bytes) -> dict[str, Any]:
    """A line as a message; raises Stranger if it is none."""
    try:
        message = json.loads(line)
    except (ValueError, RecursionError):
        raise Stranger("what it sent is no JSON") from None
    if not isinstance(message, dict):
        raise Stranger("what it sent is no message")
    return message


def make_hello(index: int, count: int, token: str, challenge: str) -> tuple[dict[str, Any], str]:
    """A process's introduction, and the challenge in it."""
    mine = new_challenge()
    proof = _digest(token, "process", index, count, challenge, mine)
    return {"process": index, "processes": count, "challenge": mine, "proof": proof}, mine


def read_hello(message: dict[str, Any]) -> Hello:
    """The introduction in a message; raises Stranger if its shape is another."""
    index, count = message.get("process"), message.get("processes")
    challenge, proof = message.get("challenge"), message.get("proof")
    if type(index) is not int or type(count) is not int:
        raise Stranger("what it sent has no process number")
    return Hello(index, count, _checked_text(challenge), _checked_text(proof))


def is_proven(hello: Hello, token: str, challenge: str) -> bool:
    """Whether who sent it knows the token."""
    expected = _digest(token, "process", hello.index, hello.count, challenge, hello.challenge)
    return hmac.compare_digest(expected, hello.proof)


def make_verdict(missing: Sequence[int], token: str, challenge: str, theirs: str) -> dict[str, Any]:
    """Who did not come: the first of them by number, and how many."""
    named, total = list(missing[:_NUM_NAMED]), len(missing)
    proof = _digest(token, "coordinator", named, total, challenge, theirs)
    return {"missing": named, "num_missing": total, "proof": proof}


def read_verdict(
    message: dict[str, Any], token: str, challenge: str, mine: str
) -> tuple[list[int], int]:
    """Who did not come, and how many; raises Stranger if process 0 of this run did not say it."""
    named, total = message.get("missing"), message.get("num_missing")
    if not isinstance(named, list) or type(total) is not int:
        raise Stranger("what it sent is no verdict")
    expected = _digest(token, "coordinator", named, total, challenge, mine)
    if not hmac.compare_digest(expected, _checked_text(message.get("proof"))):
        raise Stranger("it does not know the token")
    return named, total


def read_challenge(message: dict[str, Any]) -> str:
    """What process 0 wants signed; raises Stranger if there is nothing."""
    return _checked_text(message.get("challenge"))


def _checked_text(value: object) -> str:
    if not isinstance(value, str) or not value.isascii() or len(value) > _CHALLENGE_CHARS:
        raise Stranger("what it sent has another shape")
    return value


def _digest(token: str, *parts: object) -> str:
    key = token.encode("utf-8", "surrogateescape")
    text = json.dumps([_VERSION, *parts]).encode()
    return hmac.new(key, text, hashlib.sha256).hexdigest()
