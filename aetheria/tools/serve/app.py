"""The addresses of the server: what is asked at each, and what is answered."""

import asyncio
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from importlib.resources import files
from typing import Any

import numpy as np
from fastapi import FastAPI, Request, Response
from fastapi.responses import HTMLResponse, JSONResponse
from starlette.exceptions import HTTPException

import aetheria
from aetheria.errors import AetheriaError, shown
from aetheria.tools.serve.errors import RequestError
from aetheria.tools.serve.gate import Gate, Limits, read_body
from aetheria.tools.serve.inputs import read_inputs
from aetheria.tools.serve.log import JsonLog
from aetheria.tools.serve.metrics import Metrics
from aetheria.tools.serve.openapi import ERRORS, INFER_BODY
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
from aetheria.tools.serve.watch import NOTES

_EXTENSIONS = ["binary_tensor_data", "model_repository"]
_PAGE_POLICY = (
    "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; "
    "connect-src 'self'; img-src blob:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)


@dataclass(frozen=True)
class Serving:
    """All that the addresses share.

    Attributes:
        models: by name.
        limits: of requests.
        gate: counts those under way.
        metrics: counts all.
        log: gets events.
        can_load: whether a client may have a model loaded anew.
        pool: reads requests and writes answers, which may take long, beside the event loop.
    """

    models: Mapping[str, ServedModel]
    limits: Limits
    gate: Gate
    metrics: Metrics
    log: JsonLog
    can_load: bool
    pool: ThreadPoolExecutor = field(default_factory=lambda: ThreadPoolExecutor(4, "request"))

    def find(self, name: str, version: str | None = None) -> tuple[ServedModel, Version]:
        """Raises RequestError if there is no such model, or it has another version."""
        model = self.models.get(name)
        if model is None:
            known = ", ".join(self.models)
            raise RequestError(404, f"model: expected {known}, got {shown(name)}; name one")
        current = model.version
        if version is not None and version != current.name:
            raise RequestError(
                404, f"version: expected {current.name}, got {shown(version)}; leave it out"
            )
        return model, current

    def reload(self, model: ServedModel) -> bool:
        """Loads a model anew if there is something new, and says so in log and metrics.

        Raises:
            AetheriaError: it cannot be loaded; the old weights stay.
        """
        try:
            is_new = model.reload()
        except AetheriaError as error:
            self.metrics.loaded(model.name, "failed")
            self.log("reload_failed", model=model.name, error=str(error))
            raise
        predictor = model.version.predictor
        self.metrics.loaded(model.name, "ok" if is_new else "unchanged", predictor.step)
        if is_new:
            self.log(
                "reloaded",
                model=model.name,
                version=model.version.name,
                snapshot=str(predictor.snapshot),
            )
        return is_new


def make_app(serving: Serving) -> FastAPI:
    """Makes the application: the Open Inference Protocol, `/metrics`, and a page to try it."""
    app = FastAPI(
        title="Aetheria",
        version=aetheria.__version__,
        description="Predictions by the Open Inference Protocol, version 2.",
        docs_url=None,
        redoc_url=None,
        responses=ERRORS,
    )
    _add_errors(app)
    _add_metadata(app, serving)
    _add_predictions(app, serving)
    page = files("aetheria.tools.serve").joinpath("page.html").read_text(encoding="utf-8")

    @app.get("/", response_class=HTMLResponse, include_in_schema=False)
    async def show_page() -> HTMLResponse:
        return HTMLResponse(page, headers={"Content-Security-Policy": _PAGE_POLICY})

    @app.get("/metrics", tags=["operation"])
    async def metrics() -> Response:
        return Response(serving.metrics.text(), media_type="text/plain; version=0.0.4")

    return app


def _add_errors(app: FastAPI) -> None:
    @app.exception_handler(RequestError)
    async def refuse(request: Request, error: RequestError) -> JSONResponse:
        seconds = error.retry_after_seconds
        headers = None if seconds is None else {"Retry-After": str(seconds)}
        request.scope[NOTES]["error"] = error.message
        return JSONResponse({"error": error.message}, error.status, headers)

    @app.exception_handler(HTTPException)
    async def no_such_address(request: Request, error: HTTPException) -> JSONResponse:
        message = f"{request.method} {request.url.path}: {error.detail}; see /openapi.json"
        return JSONResponse({"error": message}, error.status_code, error.headers)

    @app.exception_handler(Exception)
    async def fail(request: Request, error: Exception) -> JSONResponse:
        # The log has the traceback; a stranger gets none.
        message = "server: expected an answer, got an error of the model or the server; see its log"
        return JSONResponse({"error": message}, 500)


def _add_metadata(app: FastAPI, serving: Serving) -> None:
    @app.get("/v2", tags=["server"])
    async def server() -> dict[str, Any]:
        return {"name": "aetheria", "version": aetheria.__version__, "extensions": _EXTENSIONS}

    @app.get("/v2/health/live", tags=["server"])
    async def live() -> dict[str, bool]:
        return {"live": True}

    @app.get("/v2/health/ready", tags=["server"])
    async def ready() -> JSONResponse:
        is_open = serving.gate.is_open
        return JSONResponse({"ready": is_open}, 200 if is_open else 503)

    @app.get("/v2/models/{name}", tags=["models"])
    async def metadata(name: str) -> dict[str, Any]:
        return _metadata(*serving.find(name))

    @app.get("/v2/models/{name}/versions/{version}", tags=["models"])
    async def metadata_of_version(name: str, version: str) -> dict[str, Any]:
        return _metadata(*serving.find(name, version))

    @app.get("/v2/models/{name}/ready", tags=["models"])
    async def model_ready(name: str) -> JSONResponse:
        return _ready(serving, name)

    @app.get("/v2/models/{name}/versions/{version}/ready", tags=["models"])
    async def version_ready(name: str, version: str) -> JSONResponse:
        return _ready(serving, name, version)

    @app.post("/v2/repository/index", tags=["repository"])
    async def index() -> list[dict[str, str]]:
        return [
            {"name": name, "version": model.version.name, "state": "READY", "reason": ""}
            for name, model in serving.models.items()
        ]

    if serving.can_load:

        @app.post("/v2/repository/models/{name}/load", tags=["repository"])
        async def load(name: str) -> dict[str, Any]:
            model, _ = serving.find(name)
            loop = asyncio.get_running_loop()
            try:
                is_new = await loop.run_in_executor(None, serving.reload, model)
            except AetheriaError as error:
                raise RequestError(409, str(error)) from error
            return {"version": model.version.name, "reloaded": is_new}


def _add_predictions(app: FastAPI, serving: Serving) -> None:
    @app.post("/v2/models/{name}/infer", tags=["predictions"], openapi_extra=INFER_BODY)
    async def infer(name: str, request: Request) -> Response:
        return await _infer(serving, request, *serving.find(name))

    @app.post(
        "/v2/models/{name}/versions/{version}/infer",
        tags=["predictions"],
        openapi_extra=INFER_BODY,
    )
    async def infer_by_version(name: str, version: str, request: Request) -> Response:
        return await _infer(serving, request, *serving.find(name, version))


async def _infer(
    serving: Serving, request: Request, model: ServedModel, version: Version
) -> Response:
    """Answers a request by one version, also if another replaces it meanwhile.

    The order: the gate first, so that a full server reads no body; then the body, which the client
    may send slowly; then three parts that run in threads: to read the request, to compute, and to
    write the answer.
    """
    loop, limits = asyncio.get_running_loop(), serving.limits
    with serving.gate.passage():
        deadline = loop.time() + limits.request_seconds
        try:
            async with asyncio.timeout_at(deadline):
                body = await read_body(request, limits)
        except TimeoutError as error:
            raise RequestError(
                408,
                f"body: expected all of it within {limits.request_seconds:g} seconds, got a part; "
                "send it faster",
            ) from error
        header_length = request.headers.get(HEADER_LENGTH)
        try:
            async with asyncio.timeout_at(deadline):
                asked, inputs, wanted = await loop.run_in_executor(
                    serving.pool, _read, version, body, header_length, limits.max_rows
                )
                arrays = await _compute(model, version, inputs, wanted)
                notes = {"model": model.name, "version": version.name, "bytes": len(body)}
                request.scope[NOTES].update(notes)
                return await loop.run_in_executor(
                    serving.pool, _write, model, version, asked, wanted, arrays
                )
        except TimeoutError as error:
            raise RequestError(
                503,
                f"server: expected an answer within {limits.request_seconds:g} seconds, got none; "
                "ask for fewer rows, or try again later",
                1,
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


def _ready(serving: Serving, name: str, version: str | None = None) -> JSONResponse:
    model, current = serving.find(name, version)
    is_open = serving.gate.is_open
    said = {"name": model.name, "version": current.name, "ready": is_open}
    return JSONResponse(said, 200 if is_open else 503)


def _metadata(model: ServedModel, version: Version) -> dict[str, Any]:
    predictor = version.predictor
    parameters: dict[str, Any] = {
        "snapshot": str(predictor.snapshot),
        "classes": [*predictor.classes],
        "equal_batch_sizes": {
            PROBABILITIES if wanted else OUTPUTS: sorted(map(sorted, set(sets.values())))
            for wanted, sets in version.equal_buckets.items()
        },
    }
    picture_shape = getattr(predictor.encoding, "shape", None)
    if picture_shape is not None:
        parameters["pictures"] = [*picture_shape]
    return {
        "name": model.name,
        "versions": [version.name],
        "platform": "aetheria_jax",
        "inputs": [spec._asdict() for spec in version.inputs],
        "outputs": [spec._asdict() for spec in version.outputs],
        "parameters": parameters,
    }
