"""`aetheria generate RUN`: what a trained language model writes after a prompt."""

import math
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import aetheria
from aetheria.cli import values
from aetheria.cli.fields import ModelFields
from aetheria.cli.flag import Argument, Flag, Repeated
from aetheria.errors import AetheriaError, ExitCode, shown

_STDIN = Path("-")
_MAX_SEED = 2**32 - 1


def _number(text: str) -> float:
    """Reads a finite number; which ones are valid is checked where tokens are drawn."""
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise ValueError(f"expected a number, got {shown(text)}")
    return number


def _file_or_stdin(text: str) -> Path:
    if text.startswith("--"):
        raise ValueError("expected a value, got none")
    return values.local_path(text)


@dataclass(frozen=True, kw_only=True)
class GenerateCommand(ModelFields):
    """Prints what a language model writes after a prompt.

    Examples:
        aetheria generate runs/lm/1 --prompt "The for statement"
        aetheria generate runs/lm/1@best --prompt-file start.txt --temperature 0.7 --top-p 0.9

    Exit codes:
        0: generated
        2: a mistake

    Attributes:
        snapshot: a snapshot, or a run folder.
        prompt: the text to continue; it is not printed again.
        prompt_file: a file with the text to continue; -: standard input.
        max_new_tokens: the most tokens to generate; of a model of bytes, a token is a byte.
        temperature: divides the logits; 0 takes the most probable token.
        top_k: draw from the K most probable tokens.
        top_p: draw from the fewest tokens that have the probability P together.
        stop: end before this text; may be repeated.
        seed: of the draws; sample i has the seed S + i - 1.
        num_samples: how many texts to generate.
        stream: print each piece as soon as it is drawn; samples come one after another.
        project: the folder that contains your models/ (default: the current folder).
    """

    snapshot: Annotated[str, Argument()]
    prompt: Annotated[str | None, Flag(metavar="TEXT")] = None
    prompt_file: Annotated[Path | None, Flag(_file_or_stdin, "FILE|-", takes_dash=True)] = None
    max_new_tokens: Annotated[int, Flag(values.positive("a number"), "N")] = 200
    temperature: Annotated[float, Flag(_number, "T")] = 1.0
    top_k: Annotated[int | None, Flag(values.positive("a number"), "K")] = None
    top_p: Annotated[float | None, Flag(_number, "P")] = None
    stop: Annotated[tuple[str, ...], Repeated(metavar="TEXT")] = ()
    seed: Annotated[int, Flag(values.whole(0, _MAX_SEED), "S")] = 0
    num_samples: Annotated[int, Flag(values.positive("a number"), "N")] = 1
    stream: bool = False

    def execute(self) -> int:
        """Prints the texts. Raises AetheriaError if the run has no language model."""
        prompt = self._read_prompt()
        predictor = aetheria.Predictor(
            self.model, checkpoint_path=self.snapshot, project=self.project
        )
        for index, pieces in enumerate(self._samples(predictor.generate, prompt)):
            if self.num_samples > 1:
                print(f"--- sample {index + 1}, seed {self.seed + index}")
            for piece in pieces:
                print(piece, end="", flush=True)
            print()
        return int(ExitCode.OK)

    def _samples(self, generate: Any, prompt: str) -> Iterator[Iterator[str]]:
        """The pieces of each sample."""
        seeds = [self.seed + index for index in range(self.num_samples)]
        options = {
            "max_new_tokens": self.max_new_tokens,
            "temperature": self.temperature,
            "top_k": self.top_k,
            "top_p": self.top_p,
            "stop": [*self.stop],
        }
        if self.stream:
            for seed in seeds:
                yield generate(prompt, seed=seed, stream=True, **options)
            return
        for text in generate([prompt] * len(seeds), seed=seeds, **options):
            yield iter([text])

    def _read_prompt(self) -> str:
        if (self.prompt is None) == (self.prompt_file is None):
            got = "none" if self.prompt is None else "both"
            raise AetheriaError(
                f"--prompt: expected --prompt or --prompt-file, got {got}; give one of them"
            )
        if self.prompt is not None:
            return self.prompt
        assert self.prompt_file is not None
        try:
            is_stdin = self.prompt_file == _STDIN
            said = sys.stdin.buffer.read() if is_stdin else self.prompt_file.read_bytes()
        except OSError as error:
            raise AetheriaError(
                f"--prompt-file: expected a file of text, got {str(self.prompt_file)!r} "
                f"({error.strerror}); give another"
            ) from error
        return said.decode("utf-8", "surrogateescape")
