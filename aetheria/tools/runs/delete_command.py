"""`aetheria runs delete RUN...`: removes runs, after asking."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from aetheria.cli import values
from aetheria.cli.flag import Arguments
from aetheria.errors import AetheriaError, ExitCode

if TYPE_CHECKING:
    from aetheria.tools.runs.deletion import Deletion


@dataclass(frozen=True, kw_only=True)
class DeleteRunsCommand:
    """Deletes runs for good: what they wrote into their folders, and folders that are empty then.

    Examples:
        aetheria runs delete runs/mlp/1 runs/mlp/2
        aetheria runs delete runs/mlp/3 --yes

    Exit codes:
        0: deleted
        1: the answer was no, or something could not be removed
        2: a mistake, such as a folder without a run or a run that is running; nothing was deleted

    Attributes:
        runs: run folders.
        yes: do not ask.
    """

    runs: Annotated[tuple[Path, ...], Arguments(values.local_path, name="RUN")]
    yes: bool = False

    def execute(self) -> int:
        """Asks and deletes. Raises AetheriaError if one of the folders must not be deleted."""
        from aetheria.snapshots.sizes import size_text
        from aetheria.tools.runs.deletion import plan_deletions

        planned = plan_deletions(self.runs)
        for each in planned:
            print(_describe(each))
        if not self.yes and not _agrees(planned):
            print("nothing was deleted")
            return int(ExitCode.FAILED)
        freed, failed = 0, False
        for each in planned:
            try:
                each.execute()
            except (OSError, AetheriaError) as error:
                failed = True
                reason = " ".join(str(error).split())
                print(f"{each.run.path}: not deleted, or not wholly: {reason}", file=sys.stderr)
                continue
            freed += each.size_bytes
            print(f"{each.run.path}: deleted, {size_text(each.size_bytes)}")
        print(f"{size_text(freed)} in all")
        return int(ExitCode.FAILED if failed else ExitCode.OK)


def _describe(planned: "Deletion") -> str:
    from aetheria.snapshots.run_folder import some
    from aetheria.snapshots.sizes import size_text
    from aetheria.tools.runs.text import printable

    run = planned.run
    num_snapshots = len(run.snapshots)
    parts = [run.status, f"{num_snapshots} snapshots", size_text(planned.size_bytes), run.note]
    stays = f"; no run wrote {some(planned.stays)}: this stays" if planned.stays else ""
    return printable(f"{run.path}: {', '.join(part for part in parts if part)}{stays}")


def _agrees(planned: "Sequence[Deletion]") -> bool:
    """Asks on the terminal. Raises AetheriaError where there is nobody to answer."""
    if sys.stdin is None or not sys.stdin.isatty():
        raise AetheriaError(
            "runs delete: expected a terminal to ask on, got none; add --yes to delete unasked"
        )
    what = "this run" if len(planned) == 1 else f"these {len(planned)} runs"
    try:
        answer = input(f"delete {what} for good? [y/N] ")
    except EOFError:
        return False
    return answer.strip().lower() in ("y", "yes")
