"""The addresses of the server: what is asked at each, and what is answered."""

import asyncio
from importlib.resources import files
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.responses import HTMLResponse, JSONResponse
from starlette.exceptions import HTTPException

import aetheria
from aetheria.errors import AetheriaError
from aetheria.tools.serve.errors import RequestError
from aetheria.tools.serve.openapi import ERRORS, INFER_BODY
from aetheria.tools.serve.predictions import answer_request
from aetheria.tools.serve.served import (
    OUTPUTS,
    PROBABILITIES,
    ServedModel,
    Version,
)
from aetheria.tools.serve.serving import Serving
from aetheria.tools.serve.watch import NOTES

_EXTENSIONS = ["binary_tensor_data", "model_repository"]
_PAGE_POLICY = (
    "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; "
    "connect-src 'self'; img-src blob:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)


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
        return await answer_request(serving, request, *serving.find(name))

    @app.post(
        "/v2/models/{name}/versions/{version}/infer",
        tags=["predictions"],
        openapi_extra=INFER_BODY,
    )
    async def infer_by_version(name: str, version: str, request: Request) -> Response:
        return await answer_request(serving, request, *serving.find(name, version))


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
            for wanted, sets in version.joinable.equal_buckets.items()
        },
    }
    if version.picture_shape is not None:
        parameters["pictures"] = [*version.picture_shape]
    return {
        "name": model.name,
        "versions": [version.name],
        "platform": "aetheria_jax",
        "inputs": [spec._asdict() for spec in version.inputs],
        "outputs": [spec._asdict() for spec in version.outputs],
        "parameters": parameters,
    }
