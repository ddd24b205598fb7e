"""Reads the two spellings of a config (Python with ml_collections, YAML) and the overrides."""

import ast
import json
import runpy
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from aetheria.config import Config, make_config
from aetheria.errors import ConfigError


def load_config(file: Path, overrides: Sequence[str] = ()) -> Config:
    """Reads a config file, applies overrides, and checks the result.

    Args:
        file: a `.py` file with `get_config()`, or a `.yaml`, `.yml` or `.json` file.
        overrides: `key=value` texts; a key may be dotted, a value is read as YAML.

    Raises:
        ConfigError: the file cannot be read, or a key or value is wrong; all problems at once.
    """
    return override(_read(file), overrides, str(file))


def override(values: dict[str, Any], overrides: Sequence[str], where: str) -> Config:
    """Applies overrides to a config's values, and checks the result; see `load_config`.

    Args:
        values: changed in place.
        overrides: `key=value` texts.
        where: what to call the values' origin in errors.
    """
    origins = {}
    for each in overrides:
        key, equals, text = each.partition("=")
        if not equals or not key:
            raise ConfigError(f"--set: expected key=value, got {each!r}; write it so")
        _assign(values, key, _parse_value(key, text))
        origins[key] = "override"
    return make_config(values, where, origins)


def _read(file: Path) -> dict[str, Any]:
    readers = {".py": _read_python, ".yaml": _read_yaml, ".yml": _read_yaml, ".json": _read_json}
    if file.suffix not in readers:
        raise ConfigError(
            f"{file}: expected a config ending in {', '.join(readers)}, got {file.suffix!r}; "
            "rename it or name another"
        )
    if not file.is_file():
        raise ConfigError(f"{file}: expected a config file, got none there; check the path")
    values = readers[file.suffix](file)
    if not isinstance(values, Mapping):
        kind = type(values).__name__
        raise ConfigError(f"{file}: expected keys with values, got {kind}; write key: value lines")
    try:
        return _to_dict(values)
    except RecursionError:
        raise ConfigError(
            f"{file}: expected values, got one that holds itself; write it out"
        ) from None


def _read_python(file: Path) -> Any:
    # Not an import: its bytecode cache takes an edit within the same second for no edit.
    try:
        names = runpy.run_path(str(file), run_name=f"_aetheria_config_{file.stem}")
        if "get_config" not in names:
            raise ConfigError(f"{file}: expected a function get_config(), got none; write one")
        config = names["get_config"]()
        return config.to_dict() if hasattr(config, "to_dict") else config
    except ConfigError:
        raise
    except (Exception, SystemExit) as error:
        reason = f"{type(error).__name__}: {error}".replace("\n", " ")
        raise ConfigError(
            f"{file}: expected a get_config() that returns a config, got {reason}; mend the file"
        ) from error


def _read_yaml(file: Path) -> Any:
    import yaml

    try:
        return yaml.load(file.read_text(encoding="utf-8"), Loader=_unique_keys_loader(yaml))
    except (yaml.YAMLError, ValueError, OSError, RecursionError) as error:
        reason = " ".join(str(error).split())
        raise ConfigError(f"{file}: expected YAML, got {reason}; mend the file") from error


def _read_json(file: Path) -> Any:
    """JSON is not quite YAML: tabs may indent it, and a surrogate pair is one character."""

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        keys = [key for key, _ in pairs]
        twice = [key for key in keys if keys.count(key) > 1]
        if twice:
            raise ValueError(f"the key {twice[0]!r} twice")
        return dict(pairs)

    try:
        return json.loads(file.read_text(encoding="utf-8"), object_pairs_hook=unique)
    except (ValueError, OSError, RecursionError) as error:
        raise ConfigError(f"{file}: expected JSON, got {error}; mend the file") from error


def _unique_keys_loader(yaml: Any) -> Any:
    """PyYAML's safe loader, but a key given twice is an error: the first would be lost unseen."""

    class UniqueKeysLoader(yaml.SafeLoader):
        def construct_mapping(self, node: Any, deep: bool = False) -> Any:
            seen = set()
            for key_node, _ in node.value:
                if not isinstance(key_node, yaml.ScalarNode):
                    continue  # PyYAML itself refuses it
                if key_node.value in seen:
                    line = key_node.start_mark.line + 1
                    raise yaml.YAMLError(f"the key {key_node.value!r} twice (line {line})")
                seen.add(key_node.value)
            return super().construct_mapping(node, deep)

    return UniqueKeysLoader


def _to_dict(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _to_dict(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_to_dict(item) for item in value]
    return value


def _assign(values: dict[str, Any], key: str, value: Any) -> None:
    *path, name = key.split(".")
    node = values
    for part in path:
        node = node.setdefault(part, {})
        if not isinstance(node, dict):
            raise ConfigError(
                f"override: {key}: expected {part!r} to hold keys, got {node!r}; set it whole"
            )
    node[name] = value


def _parse_value(key: str, text: str) -> Any:
    """Reads YAML; a Python tuple, list or dict is understood too, as ml_collections users write.

    >>> _parse_value("epochs", "3"), _parse_value("mesh", "{data: 8}"), _parse_value("x", "('a',)")
    (3, {'data': 8}, ('a',))
    """
    import yaml

    if text[:1] in ("(", "[", "{"):
        try:
            return ast.literal_eval(text)
        except (ValueError, SyntaxError, MemoryError, RecursionError):
            pass  # not Python, so YAML's own flow style
    try:
        return yaml.safe_load(text)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        reason = " ".join(str(error).split())
        raise ConfigError(f"override: {key}: expected a YAML value, got {reason}") from error
