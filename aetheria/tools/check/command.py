"""`aetheria check CONFIG`: whether a run would start, and all that is in its way."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

from aetheria.cli import values
from aetheria.cli.fields import ConfigFields
from aetheria.cli.flag import Flag
from aetheria.config.files import load_config, read_overridden
from aetheria.errors import ConfigError, ExitCode
from aetheria.tools.check.finding import Finding

_MARKS = {"ok": "ok", "warning": "WARN", "problem": "FAIL"}


@dataclass(frozen=True, kw_only=True)
class CheckCommand(ConfigFields):
    """Checks a config before a run, and tells all problems at once; writes nothing.

    Examples:
        aetheria check config.yaml
        aetheria check config.yaml --set batch_size=4096 --memory=16GB --deep

    Exit codes:
        0: nothing is in the way of a run; there may be warnings
        2: a mistake: there are problems

    Attributes:
        workdir: the run folder that is meant (default: the next runs/<config name>/<n>).
        memory: of each device, such as 80GB (default: what the device says).
        deep: also take two steps, evaluate and save in a temporary folder.
        as_json: print only JSON.
    """

    workdir: Annotated[Path | None, Flag(values.local_path, "DIR")] = None
    memory: Annotated[int | None, Flag(values.size_bytes, "SIZE")] = None
    deep: bool = False
    as_json: Annotated[bool, Flag(name="json")] = False

    def execute(self) -> int:
        """Prints a line for each finding, and returns the exit code."""
        started_at = time.perf_counter()
        found = []
        for finding in self._findings():
            found.append(finding)
            if not self.as_json:
                print(f"{_MARKS[finding.level]:5} {finding.about:9} {finding.text}", flush=True)
        levels = [finding.level for finding in found]
        counts = {level: levels.count(level) for level in _MARKS}
        seconds = round(time.perf_counter() - started_at, 1)
        if self.as_json:
            findings = [asdict(finding) for finding in found]
            print(
                json.dumps({"counts": counts, "seconds": seconds, "findings": findings}, indent=2)
            )
        else:
            problems, warnings = counts["problem"], counts["warning"]
            print(f"problems: {problems}, warnings: {warnings}, in {seconds} s; no run was started")
        return int(ExitCode.USER_ERROR if counts["problem"] else ExitCode.OK)

    def _findings(self) -> Iterator[Finding]:
        from aetheria.build import prepare_environment
        from aetheria.plugins.discovery import find_project
        from aetheria.tools.check.values import valid_config

        read = read_overridden(self.config_file, self.overrides)
        config, is_whole = None, True
        try:
            config = load_config(self.config_file, self.overrides)
        except ConfigError as error:
            is_whole = False
            yield from (Finding("problem", "config", line) for line in error.problems)
            config = valid_config(read)
        if config is None:
            return
        if is_whole:
            yield Finding("ok", "config", str(self.config_file))
        prepare_environment(config, os.environ)
        from aetheria.tools.check.checks import Checks, cache_finding

        project = find_project(self.config_file, self.project)
        is_sound = is_whole
        checks = Checks(config, self.config_file.stem, project, self.workdir, self.memory)
        for finding in checks.run():
            is_sound = is_sound and finding.level != "problem"
            yield finding
        if config.compile_cache:
            yield cache_finding()
        if self.deep:
            yield (
                self._try_run(project)
                if is_sound
                else Finding("warning", "deep", "no step was taken, since there are problems")
            )

    def _try_run(self, project: Path) -> Finding:
        """A run of two steps, in a process of its own, so that a crash is a finding too."""
        command = [sys.executable, "-m", "aetheria", "train", str(self.config_file)]
        command += [f"--set={each}" for each in self.overrides]
        done = subprocess.run(
            [*command, f"--project={project}", "--fast-dev-run"],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode == ExitCode.OK:
            return Finding("ok", "deep", "two steps, an evaluation and a save")
        lines = [line.strip() for line in done.stderr.splitlines() if line.strip()]
        reason = lines[-1][:300] if lines else f"exit code {done.returncode}"
        return Finding("problem", "deep", f"{reason}; see aetheria train --fast-dev-run")
