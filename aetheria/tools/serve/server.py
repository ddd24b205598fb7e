"""The process that serves: its socket, its end on a signal, and its look for newer snapshots."""

import socket
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import FrameType

import uvicorn

from aetheria.errors import AetheriaError
from aetheria.tools.serve.app import make_app
from aetheria.tools.serve.connection import bounded_connection
from aetheria.tools.serve.gate import Gate, Limits
from aetheria.tools.serve.log import JsonLog, restore_library_logs, route_library_logs
from aetheria.tools.serve.metrics import Metrics
from aetheria.tools.serve.served import ServedModel, ServingOptions
from aetheria.tools.serve.serving import Serving
from aetheria.tools.serve.watch import Watch

_LOOPBACK = ("127.", "::1")
_AFTER_ANSWER_SECONDS = 10.0  # to send an answer to a slow client
_BACKLOG = 2048
_SEND_SECONDS = 2  # the same, when the server ends


def serve(
    references: Sequence[tuple[str, str]],
    address: tuple[str, int],
    *,
    options: ServingOptions,
    limits: Limits,
    token: str | None = None,
    reload_seconds: float | None = None,
) -> None:
    """Serves models until SIGTERM or SIGINT: then readiness ends at once, and what is under way is
    answered. A second signal does not wait for that.

    Args:
        references: name and reference of each model.
        address: host and port; port 0: any that is free, which the log says.
        options: how models are served.
        limits: of requests.
        token: what clients must send; None: nothing.
        reload_seconds: how often to look for newer snapshots; None: never.

    Raises:
        AetheriaError: the port is taken, or a model cannot be loaded.
    """
    with _listening(*address) as listener, _logging() as log:
        gate = Gate(limits)
        metrics = Metrics(lambda: gate.active)
        models = {}
        for name, reference in references:
            models[name] = _load(name, reference, options, log, metrics)
        serving = Serving(models, limits, gate, metrics, log, can_load=token is not None)
        config = uvicorn.Config(
            Watch(make_app(serving), token, log, metrics),
            http=bounded_connection(2 * limits.request_seconds + _AFTER_ANSWER_SECONDS),
            ws="none",
            lifespan="off",
            log_config=None,
            access_log=False,
            server_header=False,
            backlog=_BACKLOG,
            timeout_graceful_shutdown=_SEND_SECONDS,
        )
        host, port = listener.getsockname()[:2]
        shown_host = f"[{host}]" if ":" in host else host
        if token is None and not host.startswith(_LOOPBACK):
            log("warning", text=f"{host}: anybody who reaches this address may ask; set a token")
        listener.listen(_BACKLOG)  # so that nobody who reads the next line is refused
        log("serving", url=f"http://{shown_host}:{port}", models=[*models])
        with _reloading(serving, reload_seconds):
            GracefulServer(config, gate, limits.grace_seconds).run(sockets=[listener])
        serving.pool.shutdown(wait=False, cancel_futures=True)
        log("ended", unanswered=gate.active)


class GracefulServer(uvicorn.Server):
    """Listens on after a signal until what is under way is answered, so that a load balancer sees
    that it is not ready.
    """

    def __init__(self, config: uvicorn.Config, gate: Gate, grace_seconds: float):
        super().__init__(config)
        self._gate, self._grace_seconds = gate, grace_seconds
        self._end_at = float("inf")

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Handles a signal; the second one does not wait."""
        self._end_at = time.monotonic() + (self._grace_seconds if self._gate.is_open else 0.0)
        self._gate.is_open = False

    async def on_tick(self, counter: int) -> bool:
        """Runs ten times a second; returns whether to end."""
        if time.monotonic() >= self._end_at:
            self._gate.expire()  # which answers what is under way with 503
        if not self._gate.is_open and self._gate.active == 0:
            self.should_exit = True
        return await super().on_tick(counter)


def _load(
    name: str, reference: str, options: ServingOptions, log: JsonLog, metrics: Metrics
) -> ServedModel:
    started = time.perf_counter()
    model = ServedModel(name, reference, options, metrics.computed(name))
    version = model.version
    metrics.loaded(name, "ok", version.predictor.step)
    sizes = {size for sets in version.joinable.equal_buckets.values() for size in sets}
    log(
        "loaded",
        model=name,
        version=version.name,
        snapshot=str(version.predictor.snapshot),
        seconds=round(time.perf_counter() - started, 3),
        joins_calls=options.max_delay_seconds > 0 and max(sizes, default=1) > 1,
    )
    return model


@contextmanager
def _listening(host: str, port: int) -> Iterator[socket.socket]:
    """A socket that is bound before anything slow is loaded."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        listener = socket.socket(family, kind, protocol)
    except OSError as error:
        raise _cannot_listen(host, port, error) from error
    with listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind(address)
        except OSError as error:
            raise _cannot_listen(host, port, error) from error
        yield listener


def _cannot_listen(host: str, port: int, error: OSError) -> AetheriaError:
    return AetheriaError(
        f"serve: expected an address to listen on, got {host}:{port} ({error.strerror}); choose "
        "another --port or --host"
    )


@contextmanager
def _logging() -> Iterator[JsonLog]:
    log = JsonLog()
    handler = route_library_logs(log)
    try:
        yield log
    finally:
        restore_library_logs(handler)
        log.close()


@contextmanager
def _reloading(serving: Serving, seconds: float | None) -> Iterator[None]:
    """Looks for newer snapshots inside the block, in a thread."""
    if seconds is None:
        yield
        return
    ended = threading.Event()

    def look() -> None:
        while not ended.wait(seconds):
            for model in serving.models.values():
                try:
                    serving.reload(model)
                except AetheriaError:
                    pass  # logged and counted; the old weights serve on, and it looks again
                except Exception as error:  # as of the user's model: neither may it end the looks
                    serving.log("reload_failed", model=model.name, error=repr(error))

    thread = threading.Thread(target=look, name="reload", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join(timeout=1.0)
