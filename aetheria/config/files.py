"""Reads config files (Python with ml_collections, YAML, JSON) and applies overrides to them."""

import ast
import inspect
import runpy
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from aetheria.config.checking import make_config
from aetheria.config.parsing import one_line, parse_json, parse_yaml
from aetheria.config.schema import Config
from aetheria.config.size_limits import check_size
from aetheria.errors import ConfigError, shown

RUN_CONFIG = "config.json"  # in a run folder
BESIDE_CONFIG = ("resolved", "lineage")  # what a run folder's config holds beside its keys
_MAX_FILE_BYTES = 128 << 10  # a config file may come from anybody


def load_config(file: Path, overrides: Sequence[str] = ()) -> Config:
    """Reads a config file, applies overrides, and checks the result.

    Args:
        file: a `.py` file with `get_config()`, or a `.yaml`, `.yml` or `.json` file. As with
            ml_collections, `config.py:variant` calls `get_config("variant")`. Or a run folder: the
            config that the run was started with, overrides included.
        overrides: `key=value` texts; a key may be dotted, a value is read as YAML.

    Raises:
        ConfigError: the file cannot be read, or a key or value is wrong; all problems at once.
    """
    return override(_read(file), overrides, str(file))


def override(values: dict[str, object], overrides: Sequence[str], where: str) -> Config:
    """Applies overrides to the values of a config, and checks the result; see `load_config`.

    Args:
        values: nested mappings; changed in place.
        overrides: `key=value` texts.
        where: what to call the origin of the values in errors.
    """
    origins = dict.fromkeys(_assign_all(values, overrides, where), "override")
    return make_config(values, where, origins)


def read_overridden(file: Path, overrides: Sequence[str]) -> dict[str, object]:
    """Reads the values that `load_config` checks, overrides applied.

    Raises:
        ConfigError: the file or an override cannot be read.
    """
    values = _read(file)
    _assign_all(values, overrides, str(file))
    return values


def _assign_all(values: dict[str, object], overrides: Sequence[str], where: str) -> list[str]:
    """Applies overrides in place; returns their keys."""
    keys = []
    for each in overrides:
        key, equals, text = each.partition("=")
        if not equals or not key:
            raise ConfigError(f"--set: expected key=value, got {shown(each)}; use key=value")
        assign(values, key, _parse_value(key, text))
        keys.append(key)
    check_size(values, where)
    return keys


def to_yaml(config: Config) -> str:
    """Writes every key of a config, as a file that `load_config` reads back."""
    import yaml

    return yaml.safe_dump(_to_plain(config.to_dict()), sort_keys=False, allow_unicode=True)


def read_values(source: Path | object) -> dict[str, object]:
    """Reads the values of a config as they are written; `make_config` checks them.

    Args:
        source: a config file, a mapping, a `Config`, or a `ConfigDict` of ml_collections.

    Raises:
        ConfigError: it is none of these, or the file cannot be read.
    """
    if isinstance(source, Path):
        return _read(source)
    values = source.to_dict() if hasattr(source, "to_dict") else source  # type: ignore[union-attr]
    if not isinstance(values, Mapping) or not all(isinstance(key, str) for key in values):
        raise ConfigError(
            f"config: expected a file, keys with values, or a ConfigDict, got {shown(source)}; "
            "give the path of a config, or only keys: train(model_name=…, epochs=…)"
        )
    return {key: _to_plain(value) for key, value in values.items()}


def _read(file: Path) -> dict[str, object]:
    if file.is_dir():
        return _read_run(file)
    file, variant = _split_variant(file)
    readers: dict[str, Callable[[Path], object]] = {
        ".py": lambda file: _read_python(file, variant),
        ".yaml": _read_yaml,
        ".yml": _read_yaml,
        ".json": _read_json,
    }
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
            "KiB; store data in separate files and name these"
        )
    values = readers[suffix](file)
    if not isinstance(values, Mapping):
        kind = type(values).__name__
        raise ConfigError(f"{file}: expected keys with values, got {kind}; write key: value lines")
    check_size(values, str(file))
    return {key: _to_plain(value) for key, value in values.items()}


def _read_run(folder: Path) -> dict[str, object]:
    """The config in a run folder, without what stands beside its keys."""
    if not (folder / RUN_CONFIG).is_file():
        raise ConfigError(
            f"{folder}: expected a config file or a run folder, got a folder without "
            f"{RUN_CONFIG}; name a file in it"
        )
    values = _read(folder / RUN_CONFIG)
    return {key: value for key, value in values.items() if key not in BESIDE_CONFIG}


def _split_variant(file: Path) -> tuple[Path, str | None]:
    """Splits `config.py:variant`.

    >>> _split_variant(Path("configs/mlp.py:small")), _split_variant(Path("a.yaml"))
    ((PosixPath('configs/mlp.py'), 'small'), (PosixPath('a.yaml'), None))
    """
    name, colon, variant = str(file).rpartition(":")
    if colon and name.lower().endswith(".py") and not file.exists():
        return Path(name), variant
    return file, None


def _read_python(file: Path, variant: str | None) -> object:
    # runpy instead of an import: the bytecode cache of an import misses an edit within the same
    # second.
    try:
        names = runpy.run_path(str(file), run_name=f"_aetheria_config_{file.stem}")
        if "get_config" not in names:
            raise ConfigError(f"{file}: expected a function get_config(), got none; write one")
        get_config = names["get_config"]
        config = get_config(*_variant_argument(file, get_config, variant))
        return config.to_dict() if hasattr(config, "to_dict") else config
    except ConfigError:
        raise
    except (Exception, SystemExit) as error:
        reason = f"{type(error).__name__}: {error}".replace("\n", " ")
        raise ConfigError(
            f"{file}: expected a get_config() that returns a config, got {reason}; fix the file"
        ) from error


def _variant_argument(
    file: Path, get_config: Callable[..., object], variant: str | None
) -> tuple[str, ...]:
    """What `get_config` is called with.

    Raises:
        ConfigError: it takes no variant, or needs one.
    """
    parameters = inspect.signature(get_config).parameters.values()
    if variant is not None and not parameters:
        raise ConfigError(
            f"{file}:{variant}: expected a get_config(variant), got one without parameters; name "
            f"{file} alone"
        )
    needs_one = sum(
        each.default is each.empty for each in parameters if each.kind < each.VAR_POSITIONAL
    )
    if variant is None and needs_one:
        raise ConfigError(
            f"{file}: expected a variant, which its get_config takes, got none; name {file}:VARIANT"
        )
    return () if variant is None else (variant,)


def _read_yaml(file: Path) -> object:
    try:
        return parse_yaml(file.read_text(encoding="utf-8-sig"))
    except (ValueError, OSError) as error:
        raise ConfigError(f"{file}: expected YAML, got {one_line(error)}; fix the file") from error


def _read_json(file: Path) -> object:
    try:
        return parse_json(file.read_text(encoding="utf-8-sig"))
    except (ValueError, OSError) as error:
        raise ConfigError(f"{file}: expected JSON, got {one_line(error)}; fix the file") from error


def _to_plain(value: object) -> object:
    """Copies nested values, so that an override changes one place even if an alias repeats it."""
    if isinstance(value, Mapping):
        return {key: _to_plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_to_plain(item) for item in value]
    return value


def assign(values: dict[str, object], key: str, value: object) -> None:
    """Sets a key, which may be dotted, in nested values.

    Raises:
        ConfigError: a part of the key is no mapping.
    """
    *path, name = key.split(".")
    node = values
    for part in path:
        child = node.setdefault(part, {})
        if not isinstance(child, dict):
            raise ConfigError(
                f"override: {shown(key)[1:-1]}: expected {shown(part)} to contain keys, got "
                f"{shown(child)}; set it as a whole"
            )
        node = child
    node[name] = _to_plain(value)


def _parse_value(key: str, text: str) -> object:
    """Parses YAML, or a Python tuple, list or dict, as ml_collections users write them.

    >>> _parse_value("epochs", "3"), _parse_value("mesh", "{data: 8}"), _parse_value("x", "('a',)")
    (3, {'data': 8}, ('a',))
    """
    if text[:1] in ("(", "[", "{"):
        try:
            return ast.literal_eval(text)
        except (ValueError, SyntaxError, MemoryError, RecursionError):
            pass  # not Python, so YAML's flow style
    try:
        return parse_yaml(text)
    except ValueError as error:
        raise ConfigError(
            f"override: {shown(key)[1:-1]}: expected a YAML value, got {error}; quote it"
        ) from error
