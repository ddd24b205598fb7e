"""`aetheria runs mark RUN TEXT`: keeps a note in the run folder, which the list shows."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from aetheria.cli import values
from aetheria.cli.flag import Argument
from aetheria.errors import AetheriaError, ExitCode, shown

_MAX_CHARACTERS = 1000


def _note(text: str) -> str:
    """Reads a note: one line."""
    if not text.isprintable() or len(text) > _MAX_CHARACTERS:
        raise ValueError(
            f"expected one line of at most {_MAX_CHARACTERS} characters, got {shown(text)}"
        )
    return text.strip()


@dataclass(frozen=True, kw_only=True)
class MarkRunCommand:
    """Notes something about a run, such as a tag or a finding, in its folder.

    Examples:
        aetheria runs mark runs/mlp/1 "baseline: the paper's table 2"
        aetheria runs mark runs/mlp/1 ""

    Exit codes:
        0: noted
        2: a mistake

    Attributes:
        run: a run folder.
        text: the note, which replaces an earlier one; an empty text removes it.
    """

    run: Annotated[Path, Argument(values.local_path)]
    text: Annotated[str, Argument(_note)]

    def execute(self) -> int:
        """Writes the note. Raises AetheriaError if the folder is no run, or not writable."""
        from aetheria.snapshots.run_folder import NOTE, is_run
        from aetheria.tools.runs.text import printable
        from aetheria.training.run_info import read_note

        if not is_run(self.run):
            raise AetheriaError(f"runs mark: expected a run folder, got {self.run}; name another")
        before, file = read_note(self.run), self.run / NOTE
        try:
            if self.text:
                partial = file.with_suffix(".tmp")
                partial.write_text(f"{self.text}\n", encoding="utf-8")
                partial.replace(file)
            else:
                file.unlink(missing_ok=True)
        except OSError as error:
            raise AetheriaError(
                f"runs mark: expected a folder that can be written to, got {self.run} "
                f"({error.strerror}); change its permissions"
            ) from error
        was = f" (it was: {printable(before)})" if before else ""
        print(f"{self.run}: {self.text or 'no note'}{was}")
        return int(ExitCode.OK)
