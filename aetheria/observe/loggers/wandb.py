"""A logger for Weights & Biases (extra `wandb`)."""

import base64
import io
import json
import os
import struct
import urllib.parse
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from aetheria.config.json_types import JsonObject
from aetheria.errors import AetheriaError
from aetheria.events import EvaluationCompleted, Event, Histogram, RolledBack, TrainMetrics
from aetheria.observe.listener import RunContext
from aetheria.observe.loggers.credentials import has_netrc_entry
from aetheria.observe.loggers.service import Point, ServiceLogger
from aetheria.observe.loggers.settings import check_options, refuse_credentials
from aetheria.plugins import register_logger
from aetheria.plugins.packages import require_package

if TYPE_CHECKING:
    from aetheria.observe.probe import Probe

_MODES = (None, "online", "offline", "disabled")
_SET_HERE = ("dir", "config", "id", "resume")  # the arguments of wandb.init given by this logger


@register_logger("wandb")
class WandbLogger(ServiceLogger):
    """Logs to one W&B run; its id is in the snapshot, so a resumed run logs to the same one.

    With `layer_statistics.histograms`, also histograms of each layer's gradient and update, where
    `wandb.watch` has those of PyTorch. The API key is read by W&B, from WANDB_API_KEY or what
    `wandb login` has stored.

    Args:
        context: what every logger is given.
        project: the W&B project.
        mode: `online`, `offline` or `disabled`; None: the variable WANDB_MODE decides.
        histograms: whether to log, at every evaluation, a histogram of each parameter, with names
            such as `params/Dense_0/kernel`. All parameters are then copied to the host.
        samples: of how many examples of each evaluation split to log, at every evaluation, the
            predictions as a table, the inputs if they are pictures, the pictures that the model's
            hook `images` makes, and the confusion matrix if it is among the metrics.
        options: further arguments of `wandb.init`, except dir, config, id and resume.

    Raises:
        AetheriaError: wandb is not installed, or Pillow with `samples`; an argument is not one of
            these, or is a secret.
    """

    def __init__(
        self,
        context: RunContext,
        project: str = "aetheria",
        mode: str | None = None,
        histograms: bool = False,
        samples: int = 0,
        **options: object,
    ):
        super().__init__(context, "wandb")
        require_package("loggers.wandb", "wandb", "wandb")
        import wandb

        self._wandb: Any = wandb
        if mode not in _MODES:
            raise AetheriaError(
                f"loggers.wandb.mode: expected online, offline or disabled, got {mode!r}; change it"
            )
        refuse_credentials("loggers.wandb", options, "WANDB_API_KEY")
        check_options("loggers.wandb", options, wandb.init, _SET_HERE)
        self._options: dict[str, Any] = {"project": project, "mode": mode, **options}
        self._run: Any = None
        # None: the logger asks for no probe, and none is made for it.
        self._look, self.inspect = None, None
        if histograms or samples:
            from aetheria.observe.loggers.look import Look

            if samples:
                require_package("loggers.wandb.samples", "PIL", "wandb")
            self._look = Look("loggers.wandb", histograms=histograms, samples=samples)
            self.inspect = self._show

    def notify(self, event: Event) -> None:
        """Logs the values of an event with metrics."""
        if isinstance(event, RolledBack) and self._look is not None:
            self._look.go_back()
        super().notify(event)

    @staticmethod
    def preflight(arguments: Mapping[str, Any]) -> list[str]:
        """What `aetheria check` finds wrong before a run: no credentials for the service."""
        mode = arguments.get("mode") or os.environ.get("WANDB_MODE", "online")
        service = os.environ.get("WANDB_BASE_URL", "https://api.wandb.ai")
        host = urllib.parse.urlsplit(service).hostname or ""
        if mode != "online" or os.environ.get("WANDB_API_KEY") or has_netrc_entry(host):
            return []
        return [
            f"loggers.wandb: expected credentials for {host}, got none; set WANDB_API_KEY, run "
            "wandb login, or use mode: offline"
        ]

    def _open(self, run_id: str | None) -> str:
        self._run = self._wandb.init(
            dir=str(self._context.run_dir),
            config=dict(self._context.config),
            id=run_id,
            resume="allow" if run_id else None,
            **self._options,
        )
        # W&B's own step counter only grows: on that axis it would drop what belongs to earlier
        # steps than its last.
        self._run.define_metric("step")
        self._run.define_metric("*", step_metric="step")
        return self._run.id

    def _last_steps(self) -> dict[str, int] | None:
        """Reads the files in which W&B keeps what it was given, whether or not it is online."""
        files = sorted(self._context.run_dir.glob(f"wandb/*run-*-{self._run_id}/*.wandb"))
        last: dict[str, int] = {}
        for file in files:
            for row in _rows(file):
                if "step" in row:
                    last |= {name: row["step"] for name in row if "/" in name}
        return last if files else None

    def _send(self, points: Sequence[Point]) -> None:
        for point in points:
            media = {name: self._as_media(shown) for name, shown in point.media.items()}
            self._run.log({"step": point.step, "epoch": point.epoch, **point.values, **media})

    def _media_of(self, event: TrainMetrics) -> dict[str, JsonObject]:
        return {name: _histogram(each) for name, each in event.histograms.items()}

    def _show(self, event: EvaluationCompleted, probe: "Probe") -> None:
        assert self._look is not None
        view = self._look(event, probe)
        media = {name: _histogram(each) for name, each in view.histograms.items()}
        for name, images in view.images.items():
            files = [base64.b64encode(file).decode() for file in images.files]
            media[name] = {"images": files, "captions": images.captions}
        for name, table in view.tables.items():
            media[name] = {"columns": table.columns, "rows": table.rows}
        self._log(event, {}, media)

    def _as_media(self, shown: JsonObject) -> Any:
        """Makes W&B's object of what `_media_of` and `_show` have described."""
        match shown:
            case {"edges": edges, "counts": counts}:
                return self._wandb.Histogram(np_histogram=(counts, edges))
            case {"columns": columns, "rows": rows}:
                return self._wandb.Table(columns=columns, data=rows)
            case {"images": files, "captions": captions}:
                from PIL import Image

                opened = [Image.open(io.BytesIO(base64.b64decode(file))) for file in files]
                named = zip(opened, captions or [None] * len(opened), strict=True)
                return [self._wandb.Image(image, caption=caption) for image, caption in named]
        raise AssertionError(sorted(shown))

    def _close(self, status: str) -> None:
        self._run.finish(exit_code=0 if status == "completed" else 1)


def _histogram(histogram: Histogram) -> JsonObject:
    return {"edges": list(histogram.edges), "counts": list(histogram.counts)}


def _rows(file: Path) -> Iterator[dict[str, Any]]:
    """The logged rows of a `.wandb` file: protocol buffers in the log format of LevelDB, that is
    blocks of 32 KiB with records of checksum, length, kind (1 whole, 2 first, 3 middle, 4 last).
    """
    from wandb.proto.wandb_internal_pb2 import Record  # type: ignore[attr-defined]

    data, position, content = file.read_bytes(), 7, b""  # after the file's own header
    while position + 7 <= len(data):
        if (left := 32768 - position % 32768) < 7:
            position += left
            continue
        _, size, kind = struct.unpack_from("<IHB", data, position)
        position += 7 + size
        if position > len(data):
            return  # a kill left it half written
        content += data[position - size : position]
        if kind in (1, 4):
            record, content = Record.FromString(content), b""
            if record.HasField("history"):
                items = record.history.item
                # Of media, which are objects, by the names of their parts; and by their own.
                named = [("/".join(i.nested_key) or i.key, json.loads(i.value_json)) for i in items]
                media = [(name.removesuffix("/_type"), None) for name, _ in named]
                yield {**dict(media), **dict(named)}
