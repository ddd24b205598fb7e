"""Everything that a page shows of a run, read from its folder; what is damaged is left out."""

import json
import os
import re
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from aetheria.engine.typed_json import JsonObject
from aetheria.snapshots.run_folder import CHECKPOINTS, DUMPS, STACKS
from aetheria.snapshots.store import QUARANTINE
from aetheria.tools.report.curves import Curve, CurveName, read_curves
from aetheria.training.run_info import RunInfo, mapping, read_object, read_run

MAX_TEXT = 20_000  # characters of a file that is quoted
MAX_SAMPLES = 20
_MAX_ANCESTORS = 20


@dataclass(frozen=True, kw_only=True)
class Ancestor:
    """What a run started from.

    Attributes:
        text: the snapshot and its run, or the file.
        found: whether it is still there.
    """

    text: str
    found: bool


@dataclass(frozen=True, kw_only=True)
class RunFacts:
    """One run.

    Attributes:
        name: how the page calls it.
        info: its status, config, snapshots and processes.
        provenance: `provenance.json`.
        curves: what its loggers wrote.
        ancestors: what it was forked from, the nearest first.
        quarantined: names of damaged snapshots that were moved aside.
        dumps: path of each dump of a non-finite global batch, and what was not finite.
        stacks: name and text of what the watchdog wrote.
        proofs: name and text of `proof*.txt`: what `aetheria prove` printed.
        parity: name and content of `parity*.json`: what `aetheria parity --json` printed.
        samples: the last lines of `samples.jsonl`: predictions, an object each.
        problems: what cannot be read, a line each.
    """

    name: str
    info: RunInfo
    provenance: JsonObject
    curves: Mapping[CurveName, Curve] = field(repr=False)
    ancestors: Sequence[Ancestor]
    quarantined: Sequence[str]
    dumps: Sequence[tuple[str, str]]
    stacks: Sequence[tuple[str, str]]
    proofs: Sequence[tuple[str, str]]
    parity: Sequence[tuple[str, JsonObject]]
    samples: Sequence[JsonObject]
    problems: Sequence[str]


def read_facts(folder: Path) -> RunFacts:
    """Reads what there is of a run."""
    info = read_run(folder)
    problems = [info.problem] if info.problem else []
    return RunFacts(
        name=str(folder),
        info=info,
        provenance=read_object(folder / "provenance.json", problems),
        curves=read_curves(folder),
        ancestors=list(_ancestors(info)),
        quarantined=[path.name for path in _list(folder / CHECKPOINTS / QUARANTINE, "*")],
        dumps=[(str(path), _what(path)) for path in _list(folder / DUMPS, "*_step*")],
        stacks=_texts(folder, STACKS),
        proofs=_texts(folder, "proof*.txt"),
        parity=[(p.name, read_object(p, problems)) for p in _list(folder, "parity*.json")],
        samples=list(_samples(folder / "samples.jsonl")),
        problems=problems,
    )


def _ancestors(info: RunInfo) -> Iterator[Ancestor]:
    config, seen = info.config, {os.path.realpath(info.path)}
    while len(seen) <= _MAX_ANCESTORS:
        lineage = mapping(config.get("lineage"))
        if "file" in lineage:
            file = str(lineage["file"])
            yield Ancestor(text=f"weights of {file}", found=os.path.exists(file))
        if "run" not in lineage:
            return
        run = Path(str(lineage["run"]))
        text = f"{lineage.get('snapshot')} (step {lineage.get('step')}) of {run}"
        found = (run / CHECKPOINTS / str(lineage.get("snapshot"))).is_dir()
        yield Ancestor(text=text, found=found)
        if os.path.realpath(run) in seen:
            return
        seen.add(os.path.realpath(run))
        config = read_object(run / "config.json", [])


def _list(folder: Path, pattern: str) -> list[Path]:
    try:
        found = list(folder.glob(pattern))
    except OSError:
        return []
    return sorted(found, key=lambda p: [int(n) for n in re.findall(r"\d{1,18}", p.name)])


def _what(dump: Path) -> str:
    return str(read_object(dump / "record" / "metadata", []).get("what", "?"))


def _texts(folder: Path, pattern: str) -> list[tuple[str, str]]:
    found = []
    for path in _list(folder, pattern):
        try:
            with path.open(encoding="utf-8", errors="replace") as file:
                found.append((path.name, file.read(MAX_TEXT)))
        except OSError:
            continue
    return found


def _samples(file: Path) -> Iterator[JsonObject]:
    try:
        with file.open(encoding="utf-8", errors="replace") as lines:
            for line in deque(lines, MAX_SAMPLES):
                row = json.loads(line)
                if isinstance(row, dict):
                    yield row
    except (OSError, ValueError, RecursionError):
        return
