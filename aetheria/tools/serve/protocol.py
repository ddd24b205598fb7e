"""Requests and responses of the Open Inference Protocol, version 2, with its extension of binary
tensors: JSON, then raw bytes; a header says where the JSON ends. Knows neither models nor a web
framework.

Source: https://github.com/kserve/open-inference-protocol,
https://github.com/triton-inference-server/server/blob/main/docs/protocol/extension_binary_data.md
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from pydantic_core import from_json as parse_json

from aetheria.errors import shown
from aetheria.tools.serve.errors import RequestError
from aetheria.tools.serve.tensors import (
    DATATYPES,
    Tensor,
    check_shape,
    datatype_of,
    from_bytes,
    from_json,
    to_bytes,
    to_json,
)

HEADER_LENGTH = "inference-header-content-length"
_REQUEST_PARAMETERS = {"probabilities": bool, "binary_data_output": bool}
_INPUT_PARAMETERS = {"binary_data_size": int, "content_type": str}
_OUTPUT_PARAMETERS = {"binary_data": bool}


@dataclass(frozen=True)
class WantedOutput:
    """An output that a request selects; `binary`: as raw bytes."""

    name: str
    binary: bool


@dataclass(frozen=True)
class InferRequest:
    """What a client asks for.

    Attributes:
        id: the client's own, which the response repeats; None: none.
        inputs: name -> tensor.
        outputs: those that are selected; None: the model's usual ones.
        probabilities: whether the usual output is that of probabilities.
        binary: whether outputs that are not selected by name are answered as raw bytes.
    """

    id: str | None
    inputs: Mapping[str, Tensor]
    outputs: Sequence[WantedOutput] | None
    probabilities: bool
    binary: bool


def parse_request(body: bytes, header_length: str | None) -> InferRequest:
    """Reads the body of a request.

    Args:
        body: all of it.
        header_length: the text of the header that says how long the JSON is; None: all is JSON.

    Raises:
        RequestError: the body is not a request of the protocol.
    """
    head, binary = _split(body, header_length)
    said = _parse(head)
    parameters = _parameters("parameters", said, _REQUEST_PARAMETERS)
    request_id = said.get("id")
    if request_id is not None and not isinstance(request_id, str):
        raise RequestError(400, f"id: expected a text, got {shown(request_id)}; leave it out")
    inputs: dict[str, Tensor] = {}
    for item in _items("inputs", said.get("inputs")):
        tensor, binary = _input(item, binary)
        if tensor.name in inputs:
            raise RequestError(
                400, f"inputs: expected each once, got {shown(tensor.name)} twice; leave one out"
            )
        inputs[tensor.name] = tensor
    if binary:
        raise RequestError(
            400,
            f"inputs: expected all bytes after the JSON to be of an input, got {len(binary)} more; "
            "give binary_data_size for each input, or correct the lengths",
        )
    as_bytes = parameters.get("binary_data_output", False)
    outputs = None
    if said.get("outputs") is not None:
        outputs = [_wanted(item, as_bytes) for item in _items("outputs", said["outputs"])] or None
    wants_probabilities = parameters.get("probabilities", False)
    if outputs is not None and "probabilities" in parameters:
        raise RequestError(
            400,
            "parameters.probabilities: expected it without outputs, got both; select the output "
            "'probabilities' instead",
        )
    return InferRequest(request_id, inputs, outputs, wants_probabilities, as_bytes)


def make_response(
    head: Mapping[str, Any], outputs: Sequence[tuple[WantedOutput, np.ndarray]]
) -> tuple[bytes, int | None]:
    """Writes a response.

    Args:
        head: what stands before the outputs: names and ids.
        outputs: in the order of the response.

    Returns:
        The body, and the length of its JSON; None: it is all JSON.

    Raises:
        RequestError: an output cannot be written as JSON.
    """
    said, blobs = [], []
    for wanted, array in outputs:
        item: dict[str, Any] = {
            "name": wanted.name,
            "datatype": datatype_of(array),
            "shape": list(array.shape),
        }
        if wanted.binary:
            blobs.append(to_bytes(array))
            item["parameters"] = {"binary_data_size": len(blobs[-1])}
        else:
            item["data"] = to_json(wanted.name, array)
        said.append(item)
    text = json.dumps({**head, "outputs": said}, allow_nan=False, separators=(",", ":")).encode()
    return b"".join([text, *blobs]), len(text) if blobs else None


def _split(body: bytes, header_length: str | None) -> tuple[memoryview, memoryview]:
    whole = memoryview(body)
    if header_length is None:
        return whole, whole[len(whole) :]
    is_number = header_length.isascii() and header_length.isdigit() and len(header_length) < 12
    if not is_number or int(header_length) > len(body):
        raise RequestError(
            400,
            f"Inference-Header-Content-Length: expected the length of the JSON, at most the "
            f"{len(body)} bytes of the body, got {shown(header_length)}; correct it",
        )
    return whole[: int(header_length)], whole[int(header_length) :]


def _parse(head: memoryview) -> dict[str, Any]:
    try:
        # Faster than `json` and strict: neither NaN nor lists that are nested without end.
        said = parse_json(bytes(head), allow_inf_nan=False, cache_strings="keys")
    except ValueError as error:
        raise RequestError(
            400, f"body: expected JSON, got {shown(str(error))}; correct it (JSON has no NaN)"
        ) from error
    if not isinstance(said, dict):
        raise RequestError(400, f"body: expected a JSON object, got {shown(said)}; give one")
    return said


def _items(where: str, said: object) -> list[dict[str, Any]]:
    if isinstance(said, list) and all(isinstance(item, dict) for item in said):
        return said
    raise RequestError(
        400, f"{where}: expected a list of objects with a name, got {shown(said)}; give one"
    )


def _parameters(where: str, said: Mapping[str, Any], known: Mapping[str, type]) -> dict[str, Any]:
    given = said.get("parameters")
    if given is None:
        return {}
    if not isinstance(given, dict):
        raise RequestError(400, f"{where}: expected an object, got {shown(given)}; correct it")
    for name, value in given.items():
        if name not in known:
            raise RequestError(
                400, f"{where}: expected {' or '.join(known)}, got {shown(name)}; leave it out"
            )
        if type(value) is not known[name]:
            raise RequestError(
                400,
                f"{where}.{name}: expected a value of type {known[name].__name__}, got "
                f"{shown(value)}; correct it",
            )
    return given


def _name(where: str, item: Mapping[str, Any]) -> str:
    if isinstance(name := item.get("name"), str):
        return name
    raise RequestError(400, f"{where}.name: expected a text, got {shown(name)}; give the name")


def _input(item: Mapping[str, Any], binary: memoryview) -> tuple[Tensor, memoryview]:
    """A tensor, and the bytes that are left."""
    name, datatype = _name("inputs", item), item.get("datatype")
    where = f"inputs {shown(name)}"
    if not isinstance(datatype, str) or datatype not in DATATYPES:
        raise RequestError(
            400,
            f"{where}.datatype: expected one of {', '.join(DATATYPES)}, got {shown(datatype)}; "
            "correct it",
        )
    shape = check_shape(where, item.get("shape"))
    parameters = _parameters(f"{where}.parameters", item, _INPUT_PARAMETERS)
    size = parameters.get("binary_data_size")
    if size is None:
        return from_json(name, datatype, shape, item.get("data")), binary
    if "data" in item or not 0 <= size <= len(binary):
        got = "data as well" if "data" in item else f"{size}"
        raise RequestError(
            400,
            f"{where}.parameters.binary_data_size: expected at most the {len(binary)} bytes that "
            f"follow the JSON, and no data in it, got {got}; correct it",
        )
    return from_bytes(name, datatype, shape, binary[:size]), binary[size:]


def _wanted(item: Mapping[str, Any], as_bytes: bool) -> WantedOutput:
    name = _name("outputs", item)
    parameters = _parameters(f"outputs {shown(name)}.parameters", item, _OUTPUT_PARAMETERS)
    return WantedOutput(name, parameters.get("binary_data", as_bytes))
