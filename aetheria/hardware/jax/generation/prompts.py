"""Prompts as token ids, and token ids as what a prompt was: text, or an array.

A model of 256 tokens reads text as its bytes, as the datasets `tokens` (of a .txt file) and
`python_docs` give them. Any other model takes token ids.
"""

import codecs
from collections.abc import Sequence
from typing import Any

import numpy as np

from aetheria.errors import AetheriaError, shown

_BYTES = 256


class Vocabulary:
    """The tokens 0 to `size` - 1 of a model.

    Args:
        size: how many there are.
    """

    def __init__(self, size: int):
        self._size = size

    def read(self, given: Any, where: str) -> np.ndarray:
        """Makes token ids i32 [length] of a text or of token ids.

        Raises:
            AetheriaError: it is neither, it is empty, or the model has no such tokens.
        """
        ids = self._bytes(given, where) if isinstance(given, str) else _as_ids(given, where)
        if not len(ids):
            raise AetheriaError(f"{where}: expected at least one token, got none; give some text")
        if ids.min() < 0 or ids.max() >= self._size:
            wrong = ids[(ids < 0) | (ids >= self._size)][0]
            raise AetheriaError(
                f"{where}: expected tokens from 0 to {self._size - 1}, got {wrong}; give those "
                "that the model was trained on"
            )
        return ids.astype(np.int32)

    def read_stops(self, stop: Any) -> list[np.ndarray]:
        """Makes token ids of what ends a text: one text, one token, or a list of texts, tokens and
        rows of tokens.
        """
        each = [] if stop is None else stop
        if isinstance(each, str) or np.ndim(each) == 0:
            each = [each]
        return [
            self.read([one] if np.ndim(one) == 0 and _is_id(one) else one, "stop") for one in each
        ]

    def _bytes(self, text: str, where: str) -> np.ndarray:
        if self._size != _BYTES:
            raise AetheriaError(
                f"{where}: expected token ids, since the model has {self._size} tokens and not the "
                f"{_BYTES} of bytes, got a text; give Predictor.generate the ids "
                "that your tokenizer makes"
            )
        try:  # bytes of a file or a command line that are no UTF-8 arrive as surrogates
            return np.frombuffer(text.encode("utf-8", "surrogateescape"), np.uint8)
        except UnicodeEncodeError as error:
            raise AetheriaError(
                f"{where}: expected text, got {shown(text[error.start])}, half of a character; "
                "remove it"
            ) from error


class Writer:
    """Turns tokens into what the prompt was, piece by piece.

    Args:
        like: the prompt.
    """

    def __init__(self, like: Any):
        # A character may end in the next piece.
        is_text = isinstance(like, str)
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace") if is_text else None

    def write(self, tokens: Sequence[int], *, last: bool) -> Any:
        """Returns text, bytes that are no UTF-8 replaced by U+FFFD, or i32 [num_tokens]."""
        if self._decoder is None:
            return np.array(tokens, np.int32)
        return self._decoder.decode(bytes(tokens), last)


def is_batch(prompt: Any) -> bool:
    """Whether a prompt is a list of prompts.

    >>> is_batch(["a", "b"]), is_batch([[1, 2]]), is_batch([1, 2]), is_batch("ab")
    (True, True, False, False)
    """
    return isinstance(prompt, list | tuple) and not (prompt and all(map(_is_id, prompt)))


def _is_id(value: object) -> bool:
    return isinstance(value, int | np.integer) and not isinstance(value, bool)


def _as_ids(given: Any, where: str) -> np.ndarray:
    try:
        ids = np.asarray(given)
    except ValueError:
        ids = np.zeros((), object)
    if ids.ndim == 1 and not ids.size:
        return np.zeros(0, np.int64)
    if ids.ndim != 1 or ids.dtype.kind not in "iu":
        got = f"{ids.dtype}{list(ids.shape)}" if ids.dtype.kind in "iufb" else shown(given)
        raise AetheriaError(
            f"{where}: expected a text or token ids, whole numbers [length], got {got}; give "
            "several prompts as a list"
        )
    return ids
