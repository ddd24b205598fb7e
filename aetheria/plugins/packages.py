"""Packages that are installed only if an extra asks for them."""

import importlib.util

from aetheria.errors import ConfigError


def require_package(what: str, package: str, extra: str) -> None:
    """Raises ConfigError if a package is not installed; the line names the extra that has it."""
    if importlib.util.find_spec(package) is None:
        raise ConfigError(
            f"{what}: expected the package {package}, got none; pip install 'aetheria[{extra}]'"
        )
