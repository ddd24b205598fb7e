"""Text for language models: windows of one long row of tokens.

The tokens come from a file, or from the documentation that is part of Python.
"""

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from aetheria.data.sources import DataSplits
from aetheria.errors import AetheriaError
from aetheria.plugins import register_data


class TokenSource:
    """Windows of one long row of tokens, for next-token prediction.

    Example i is made of `tokens[i * length : (i + 1) * length + 1]`: inputs i32 [length] are its
    first `length` tokens, labels i32 [length] the same shifted by one. So every token but the first
    is a label exactly once. Tokens at the end that do not fill a window are left out.

    Args:
        tokens: [num_tokens], whole numbers of at most 32 bits, in memory or memory-mapped.
        length: the number of tokens that the network sees at once.

    Attributes:
        in_memory: False for a memory-mapped file, whose reads may wait for a disk.

    Raises:
        AetheriaError: the tokens have another shape or dtype, or do not fill one window.

    >>> columns = TokenSource(np.array([7, 8, 9, 10, 11], np.uint8), length=2).read(np.array([1]))
    >>> columns["inputs"].tolist(), columns["labels"].tolist()
    ([[9, 10]], [[10, 11]])
    """

    parallel = True

    def __init__(self, tokens: np.ndarray, length: int):
        if tokens.ndim != 1 or tokens.dtype.kind not in "iu" or not _fits_i32(tokens.dtype):
            raise AetheriaError(
                "TokenSource: expected one row of whole numbers that fit int32, got "
                f"{tokens.dtype}{list(tokens.shape)}; save them as uint16 or int32"
            )
        if not 0 < length < len(tokens):
            raise AetheriaError(
                "TokenSource: expected a length above 0 and more tokens than that, got a length of "
                f"{length} and {len(tokens)} tokens; change data_params.length"
            )
        self._tokens, self._length = tokens, length
        self.in_memory = not isinstance(tokens, np.memmap)

    def __len__(self) -> int:
        return (len(self._tokens) - 1) // self._length

    def read(self, indices: np.ndarray) -> Mapping[str, np.ndarray]:
        positions = indices[:, None] * self._length + np.arange(self._length + 1)
        windows = self._tokens[positions].astype(np.int32)
        return {"inputs": windows[:, :-1], "labels": windows[:, 1:]}


@register_data("tokens")
def tokens(
    *, path: str, length: int = 128, eval_fraction: float = 0.1, dtype: str = "uint16"
) -> DataSplits:
    """A file of tokens; its last part is held out for evaluation.

    Args:
        path: a `.bin` file of raw numbers of `dtype`, a `.npy` file of a row of whole numbers, or a
            `.txt` file, whose bytes are the tokens 0 to 255. Relative to the current folder.
        length: tokens in an example.
        eval_fraction: the fraction of the examples that is held out.
        dtype: the dtype of a `.bin` file, by its NumPy name, in this machine's byte order.

    Raises:
        AetheriaError: the file does not exist, is not a file of tokens, or is too short to split.
    """
    return _split(_read_tokens(Path(path).expanduser(), dtype), length, eval_fraction)


@register_data("python_docs")
def python_docs(*, length: int = 128, eval_fraction: float = 0.1) -> DataSplits:
    """Python's language reference as bytes (tokens 0 to 255): half a megabyte of technical English.

    It is the text of `help()`, from the module `pydoc_data.topics` of the standard library. The
    topics are in the order of their names, and the last ones are held out for evaluation. The text
    differs between versions of Python.

    Args:
        length: tokens in an example.
        eval_fraction: the fraction of the examples that is held out.

    Raises:
        AetheriaError: this installation of Python lacks the module.
    """
    try:
        from pydoc_data.topics import topics
    except ImportError as error:
        raise AetheriaError(
            "data_name: expected Python's module pydoc_data for 'python_docs', got an installation "
            "without it; use data_name tokens with your own text file as data_params.path"
        ) from error
    text = "\n\n".join(topics[name] for name in sorted(topics))
    return _split(np.frombuffer(text.encode(), np.uint8), length, eval_fraction)


def _split(row: np.ndarray, length: int, eval_fraction: float) -> DataSplits:
    """Splits between two windows: the last label of one split is the first input of the other."""
    if not 0 < eval_fraction < 1:
        raise AetheriaError(
            f"data_params.eval_fraction: expected a number between 0 and 1, got {eval_fraction}; "
            "0.1 holds out a tenth"
        )
    num_windows = len(TokenSource(row, length))
    if num_windows < 2:
        raise AetheriaError(
            f"data_params.length: expected at most {(len(row) - 1) // 2}, half of the tokens there "
            f"are, got {length}; use less, so that each split has an example"
        )
    num_eval = min(max(1, round(num_windows * eval_fraction)), num_windows - 1)
    border = (num_windows - num_eval) * length
    return DataSplits(
        train=TokenSource(row[: border + 1], length), eval=TokenSource(row[border:], length)
    )


def _read_tokens(file: Path, dtype: str) -> np.ndarray:
    if not file.is_file():
        raise AetheriaError(
            f"data_params.path: expected a file of tokens, got {str(file)!r}, which is none; give "
            "a .txt, .npy or .bin file"
        )
    match file.suffix:
        case ".txt":
            return np.frombuffer(file.read_bytes(), np.uint8)
        case ".npy":
            return _read_npy(file)
        case ".bin":
            return _read_bin(file, dtype)
    raise AetheriaError(
        f"data_params.path: expected a .txt, .npy or .bin file, got {str(file)!r}; rename it to "
        "what it is"
    )


def _read_npy(file: Path) -> np.ndarray:
    try:
        return np.load(file, mmap_mode="r", allow_pickle=False)
    except (ValueError, EOFError, OSError) as error:
        raise AetheriaError(
            f"data_params.path: expected an array as numpy.save writes it, got {str(file)!r} "
            f"({error}); save it again"
        ) from error


def _read_bin(file: Path, name: str) -> np.ndarray:
    try:
        dtype = np.dtype(name)
    except TypeError as error:
        raise AetheriaError(
            f"data_params.dtype: expected a dtype of whole numbers, got {name!r}; use uint16 or "
            "int32"
        ) from error
    size = file.stat().st_size
    if not size or size % dtype.itemsize:
        raise AetheriaError(
            f"data_params.path: expected whole tokens of {dtype} ({dtype.itemsize} bytes each), "
            f"got {str(file)!r} of {size} bytes; check data_params.dtype"
        )
    return np.memmap(file, dtype, mode="r")


def _fits_i32(dtype: np.dtype) -> bool:
    return np.can_cast(dtype, np.int32)
