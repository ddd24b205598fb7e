"""Speed and memory of Aetheria beside hand-written loops and other trainers, as ratios.

    python scripts/bench.py [--works mlp,cnn,lm] [--contestants NAMES | all] [--pairs 2] [--json]
    python scripts/bench.py --setup FOLDER      # environments for the peers
    python scripts/bench.py --peers FOLDER      # with these
    python scripts/bench.py --device gpu [--mixed-precision]
    python scripts/bench.py --saves [--pairs 5] # what a snapshot costs, by size; no works
    python scripts/bench.py --predict [--pairs 9] [--works mlp,cnn]  # calls of a Predictor
    python scripts/bench.py --serve [--pairs 5] [--works mlp] [--peers FOLDER]  # requests over HTTP
    python scripts/bench.py --listeners [--pairs 5]  # all loggers and callbacks beside none
    python scripts/bench.py --startup [--pairs 5] [--works mlp,cnn]  # seconds to the first step

Each measurement is a process of its own; the contestants take turns (A B C A B C …), so that a
machine whose speed drifts serves all alike, and a figure is the median of the rounds' ratios.
Compilation is not counted. What runs, and what it is compared with: `benchmarks/contestants.py`.
"""

import argparse
import json
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from benchmarks import startup
from benchmarks.contestants import (
    CONTESTANTS,
    DEFAULT,
    LISTENERS,
    PEERS,
    PREDICT,
    SAVE_SIZES,
    SAVES,
)
from benchmarks.environments import make_environments, missing
from benchmarks.figures import (
    predictions_table,
    reduce_work,
    saves_table,
    served_table,
    starts_table,
    table,
)
from benchmarks.processes import ContestantError, measure
from benchmarks.serve import measure_serve
from benchmarks.works import WORKS, describe

from aetheria.errors import AetheriaError

_CADENCE = 100  # of Aetheria's reports, between which it is measured
_FIND_GPU = "import jax; jax.devices('gpu')"


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """Reads the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--works", type=_names(WORKS), default=list(WORKS), help="default: all")
    add(
        "--contestants",
        type=_names(CONTESTANTS),
        help=f"of {','.join(CONTESTANTS)}; default: {','.join(DEFAULT)}, and peers if there are",
    )
    add("--pairs", type=_count, default=2, help="rounds of all contestants; default: 2")
    add("--steps", type=_steps, help=f"steps measured, a multiple of {_CADENCE}")
    add("--device", choices=("cpu", "gpu"), default="cpu")
    add("--mixed-precision", action="store_true", help="compute in bfloat16")
    add("--peers", type=_folder, metavar="FOLDER", help="where --setup made the environments")
    add("--setup", type=_folder, metavar="FOLDER", help="make the peers' environments, and leave")
    add("--saves", action="store_true", help="measure saves of 1, 100 and 1,000 MB, and leave")
    add("--predict", action="store_true", help="measure predictions of the works, and leave")
    add("--serve", action="store_true", help="measure requests to a server, and leave")
    add("--listeners", action="store_true", help=f"short for --contestants {','.join(LISTENERS)}")
    add("--startup", action="store_true", help="measure starts of mlp and cnn, and leave")
    add("--launcher", type=shlex.split, default=[], help="such as 'taskset -c 0,1'")
    add("--json", action="store_true", help="figures for programs, and each round's")
    options = parser.parse_args(arguments)
    if options.listeners and options.contestants:
        parser.error("--listeners: expected it without --contestants, got both; leave one out")
    if options.listeners:
        options.contestants = list(LISTENERS)
    if options.peers and (absent := missing(options.peers)):
        parser.error(f"--peers: expected {', '.join(absent)} in {options.peers}; --setup it")
    return options


def _names(known: Any) -> Any:
    def parse_names(text: str) -> list[str]:
        names = list(known) if text == "all" else text.split(",")
        if unknown := [name for name in names if name not in known]:
            raise argparse.ArgumentTypeError(
                f"expected some of {', '.join(known)}, got {unknown[0]!r}; use these"
            )
        return names

    return parse_names


def _count(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"expected a number above 0, got {text!r}; use 3")
    return int(text)


def _steps(text: str) -> int:
    if _count(text) % _CADENCE:
        raise argparse.ArgumentTypeError(
            f"expected a multiple of {_CADENCE}, got {text}; use {_CADENCE}"
        )
    return int(text)


def _folder(text: str) -> Path:
    return Path(text).absolute()


def choose(options: argparse.Namespace) -> list[str]:
    """The contestants that can run; says who is left out."""
    names = options.contestants or [*DEFAULT, *(PEERS if options.peers else ())]
    absent = PEERS if not options.contestants else [name for name in names if name in PEERS]
    if options.peers or not absent:
        return names
    _say(f"left out without --peers FOLDER: {', '.join(absent)}")
    return [name for name in names if name not in PEERS]


def run_work(name: str, contestants: Sequence[str], options: argparse.Namespace) -> Any:
    """Measures a work; returns its report, or None if its data is not there."""
    work = WORKS[name]
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder) / "data.npz"
        try:
            spec = describe(work, options.device, options.mixed_precision, data)
        except AetheriaError as error:
            _say(f"{name}: skipped: {error}")
            return None
        num_steps = options.steps or work.num_steps
        spec |= {"work": name, "device": options.device, "num_steps": num_steps}
        spec["snapshot_every"] = work.snapshot_every
        rounds, failures = run_rounds(spec, contestants, options)
    batch_size = spec["config"]["batch_size"]
    about = {"title": work.title, "batch_size": batch_size, "steps": num_steps}
    return {**about, **reduce_work(name, rounds), "rounds": rounds, "failures": failures}


def run_rounds(
    spec: dict[str, Any], contestants: Sequence[str], options: argparse.Namespace
) -> tuple[list[dict[str, Any]], dict[str, str]]:
    """Measures in turns; one that fails is left out of all rounds, and the others go on."""
    rounds: list[dict[str, Any]] = []
    failures: dict[str, str] = {}
    for number in range(options.pairs):
        rounds.append({})
        for each in (name for name in contestants if name not in failures):
            _say(f"{spec['work']}: round {number + 1} of {options.pairs}: {each}")
            try:
                rounds[-1][each] = measure(
                    each, CONTESTANTS[each], spec, options.peers, options.launcher
                )
            except ContestantError as error:
                _say(f"bench: {error}")
                failures[each] = str(error)
            else:
                _say(f"  {json.dumps(rounds[-1][each])[:200]}")
    sound = [{name: f for name, f in each.items() if name not in failures} for each in rounds]
    return sound, failures


def run_saves(options: argparse.Namespace) -> int:
    """Measures and prints what a snapshot costs; returns the exit code."""
    with tempfile.TemporaryDirectory() as folder:
        spec = describe(WORKS["mlp"], options.device, False, Path(folder) / "data.npz")
    spec |= {"device": options.device, "sizes": SAVE_SIZES, "num_rounds": options.pairs}
    try:
        sizes = measure("saves", SAVES, spec, None, options.launcher)
    except ContestantError as error:
        _say(f"bench: {error}")
        return 1
    if options.json:
        print(json.dumps({"device": options.device, "saves": sizes}, indent=2))
    else:
        print(f"saves, {options.pairs} rounds (medians, least to most)\n{saves_table(sizes)}")
    return 0


def run_predict(options: argparse.Namespace) -> int:
    """Measures and prints what predictions cost; returns the exit code."""
    works: dict[str, Any] = {}
    for work in options.works:
        _say(f"predictions of {work}: {options.pairs} rounds")
        with tempfile.TemporaryDirectory() as folder:
            try:
                spec = describe(WORKS[work], options.device, False, Path(folder) / "data.npz")
                spec |= {"device": options.device, "num_rounds": options.pairs}
                works[work] = measure("predict", PREDICT, spec, None, options.launcher)["rounds"]
            except (AetheriaError, ContestantError) as error:
                _say(f"bench: {error}")
                return 1
    return _print_rounds(
        options,
        {"device": options.device},
        "predict",
        works,
        "predictions of {}",
        predictions_table,
    )


def run_serve(options: argparse.Namespace) -> int:
    """Measures and prints what a server answers; returns the exit code."""
    works: dict[str, Any] = {}
    if options.peers is None:
        _say("left out without --peers FOLDER: kserve")
    for work in options.works:
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            try:
                spec = describe(WORKS[work], "cpu", False, folder / "data.npz")
                works[work] = measure_serve(
                    spec, folder, options.pairs, options.peers, options.launcher, _say
                )
            except (AetheriaError, RuntimeError) as error:
                _say(f"bench: {error}")
                return 1
    return _print_rounds(options, {}, "serve", works, "requests to a server of {}", served_table)


def run_startup(options: argparse.Namespace) -> int:
    """Measures and prints what a start costs; returns the exit code."""
    works: dict[str, Any] = {}
    for work in (work for work in options.works if work in startup.WORKS):
        try:
            works[work] = startup.measure_startup(work, options.pairs, options.launcher, _say)
        except AetheriaError as error:
            _say(f"{work}: skipped: {error}")
        except subprocess.CalledProcessError as error:
            _say(f"bench: startup of {work}: {error}; it said\n{error.output}")
            return 1
    if not works:
        _say(f"--works: expected some of {', '.join(startup.WORKS)} for --startup; use mlp")
        return 2
    return _print_rounds(options, {}, "startup", works, "startup of configs/{}.py", starts_table)


def _print_rounds(
    options: argparse.Namespace,
    head: dict[str, Any],
    key: str,
    works: dict[str, Any],
    title: str,
    table_of: Callable[[Any], str],
) -> int:
    """Prints the rounds of works, as JSON or as tables; returns the exit code.

    Args:
        options: say which.
        head: what the JSON says beside.
        key: of the works in the JSON.
        works: work -> its rounds.
        title: of a table, with a place for the work.
        table_of: makes the text of a table.
    """
    if options.json:
        print(json.dumps({**head, key: works}, indent=2))
        return 0
    for work, rounds in works.items():
        print(f"{title.format(work)}, {len(rounds)} rounds (medians, least to most)")
        print(table_of(rounds))
    return 0


def main(arguments: Sequence[str]) -> int:
    """Runs and prints; returns the exit code."""
    options = parse(arguments)
    if options.setup:
        make_environments(options.setup, options.device)
        return 0
    if (
        options.device == "gpu"
        and subprocess.run(
            [sys.executable, "-c", _FIND_GPU], capture_output=True, check=False
        ).returncode
    ):
        _say("--device: expected a GPU that JAX finds, got none; use --device cpu")
        return 2
    if options.saves:
        return run_saves(options)
    if options.predict:
        return run_predict(options)
    if options.serve:
        return run_serve(options)
    if options.startup:
        return run_startup(options)
    contestants, reports, failed = choose(options), {}, False
    if not contestants:
        return 2
    for name in options.works:
        try:
            report = run_work(name, contestants, options)
        except ValueError as error:
            _say(f"bench: {error}")
            return 1
        if report is None:
            continue
        failed = failed or bool(report["failures"])
        reports[name] = report
        if not options.json:
            print(
                f"{name}: {report['title']}, batch {report['batch_size']}, {report['steps']} "
                f"steps, {options.pairs} rounds (medians, least to most)\n{table(report)}",
                flush=True,
            )
    if options.json:
        precision = "bfloat16" if options.mixed_precision else "float32"
        head = {"device": options.device, "precision": precision, "pairs": options.pairs}
        print(json.dumps({**head, "works": reports}, indent=2))
    return int(failed)


def _say(text: str) -> None:
    """To stderr, so that stdout holds figures alone."""
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
