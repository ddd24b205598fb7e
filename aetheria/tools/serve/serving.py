"""What all addresses of a server share."""

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

from aetheria.errors import AetheriaError, shown
from aetheria.tools.serve.errors import RequestError
from aetheria.tools.serve.gate import Gate, Limits
from aetheria.tools.serve.log import JsonLog
from aetheria.tools.serve.metrics import Metrics
from aetheria.tools.serve.served import ServedModel, Version


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
