"""Parses the text of a config: YAML by the rules of version 1.2, and JSON. Reads no files."""

import functools
import json
import re
from typing import TYPE_CHECKING

from aetheria.errors import shown

if TYPE_CHECKING:
    import yaml

_INTEGER = re.compile(r"[-+]?(?:[0-9][0-9_]*|0o[0-7]+|0x[0-9a-fA-F]+|0b[01]+)")
_FLOAT = re.compile(
    r"[-+]?(?:(?:[0-9][0-9_]*\.?[0-9_]*|\.[0-9][0-9_]*)(?:[eE][-+]?[0-9]+)?|\.(?:inf|Inf|INF))"
    r"|\.(?:nan|NaN|NAN)"
)
_SCALARS = (  # kind, pattern, the characters that such a scalar can begin with
    ("null", re.compile(r"~|null|Null|NULL|None|"), ["~", "n", "N", ""]),
    ("bool", re.compile(r"true|True|TRUE|false|False|FALSE"), list("tTfF")),
    ("int", _INTEGER, list("-+0123456789")),
    ("float", _FLOAT, list("-+.0123456789")),
)
_MAX_REASON_LENGTH = 300


def parse_yaml(text: str) -> object:
    """Parses YAML.

    Raises:
        ValueError: the text is not YAML, or contains a key twice; the message is one short line.

    >>> parse_yaml("{rate: 1e-3, country: no, time: 1:30}")
    {'rate': 0.001, 'country': 'no', 'time': '1:30'}
    """
    import yaml

    try:
        return yaml.load(text, Loader=_yaml_loader())
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise ValueError(one_line(error)) from error


def parse_json(text: str) -> object:
    r"""Parses JSON, which YAML does not include in full: tabs may indent it, and a surrogate pair
    is one character.

    Raises:
        ValueError: the text is not JSON, or contains a key twice; the message is one short line.

    >>> parse_json('{"name":\t"\\ud83d\\ude42"}')
    {'name': '🙂'}
    """
    try:
        return json.loads(text, object_pairs_hook=_unique_keys)
    except (ValueError, RecursionError) as error:
        raise ValueError(one_line(error)) from error


def one_line(error: BaseException) -> str:
    """The message of a library's error as one line of limited length."""
    text = " ".join(str(error).split())
    return text if len(text) <= _MAX_REASON_LENGTH else f"{text[:_MAX_REASON_LENGTH]}…"


def _unique_keys(pairs: list[tuple[str, object]]) -> dict[str, object]:
    values: dict[str, object] = {}
    for key, value in pairs:
        if key in values:
            raise ValueError(f"the key {shown(key)} twice")
        values[key] = value
    return values


@functools.cache
def _yaml_loader() -> "type[yaml.SafeLoader]":
    """PyYAML's safe loader with two differences.

    A repeated key is an error, since PyYAML would silently drop the first value. Plain scalars are
    read by the rules of YAML 1.2. PyYAML follows version 1.1, in which `1:30` is 90, `017` is 15,
    `1e-3` and `0o17` are texts, and `no`, also as the code of a country, is false.
    """
    import yaml

    class Loader(yaml.SafeLoader):
        def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict:
            seen = set()
            for key_node, _ in node.value:
                if not isinstance(key_node, yaml.ScalarNode):
                    continue  # PyYAML itself refuses it
                if key_node.value in seen:
                    line = key_node.start_mark.line + 1
                    raise yaml.YAMLError(f"the key {shown(key_node.value)} twice (line {line})")
                seen.add(key_node.value)
            return super().construct_mapping(node, deep)

    replaced = {f"tag:yaml.org,2002:{kind}" for kind, _, _ in _SCALARS}
    Loader.yaml_implicit_resolvers = {
        first: [(tag, pattern) for tag, pattern in known if tag not in replaced]
        for first, known in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }
    for kind, pattern, first_characters in _SCALARS:
        entire = re.compile(rf"(?:{pattern.pattern})$")
        Loader.add_implicit_resolver(f"tag:yaml.org,2002:{kind}", entire, first_characters)
    Loader.add_constructor("tag:yaml.org,2002:int", _construct_integer)
    return Loader


def _construct_integer(loader: "yaml.SafeLoader", node: "yaml.ScalarNode") -> int:
    text = node.value.replace("_", "")
    has_base = text.lstrip("+-")[1:2] in ("o", "x", "b")
    return int(text, 0) if has_base else int(text)
