"""Generates from prompts of any number and length with one model."""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import jax

from aetheria.errors import AetheriaError, shown
from aetheria.hardware.jax.generation.program import NUM_ROWS, DecodeProgram
from aetheria.hardware.jax.generation.prompts import Vocabulary, Writer, is_batch
from aetheria.hardware.jax.generation.rows import Row, Sizes, run_rows
from aetheria.hardware.jax.generation.sampling import Sampling
from aetheria.hardware.layout.leaves import Weights

_MAX_SEED = 2**32 - 1
_STREAMED = 8  # tokens in a piece


class Request(NamedTuple):
    """What is asked for beside the prompt.

    Attributes:
        max_new_tokens: the most tokens to draw after a prompt.
        sampling: how to draw.
        seed: of the draws: one for all prompts, or one for each.
        stop: what ends a text, see `Vocabulary.read_stops`.
    """

    max_new_tokens: int
    sampling: Sampling
    seed: int | Sequence[int] = 0
    stop: Any = None


class Generator:
    """Generates with one program, from any number of threads.

    Args:
        program: the compiled functions of a language model.
    """

    def __init__(self, program: DecodeProgram):
        self._program, self._vocabulary = program, Vocabulary(program.vocab_size)

    def generate(self, weights: Weights, prompt: Any, request: Request) -> Any:
        """Returns what follows a prompt, as text or token ids, or a list for a list of prompts.

        Raises:
            AetheriaError: a prompt or an option is not valid, or logits are not finite.
        """
        batched = is_batch(prompt)
        prompts = list(prompt) if batched else [prompt]
        rows, weights = self._rows(prompts, request), _on_one_device(weights)
        for sizes, group in self._groups(rows).items():
            for first in range(0, len(group), NUM_ROWS):
                piece = group[first : first + NUM_ROWS]
                for _ in run_rows(self._program, weights, piece, sizes, request.sampling):
                    pass
        made = [
            Writer(prompt).write(row.drawn[: row.end], last=True)
            for prompt, row in zip(prompts, rows, strict=True)
        ]
        return made if batched else made[0]

    def stream(self, weights: Weights, prompt: Any, request: Request) -> Iterator[Any]:
        """Returns the same in pieces, each as soon as it is drawn, for one prompt.

        Raises:
            AetheriaError: as `generate`, at once for the prompt and the options.
        """
        if is_batch(prompt):
            raise AetheriaError(
                f"stream: expected one prompt, got a list of {len(prompt)}; stream one at a time"
            )
        (row,) = self._rows([prompt], request)
        return self._pieces(_on_one_device(weights), row, Writer(prompt), request.sampling)

    def _pieces(
        self, weights: Weights, row: Row, writer: Writer, sampling: Sampling
    ) -> Iterator[Any]:
        sizes, written = row.sizes(self._program.length), 0
        for _ in run_rows(self._program, weights, [row], sizes, sampling, _STREAMED):
            safe = row.safe
            piece = writer.write(row.drawn[written:safe], last=row.end is not None)
            written = safe
            if len(piece):
                yield piece

    def _rows(self, prompts: Sequence[Any], request: Request) -> list[Row]:
        limit = request.max_new_tokens
        if type(limit) is not int or limit < 1:
            raise AetheriaError(
                f"max_new_tokens: expected a whole number of 1 or more, got {shown(limit)}; use 100"
            )
        stops, read = self._vocabulary.read_stops(request.stop), self._vocabulary.read
        names = ["prompt"] if len(prompts) == 1 else [f"prompt {n}" for n in range(len(prompts))]
        seeds = _seeds(request.seed, len(prompts))
        return [
            Row(read(prompt, name), seed, limit, stops)
            for prompt, name, seed in zip(prompts, names, seeds, strict=True)
        ]

    def _groups(self, rows: Sequence[Row]) -> dict[Sizes, list[Row]]:
        """Rows by what is compiled for them, so that none depends on the length of another."""
        groups: dict[Sizes, list[Row]] = {}
        for row in rows:
            groups.setdefault(row.sizes(self._program.length), []).append(row)
        return groups


def _on_one_device(weights: Weights) -> Weights:
    """The copy of the first device, where every device of `data_parallel` holds the weights."""
    return jax.tree.map(lambda leaf: leaf.addressable_data(0), weights)


def _seeds(seed: int | Sequence[int], count: int) -> list[int]:
    seeds = list(seed) if isinstance(seed, Sequence) else [seed] * count
    if len(seeds) != count:
        raise AetheriaError(
            f"seed: expected one, or {count} for as many prompts, got {len(seeds)}; give as many"
        )
    for each in seeds:
        if type(each) is not int or not 0 <= each <= _MAX_SEED:
            raise AetheriaError(
                f"seed: expected a whole number from 0 to {_MAX_SEED}, got {shown(each)}; use 0"
            )
    return seeds
