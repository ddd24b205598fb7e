"""One request for predictions, from its header to its answer."""

import asyncio
from functools import partial
from typing import Any

import numpy as np
from fastapi import Request, Response

from aetheria.errors import AetheriaError, shown
from aetheria.tools.serve.errors import RequestError
from aetheria.tools.serve.gate import read_body
from aetheria.tools.serve.inputs import read_inputs
from aetheria.tools.serve.protocol import (
    HEADER_LENGTH,
    InferRequest,
    WantedOutput,
    make_response,
    parse_request,
)
from aetheria.tools.serve.served import (
    CLASSES,
    OUTPUTS,
    PROBABILITIES,
    ServedModel,
    Version,
    named_outputs,
)
from aetheria.tools.serve.serving import Serving
from aetheria.tools.serve.watch import NOTES

# So few bytes are read, or written, sooner than a thread is handed the work.
_SMALL = 1 << 14


async def answer_request(
    serving: Serving, request: Request, model: ServedModel, version: Version
) -> Response:
    """Answers a request by one version, also if another replaces it meanwhile.

    The order: the gate first, so that a full server reads no body; then the body, which the client
    may send slowly; then three parts: to read the request, to compute, and to write the answer.
    Threads do them, so that the loop answers others meanwhile; a small one it reads and writes
    itself.
    """
    loop, limits = asyncio.get_running_loop(), serving.limits
    in_thread = partial(loop.run_in_executor, serving.pool)
    with serving.gate.passage():
        deadline = loop.time() + limits.request_seconds
        try:
            async with serving.gate.until(deadline):
                body = await read_body(request, limits)
        except TimeoutError as error:
            raise serving.gate.too_late(
                408,
                f"body: expected all of it within {limits.request_seconds:g} seconds, got a part; "
                "send it faster",
            ) from error
        header_length = request.headers.get(HEADER_LENGTH)
        try:
            async with serving.gate.until(deadline):
                read = partial(_read, version, body, header_length, limits.max_rows)
                # The size of a picture is not that of its bytes.
                is_small = len(body) <= _SMALL and version.picture_shape is None
                asked, inputs, wanted = read() if is_small else await in_thread(read)
                arrays = await _compute(model, version, inputs, wanted)
                notes = {"model": model.name, "version": version.name, "bytes": len(body)}
                request.scope[NOTES].update(notes)
                write = partial(_write, model, version, asked, wanted, arrays)
                is_small = sum(array.nbytes for array in arrays.values()) <= _SMALL
                return write() if is_small else await in_thread(write)
        except TimeoutError as error:
            raise serving.gate.too_late(
                503,
                f"server: expected an answer within {limits.request_seconds:g} seconds, got none; "
                "ask for fewer rows, or try again later",
            ) from error
        except AetheriaError as error:
            raise RequestError(400, " ".join("; ".join(error.problems).split())) from error


def _read(
    version: Version, body: bytes, header_length: str | None, max_rows: int
) -> tuple[InferRequest, Any, list[WantedOutput]]:
    """The request, the arrays that the model sees, and the outputs that are answered."""
    asked = parse_request(body, header_length)
    known = [spec.name for spec in version.outputs]
    if asked.outputs is not None:
        wanted = list(asked.outputs)
    else:
        usual = version.raw
        if asked.probabilities:
            usual = [name for name in known if name not in (*version.raw, CLASSES)]
            if not usual:
                raise RequestError(
                    400,
                    "parameters.probabilities: expected a model with classes, got another; leave "
                    "it out",
                )
        wanted = [WantedOutput(name, asked.binary) for name in usual]
    names = [output.name for output in wanted]
    for name in names:
        if name not in known or names.count(name) > 1:
            raise RequestError(
                400, f"outputs: expected {', '.join(known)}, each once, got {shown(name)}; name one"
            )
    return asked, read_inputs(version.predictor, asked.inputs, max_rows), wanted


async def _compute(
    model: ServedModel, version: Version, inputs: Any, wanted: list[WantedOutput]
) -> dict[str, np.ndarray]:
    """Output name -> array, of all that the wanted outputs need."""
    names = {output.name for output in wanted}
    raw_needed = bool(names & {*version.raw, CLASSES})
    calls = {}
    if raw_needed:
        calls[OUTPUTS] = model.submit(version, inputs, probabilities=False)
    if names - {*version.raw, CLASSES}:
        calls[PROBABILITIES] = model.submit(version, inputs, probabilities=True)
    arrays: dict[str, np.ndarray] = {}
    for alone in reversed(calls):  # the model's own outputs last: their names win
        arrays |= named_outputs(await asyncio.wrap_future(calls[alone]), alone)
    if CLASSES in names - {*version.raw}:
        arrays[CLASSES] = version.class_names(arrays[OUTPUTS])
    return arrays


def _write(
    model: ServedModel,
    version: Version,
    asked: InferRequest,
    wanted: list[WantedOutput],
    arrays: dict[str, np.ndarray],
) -> Response:
    head = {"model_name": model.name, "model_version": version.name}
    if asked.id is not None:
        head["id"] = asked.id
    body, json_length = make_response(head, [(each, arrays[each.name]) for each in wanted])
    if json_length is None:
        return Response(body, media_type="application/json")
    headers = {"Inference-Header-Content-Length": str(json_length)}
    return Response(body, media_type="application/octet-stream", headers=headers)
