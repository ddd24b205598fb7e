"""Finds a user's mistakes before the first trial: models that cannot be made, and whatever a dry
run finds.
"""

import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

from aetheria.config import MODEL_KEYS
from aetheria.config.files import to_yaml
from aetheria.errors import AetheriaError, ExitCode
from aetheria.tools.sweep.space import Space, apply


def check_models(space: Space, values: Mapping[str, object], project: Path) -> None:
    """Makes the model of each choice, and of both ends of each range.

    Raises:
        AetheriaError: a line for each key whose values a model does not accept.
    """
    from aetheria.build.model import build_model

    problems: list[str] = []
    # Together with the first value of each other key: a model may need all of them.
    point = {key: dimension.samples()[0] for key, dimension in space.items()}
    for key, dimension in space.items():
        if key.partition(".")[0] not in ("model_params", "model_name", *MODEL_KEYS):
            continue
        for value in dimension.samples():
            try:
                build_model(apply(values, {**point, key: value}), project)
            except AetheriaError as error:
                problems += [each for each in error.problems if each not in problems]
                break
    if problems:
        raise AetheriaError(*problems)


def dry_run(space: Space, values: Mapping[str, object], project: Path) -> None:
    """Checks one trial as `aetheria train --dry-run` does, in a process of its own: this one stays
    small, and leaves the devices to the trials.

    Raises:
        AetheriaError: what the dry run found.
    """
    point = {key: dimension.samples()[0] for key, dimension in space.items()}
    with tempfile.TemporaryDirectory(prefix="aetheria-") as folder:
        file = Path(folder) / "sweep.yaml"
        file.write_text(to_yaml(apply(values, point)), encoding="utf-8")
        command = [sys.executable, "-m", "aetheria", "train", str(file), "--dry-run"]
        done = subprocess.run(
            [*command, f"--project={project}", f"--workdir={folder}/run"],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )
    if done.returncode == ExitCode.OK:
        return
    lines = [line for line in done.stderr.splitlines() if line.strip()]
    if done.returncode == ExitCode.USER_ERROR and lines:
        raise AetheriaError(*lines)
    raise AetheriaError(
        f"sweep: expected a config that passes `aetheria train --dry-run`, got "
        f"{lines[-1] if lines else f'exit code {done.returncode}'}; run that to see more"
    )
