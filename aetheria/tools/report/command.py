"""`aetheria report RUN...`: where the time of runs went, as text, and everything as a page."""

import json
import os
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from aetheria.cli import values
from aetheria.cli.flag import Arguments, Flag
from aetheria.errors import AetheriaError, ExitCode


@dataclass(frozen=True, kw_only=True)
class ReportCommand:
    """Reports where the time of a run went and how fast it trained; as a page, all about it.

    Examples:
        aetheria report runs/mlp/1
        aetheria report runs/mlp/1 --json
        aetheria report runs/mlp/1 runs/mlp/2 --html comparison.html
        aetheria report sweeps/mlp --open

    Exit codes:
        0: reported
        2: a mistake

    Attributes:
        runs: run folders, or the folder of a sweep; several runs are compared.
        html: write a page with curves, configs, time, snapshots, failures, machine and versions
            into this file, which needs no network; an earlier report there is replaced.
        open_page: open the page in a browser; without --html it is a temporary file.
        as_json: print only JSON; of several runs, a list.
    """

    runs: Annotated[tuple[Path, ...], Arguments(values.local_path, name="RUN")]
    html: Annotated[Path | None, Flag(values.local_path, "FILE")] = None
    open_page: Annotated[bool, Flag(name="open")] = False
    as_json: Annotated[bool, Flag(name="json")] = False

    def execute(self) -> int:
        """Prints or writes the report.

        Raises:
            AetheriaError: a folder is no run, or without --html has no record of its time; or the
                file cannot be written.
        """
        if self.html is not None or self.open_page:
            self._write_page()
        else:
            self._print()
        return int(ExitCode.OK)

    def _print(self) -> None:
        from aetheria.tools.report.sweep_folder import with_runs_of_sweeps
        from aetheria.tools.report.text import as_json, print_time, read_time

        times = [(run, read_time(run)) for run in with_runs_of_sweeps(self.runs)]
        if self.as_json:
            reports = [as_json(run, sessions) for run, sessions in times]
            print(json.dumps(reports[0] if len(reports) == 1 else reports, indent=2))
            return
        for run, sessions in times:
            if len(times) > 1:
                print(run)
            print_time(run, sessions)

    def _write_page(self) -> None:
        if self.as_json:
            raise AetheriaError(
                "--json: expected it without --html and --open, got both; choose one"
            )
        from aetheria.snapshots.sizes import size_text
        from aetheria.tools.report.page import make_page
        from aetheria.tools.report.sweep_folder import with_runs_of_sweeps

        given = _distinct(self.runs)
        _check_runs(runs := with_runs_of_sweeps(given))
        replaced = self.html is not None and _check_target(self.html)
        page = make_page(given).encode("utf-8", "replace")  # a folder's name may be no Unicode
        file = self.html or Path(tempfile.mkdtemp(prefix="aetheria-report-")) / "report.html"
        try:
            partial = file.with_name(f"{file.name}.tmp")
            partial.write_bytes(page)
            partial.replace(file)
        except OSError as error:
            raise _cannot_write(file, error) from error
        again = ", in place of an earlier report" if replaced else ""
        about = f"{len(runs)} run{'' if len(runs) == 1 else 's'}"
        print(f"{file}: {about}, {size_text(len(page))}{again}")
        if self.open_page:
            _open(file)


def _distinct(folders: Sequence[Path]) -> list[Path]:
    """The folders, each once."""
    return list({os.path.realpath(folder): folder for folder in folders}.values())


def _check_runs(folders: Sequence[Path]) -> None:
    """Raises AetheriaError if one holds no run."""
    from aetheria.snapshots.run_folder import is_run, what_is_there

    problems = [
        f"report: expected a run folder, got {folder} ({what_is_there(folder)}); name another"
        for folder in folders
        if not is_run(folder)
    ]
    if problems:
        raise AetheriaError(*problems)


def _check_target(file: Path) -> bool:
    """Whether an earlier report is replaced. Raises AetheriaError if the file is anything else."""
    from aetheria.tools.report.page import MARK

    try:
        with file.open("rb") as there:
            is_report = MARK.encode() in there.read(200)
    except FileNotFoundError:
        return False
    except OSError as error:
        raise _cannot_write(file, error) from error
    if not is_report:
        raise AetheriaError(
            f"--html: expected a new file or an earlier report, got {file}, which is neither; name "
            "another"
        )
    return True


def _cannot_write(file: Path, error: OSError) -> AetheriaError:
    return AetheriaError(
        f"--html: expected a file that can be written, got {file} ({error.strerror}); name another"
    )


def _open(file: Path) -> None:
    import webbrowser

    if not webbrowser.open(file.resolve().as_uri()):
        print(f"no browser can be started here; open {file} yourself", file=sys.stderr)
