"""Vocabulary: precision policies as text. Plain Python, since a config is checked without jax."""

import difflib

DTYPES = ("float32", "bfloat16", "float16", "float64")
PARTS = ("params", "compute", "output")
_SHORT = {"f32": "float32", "bf16": "bfloat16", "f16": "float16", "f64": "float64"}


def parse_policy(value: bool | str) -> dict[str, str]:
    """Reads the config's `mixed_precision`: a flag, or a policy such as `compute=bfloat16`.

    Returns:
        part -> dtype, for every part.

    Raises:
        ValueError: a part or a dtype that does not exist, or a part given twice; one line.

    >>> parse_policy(True)
    {'params': 'float32', 'compute': 'bfloat16', 'output': 'float32'}
    >>> parse_policy("compute=f16, output=float16")
    {'params': 'float32', 'compute': 'float16', 'output': 'float16'}
    """
    if isinstance(value, bool):
        value = f"compute={'bfloat16' if value else 'float32'}"
    given: dict[str, str] = {}
    for item in value.split(","):
        part, equals, dtype = (piece.strip() for piece in item.partition("="))
        if not equals:
            raise ValueError(
                f"expected true, false, or part=dtype pairs, got {value!r}; "
                "write it as params=float32,compute=bfloat16,output=float32"
            )
        if part not in PARTS:
            raise ValueError(f"expected {_one_of(PARTS)}, got {part!r}; {_nearest(part, PARTS)}")
        if part in given:
            raise ValueError(f"expected {part} once, got {value!r}; keep one of the two")
        given[part] = _dtype(part, dtype)
    return {part: given.get(part, "float32") for part in PARTS}


def format_policy(policy: dict[str, str]) -> str:
    """The text of a policy, every part named.

    >>> format_policy(parse_policy("compute=bf16"))
    'params=float32,compute=bfloat16,output=float32'
    """
    return ",".join(f"{part}={policy[part]}" for part in PARTS)


def _dtype(part: str, text: str) -> str:
    dtype = _SHORT.get(text, text)
    if dtype not in DTYPES:
        raise ValueError(
            f"expected {part} to be {_one_of(DTYPES)}, got {text!r}; {_nearest(text, DTYPES)}"
        )
    return dtype


def _one_of(names: tuple[str, ...]) -> str:
    return f"one of {', '.join(names)}"


def _nearest(text: str, names: tuple[str, ...]) -> str:
    near = difflib.get_close_matches(text, names, n=1)
    return f"did you mean {near[0]!r}?" if near else "use one of these"
