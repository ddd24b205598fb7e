"""Reads the two spellings of a config (Python with ml_collections, YAML) and the overrides.

A config file may come from anybody: its size, and what its aliases expand to, are bounded.
"""

import ast
import functools
import json
import re
import runpy
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from aetheria.config import Config, make_config
from aetheria.errors import ConfigError, shown

_MAX_FILE_BYTES = 128 << 10
_MAX_VALUES = 50_000


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
            raise ConfigError(f"--set: expected key=value, got {shown(each)}; use key=value")
        _assign(values, key, _parse_value(key, text))
        origins[key] = "override"
    _check_values(values, where)
    return make_config(values, where, origins)


def _read(file: Path) -> dict[str, Any]:
    readers = {".py": _read_python, ".yaml": _read_yaml, ".yml": _read_yaml, ".json": _read_json}
    suffix = file.suffix.lower()
    if suffix not in readers:
        raise ConfigError(
            f"{file}: expected a config ending in {', '.join(readers)}, got {shown(file.suffix)}; "
            "rename it or name another"
        )
    if not file.is_file():
        raise ConfigError(f"{file}: expected a config file, got none there; check the path")
    if (size := file.stat().st_size) > _MAX_FILE_BYTES:
        raise ConfigError(
            f"{file}: expected a config of at most {_MAX_FILE_BYTES >> 10} KiB, got {size >> 10} "
            "KiB; keep data in files of their own and name these"
        )
    values = readers[suffix](file)
    if not isinstance(values, Mapping):
        kind = type(values).__name__
        raise ConfigError(f"{file}: expected keys with values, got {kind}; write key: value lines")
    _check_values(values, str(file))
    return _to_dict(values)


def _check_values(values: Any, where: str) -> None:
    """Bounds what a config says, before anything copies it or prints it.

    Raises:
        ConfigError: a value that holds itself, more values than anybody means (aliases of aliases
            multiply), or a text that no file can hold.
    """
    sizes: dict[int, int] = {}  # of what several aliases name, counted once and added every time

    def size(value: Any) -> int:
        if isinstance(value, str):
            value.encode()
            return 1
        if not isinstance(value, (Mapping, list, tuple)):
            return 1
        if id(value) not in sizes:
            pairs = isinstance(value, Mapping)
            parts = [*value.keys(), *value.values()] if pairs else value
            sizes[id(value)] = 1 + sum(size(part) for part in parts)
        return sizes[id(value)]

    try:
        count = size(values)
    except RecursionError:
        raise ConfigError(
            f"{where}: expected values, got one that holds itself or is nested too deeply; "
            "write it out"
        ) from None
    except UnicodeEncodeError as error:
        raise ConfigError(
            f"{where}: expected text, got {shown(error.object)}, which holds half of a surrogate "
            "pair; remove it"
        ) from None
    if count > _MAX_VALUES:
        raise ConfigError(
            f"{where}: expected at most {_MAX_VALUES} values, got {shown(count)}; keep data in "
            "files of their own and name these"
        )


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
            f"{file}: expected a get_config() that returns a config, got {reason}; fix the file"
        ) from error


def _read_yaml(file: Path) -> Any:
    import yaml

    try:
        return yaml.load(file.read_text(encoding="utf-8-sig"), Loader=_yaml_loader())
    except (yaml.YAMLError, ValueError, OSError, RecursionError) as error:
        reason = _one_line(error)
        raise ConfigError(f"{file}: expected YAML, got {reason}; fix the file") from error


def _read_json(file: Path) -> Any:
    """JSON is not quite YAML: tabs may indent it, and a surrogate pair is one character."""

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        values: dict[str, Any] = {}
        for key, value in pairs:
            if key in values:
                raise ValueError(f"the key {shown(key)} twice")
            values[key] = value
        return values

    try:
        return json.loads(file.read_text(encoding="utf-8-sig"), object_pairs_hook=unique)
    except (ValueError, OSError, RecursionError) as error:
        reason = _one_line(error)
        raise ConfigError(f"{file}: expected JSON, got {reason}; fix the file") from error


def _one_line(error: BaseException) -> str:
    """What a library says of an error, in one line that is not endless."""
    text = " ".join(str(error).split())
    return text if len(text) <= _MAX_REASON else f"{text[:_MAX_REASON]}…"


_MAX_REASON = 300
_WHOLE = re.compile(r"[-+]?(?:[0-9][0-9_]*|0o[0-7]+|0x[0-9a-fA-F]+|0b[01]+)")
_FLOAT = re.compile(
    r"[-+]?(?:(?:[0-9][0-9_]*\.?[0-9_]*|\.[0-9][0-9_]*)(?:[eE][-+]?[0-9]+)?|\.(?:inf|Inf|INF))"
    r"|\.(?:nan|NaN|NAN)"
)


@functools.cache
def _yaml_loader() -> Any:
    """PyYAML's safe loader with two differences.

    A key given twice is an error: the first would be lost unseen. Plain scalars are read by YAML
    1.2's rules, which say what people mean: in 1.1, which PyYAML follows, `1:30` is 90, `017` is
    15, `1e-3` and `0o17` are texts, and `no` is false, also as the name of a country.
    """
    import yaml

    class Loader(yaml.SafeLoader):
        def construct_mapping(self, node: Any, deep: bool = False) -> Any:
            seen = set()
            for key_node, _ in node.value:
                if not isinstance(key_node, yaml.ScalarNode):
                    continue  # PyYAML itself refuses it
                if key_node.value in seen:
                    line = key_node.start_mark.line + 1
                    raise yaml.YAMLError(f"the key {shown(key_node.value)} twice (line {line})")
                seen.add(key_node.value)
            return super().construct_mapping(node, deep)

    def whole(loader: Any, node: Any) -> int:
        text = node.value.replace("_", "")
        based = text.lstrip("+-")[1:2] in ("o", "x", "b")
        return int(text, 0) if based else int(text)

    replaced = ("int", "float", "bool", "null")
    Loader.yaml_implicit_resolvers = {
        first: [(tag, pattern) for tag, pattern in known if tag.rpartition(":")[2] not in replaced]
        for first, known in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }
    for kind, pattern, firsts in (
        ("null", re.compile(r"~|null|Null|NULL|None|"), ["~", "n", "N", ""]),
        ("bool", re.compile(r"true|True|TRUE|false|False|FALSE"), list("tTfF")),
        ("int", _WHOLE, list("-+0123456789")),
        ("float", _FLOAT, list("-+.0123456789")),
    ):
        whole_text = re.compile(rf"(?:{pattern.pattern})$")
        Loader.add_implicit_resolver(f"tag:yaml.org,2002:{kind}", whole_text, firsts)
    Loader.add_constructor("tag:yaml.org,2002:int", whole)
    return Loader


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
                f"override: {shown(key)[1:-1]}: expected {shown(part)} to hold keys, got "
                f"{shown(node)}; set it whole"
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
        return yaml.load(text, Loader=_yaml_loader())
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        reason = _one_line(error)
        raise ConfigError(
            f"override: {shown(key)[1:-1]}: expected a YAML value, got {reason}; quote it"
        ) from error
