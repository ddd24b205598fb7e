"""A group of intervals that one process replays: those of one config. Its JSON form both ways."""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aetheria.engine.record import RunRecord
from aetheria.errors import AetheriaError, ExitCode
from aetheria.hardware.hidden_gpus import stay_where_it_was
from aetheria.hardware.virtual_devices import flags_for_devices, num_virtual_devices
from aetheria.snapshots.store import read_record
from aetheria.tools.prove.replay.intervals import Interval
from aetheria.tools.prove.replay.replayed import plain, read_interval
from aetheria.tools.prove.replay.setup import (
    Setup,
    check_devices,
    check_topology,
    count_devices,
    logs_lines,
    place,
    replayed_config,
    topology,
)

Answer = Callable[[str, object], None]


@dataclass(frozen=True, kw_only=True)
class Group:
    """Intervals to whose ends one config led, on the same devices.

    Attributes:
        run_dir: the run.
        intervals: in their order.
        setup: what the user decides.
        traceback: print the whole traceback of an error in the user's code.
    """

    run_dir: Path
    intervals: Sequence[Interval]
    setup: Setup
    traceback: bool = False

    @property
    def record(self) -> RunRecord:
        """What the last snapshot says of the run, unverified."""
        return read_record(self.intervals[-1].end).run

    def to_json(self) -> dict[str, Any]:
        """JSON values that `from_json` reads."""
        return plain(self)

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> "Group":
        setup = {**value["setup"], "project": Path(value["setup"]["project"])}
        return cls(
            run_dir=Path(value["run_dir"]),
            intervals=[read_interval(each) for each in value["intervals"]],
            setup=Setup(**setup),
            traceback=value["traceback"],
        )


def cut_into_groups(intervals: Iterable[Interval]) -> list[list[Interval]]:
    """Intervals in their order, together as long as one config on the same devices led to them."""
    groups: list[list[Interval]] = []
    before: object = None
    for interval in intervals:
        record = read_record(interval.end).run
        own = (record.config, topology(record))
        if groups and own == before:
            groups[-1].append(interval)
        else:
            groups.append([interval])
        before = own
    return groups


def replay_group(group: Group, answer: Answer) -> None:
    """Replays a group in this process.

    Args:
        group: the intervals.
        answer: is given `devices`, in words; `note`, a line for each thing that is not as it was
            recorded, before anything is computed; and `replayed`, for each interval.

    Raises:
        AetheriaError: the run cannot be replayed here.
    """
    record, where, setup = group.record, str(group.run_dir), group.setup
    check_topology(record, where, setup)
    config = replayed_config(record, where, setup)
    from aetheria.build import prepare_environment

    prepare_environment(config, os.environ)  # before JAX starts
    config = place(config, record, where, setup)
    from aetheria.tools.prove.replay.replayer import Replayer

    with tempfile.TemporaryDirectory(prefix="aetheria-replay-") as folder:
        replayer = Replayer(
            group.run_dir,
            config,
            setup.project,
            folder=Path(folder),
            tolerance=setup.tolerance,
            has_lines=logs_lines(record),
        )
        check_devices(record, replayer.record, where, setup)
        answer("devices", replayer.devices)
        for interval in group.intervals:
            for note in replayer.notes(read_record(interval.end)):
                answer("note", note)
        for interval in group.intervals:
            answer("replayed", replayer.replay(interval).to_json())


def replay_in_child(group: Group, answer: Answer) -> None:
    """Replays a group in a child process, because JAX reads the number of devices when it starts.

    Raises:
        AetheriaError: the run cannot be replayed here.
        ChildFailed: an error in the user's code, which is on stderr.
    """
    count = count_devices(group.record, group.setup)
    # Not the programs that the run itself compiled: they may be what is wrong.
    environment = {**os.environ, "JAX_ENABLE_COMPILATION_CACHE": "false"}
    stay_where_it_was(environment, group.record.machine)
    if count > (num_virtual_devices(os.environ) or 1):
        environment["XLA_FLAGS"] = flags_for_devices(os.environ, count)
    with subprocess.Popen(
        [sys.executable, "-m", "aetheria.tools.prove.replay"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=environment,
        text=True,
    ) as process:
        assert process.stdin is not None and process.stdout is not None
        with process.stdin as stdin:
            json.dump(group.to_json(), stdin)
        for line in process.stdout:
            ((kind, value),) = json.loads(line).items()
            if kind == "problems":
                raise AetheriaError(*value)
            answer(kind, value)
    if process.returncode != ExitCode.OK:
        raise ChildFailed(process.returncode)


class ChildFailed(Exception):
    """The process that replays ended with an error, which it has printed."""
