"""Precision policies as text. Plain Python, since a config is checked without JAX."""

import difflib

from aetheria.errors import shown

DTYPES = ("float32", "bfloat16", "float16", "float64")
PARTS = ("params", "compute", "output")
_SHORT = {
    **{"f32": "float32", "fp32": "float32"},
    **{"bf16": "bfloat16"},
    **{"f16": "float16", "fp16": "float16"},
    **{"f64": "float64", "fp64": "float64"},
}
# The names that Lightning, Accelerate and Keras use, so that their configs keep their meaning.
_NAMED = {
    "no": "compute=float32",
    "32": "compute=float32",
    "32-true": "compute=float32",
    "bf16-mixed": "compute=bfloat16",
    "mixed_bfloat16": "compute=bfloat16",
    "16-mixed": "compute=float16",
    "fp16-mixed": "compute=float16",
    "mixed_float16": "compute=float16",
    "bf16-true": "params=bfloat16,compute=bfloat16",
    "16-true": "params=float16,compute=float16",
    "64": "params=float64,compute=float64,output=float64",
    "64-true": "params=float64,compute=float64,output=float64",
}


def parse_policy(value: bool | str) -> dict[str, str]:
    """Reads the key `mixed_precision` of a config.

    Args:
        value: whether to compute in bfloat16; or a dtype to compute in (`bf16`, `fp16`), a name
            from another trainer (`bf16-mixed`, `16-mixed`), or a policy such as
            `compute=bfloat16`.

    Returns:
        part -> dtype, for every part.

    Raises:
        ValueError: a part or a dtype does not exist, or a part appears twice; the message is one
            line.

    >>> parse_policy(True)
    {'params': 'float32', 'compute': 'bfloat16', 'output': 'float32'}
    >>> parse_policy("compute=f16, output=float16")
    {'params': 'float32', 'compute': 'float16', 'output': 'float16'}
    >>> parse_policy("bf16") == parse_policy("bf16-mixed") == parse_policy(True)
    True
    """
    value = _expand(value)
    given: dict[str, str] = {}
    for item in value.split(","):
        part, equals, dtype = (piece.strip() for piece in item.partition("="))
        if not equals:
            raise ValueError(
                f"expected true, false, a dtype such as bf16, or part=dtype pairs, got "
                f"{shown(value)}; use params=float32,compute=bfloat16,output=float32"
            )
        if part not in PARTS:
            raise ValueError(
                f"expected {_one_of(PARTS)}, got {shown(part)}; {_nearest(part, PARTS)}"
            )
        if part in given:
            raise ValueError(f"expected {part} once, got {shown(value)}; keep one of the two")
        given[part] = _dtype(part, dtype)
    return {part: given.get(part, "float32") for part in PARTS}


def format_policy(policy: dict[str, str]) -> str:
    """Returns the text of a policy with every part.

    >>> format_policy(parse_policy("compute=bf16"))
    'params=float32,compute=bfloat16,output=float32'
    """
    return ",".join(f"{part}={policy[part]}" for part in PARTS)


def _expand(value: bool | str) -> str:
    """Replaces a flag, a dtype or a name from another trainer by the policy it stands for."""
    if isinstance(value, bool):
        return f"compute={'bfloat16' if value else 'float32'}"
    name = value.strip().lower()
    return f"compute={name}" if _SHORT.get(name, name) in DTYPES else _NAMED.get(name, value)


def _dtype(part: str, text: str) -> str:
    dtype = _SHORT.get(text, text)
    if dtype not in DTYPES:
        raise ValueError(
            f"expected {part} to be {_one_of(DTYPES)}, got {shown(text)}; {_nearest(text, DTYPES)}"
        )
    return dtype


def _one_of(names: tuple[str, ...]) -> str:
    return f"one of {', '.join(names)}"


def _nearest(text: str, names: tuple[str, ...]) -> str:
    near = difflib.get_close_matches(text, names, n=1)
    return f"did you mean {near[0]!r}?" if near else "use one of these"
