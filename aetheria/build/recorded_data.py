"""The dataset of a recorded config: what a file may choose."""

from pathlib import Path

from aetheria.config import Config
from aetheria.errors import RegistryError
from aetheria.plugins import DATA
from aetheria.plugins.import_path import is_import_path


def find_recorded_data(config: Config, project: Path | None, where: str) -> str:
    """The name of a run's dataset, if it and its arguments choose no code that is not registered.

    Args:
        config: the run's.
        project: the project folder; None: there is none.
        where: what holds the config, for an error message.

    Raises:
        RegistryError: the name or an argument is an import path.
    """
    for value in (config.data_name, *config.data_params.values()):
        if is_import_path(value):
            try:
                DATA.find_recorded(value, project, where)
            except RegistryError as error:
                raise RegistryError(
                    f"{where}: expected a dataset that is registered, got the import path "
                    f"{value!r}, which a file may not choose; if you trust it, give "
                    f"--data-name {config.data_name}"
                ) from error
    return DATA.find_recorded(config.data_name, project, where)
