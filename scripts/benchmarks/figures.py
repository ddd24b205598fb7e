"""From measurements to figures: medians, ratios of what ran side by side, and the table."""

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks.contestants import (
    BLOCKING_BAR,
    BY_HAND,
    CHECK_BAR,
    CHECK_EVERY,
    COMPARISONS,
    GUARD_BARS,
    IN_BOUTS,
    PREDICT_BARS,
    SAVE_BARS,
    START_BARS,
)

Round = Mapping[str, Mapping[str, Any]]  # contestant -> what its process wrote


def reduce_work(work: str, rounds: Sequence[Round]) -> dict[str, Any]:
    """Reduces the rounds of a work to JSON values: each ratio is taken within a round.

    Raises:
        ValueError: contestants with different numbers of parameters: they did not do one work.
    """
    names = [name for name in rounds[0] if name not in IN_BOUTS]
    _check_sizes(work, rounds[0], names)
    report: dict[str, Any] = {
        "contestants": {name: _summary([each[name] for each in rounds]) for name in names},
        "ratios": [
            {
                "of": item.of,
                "over": item.over,
                **_spread(_ratios(rounds, item.of, item.over, "steps_per_second")),
                "cpu": _spread(_ratios(rounds, item.over, item.of, "cpu_ms_per_step")),
                "bar": item.bars.get(work),
            }
            for item in COMPARISONS
            if item.of in names and item.over in names
        ],
    }
    if "aetheria" in names and set(names) & set(BY_HAND):
        report["over_fastest_by_hand"] = _spread([_over_fastest(each) for each in rounds])
    if "guard" in rounds[0]:
        ratios = [r for each in rounds for r in each["guard"]["guarded_over_unguarded"]]
        report["guard"] = {**_bouts(ratios), "bar": GUARD_BARS.get(work)}
    if "checked" in rounds[0]:
        measured = [each["checked"] for each in rounds]
        bouts = _bouts([r for each in measured for r in each["checked_over_unchecked"]])
        stated = 1 / (CHECK_EVERY * measured[0]["lanes_a_device"])
        cost = (bouts["time_ratio"] - 1) / CHECK_EVERY
        report["checked"] = {**bouts, "stated": stated, "cost": cost, "bar": CHECK_BAR}
    return report


def _bouts(ratios: Sequence[float]) -> dict[str, Any]:
    low, median, high = statistics.quantiles(ratios, n=4)
    return {"time_ratio": median, "quartiles": [low, high], "num_bouts": len(ratios)}


def _over_fastest(figures: Round) -> float:
    """Aetheria's rate over that of the fastest loop by hand in the round."""
    by_hand = [figures[name]["steps_per_second"] for name in BY_HAND if name in figures]
    return figures["aetheria"]["steps_per_second"] / max(by_hand)


def _check_sizes(work: str, figures: Round, names: Sequence[str]) -> None:
    sizes = {name: figures[name]["num_params"] for name in names}
    if len(set(sizes.values())) > 1:
        raise ValueError(f"{work}: expected one number of parameters, got {sizes}; fix the model")


def _ratios(rounds: Sequence[Round], top: str, bottom: str, figure: str) -> list[float]:
    return [each[top][figure] / each[bottom][figure] for each in rounds]


def _spread(values: Sequence[float]) -> dict[str, float]:
    return {"median": statistics.median(values), "min": min(values), "max": max(values)}


def _summary(results: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    return {
        "steps_per_second": _spread([each["steps_per_second"] for each in results]),
        "cpu_ms_per_step": statistics.median(each["cpu_ms_per_step"] for each in results),
        "peak_rss_mib": statistics.median(each["peak_rss_mib"] for each in results),
        "loss": statistics.median(each["loss"] for each in results),
        "listening": statistics.median(each["listening"] for each in results),
        "num_params": results[0]["num_params"],
        "versions": results[0]["versions"],
    }


def table(report: Mapping[str, Any]) -> str:
    """The figures of a work as text."""
    lines = []
    for name, each in report["contestants"].items():
        rate = each["steps_per_second"]
        lines.append(
            f"  {name:10} {_number(rate['median'])} steps/s "
            f"({_number(rate['min'])} to {_number(rate['max'])}) "
            f"{each['cpu_ms_per_step']:8.3f} ms of CPU a step {each['peak_rss_mib']:6.0f} MiB   "
            f"loss {each['loss']:.3f}"
        )
    if listened := report["contestants"].get("listened"):
        lines.append(f"  of its time, listeners kept the loop for {listened['listening']:.3%}")
    for ratio in report["ratios"]:
        lines.append(
            f"  {ratio['of']} / {ratio['over']}: {_text(ratio)}, by CPU time {_text(ratio['cpu'])}"
            f"{_verdict(ratio['bar'], ratio['median'], least=True)}"
        )
    if fastest := report.get("over_fastest_by_hand"):
        lines.append(f"  aetheria / the fastest loop by hand: {_text(fastest)}")
    if guard := report.get("guard"):
        lines.append(
            f"  a step's time with the guard / without: {_bouts_text(guard)}"
            f"{_verdict(guard['bar'], guard['time_ratio'], least=False)}"
        )
    if checked := report.get("checked"):
        lines.append(
            f"  a step's time with a spot check / without: {_bouts_text(checked)}; one in "
            f"{CHECK_EVERY} costs {checked['cost']:.2%}, stated {checked['stated']:.2%}"
            f"{_verdict(checked['bar'], abs(checked['cost'] - checked['stated']), least=False)}"
        )
    lines += [f"  {name}: FAILED" for name in report.get("failures", {})]
    return "\n".join(lines)


def _bouts_text(found: Mapping[str, Any]) -> str:
    low, high = found["quartiles"]
    return (
        f"{found['time_ratio']:.3f} (quartiles {low:.3f} to {high:.3f} of {found['num_bouts']} "
        "bouts)"
    )


def saves_table(sizes: Mapping[str, Mapping[str, Any]]) -> str:
    """The figures of saves as text: medians, and ratios taken within a round."""
    lines = []
    for size, each in sizes.items():
        rounds = each["rounds"]
        medians = {name: statistics.median(r[name] for r in rounds) for name in rounds[0]}
        lines.append(
            f"  {each['size_bytes'] / 1e6:.0f} MB: keeps the loop waiting "
            f"{_ms(medians['blocking'])}"
            f"{_verdict(1000 * BLOCKING_BAR, 1000 * medians['blocking'], least=False)}\n"
            f"    whole {_ms(medians['ours'])}, raw {_ms(medians['raw'])}, Orbax alone "
            f"{_ms(medians['orbax'])}; read, verified and placed {_ms(medians['resume'])}"
        )
        for other in ("raw", "orbax"):
            ratio = _spread([r["ours"] / r[other] for r in rounds])
            against, bar = SAVE_BARS.get(size, ("", 0.0))
            verdict = _verdict(bar, ratio["median"], least=False) if against == other else ""
            lines.append(f"    whole / {other}: {_text(ratio)}{verdict}")
    return "\n".join(lines)


def predictions_table(rounds: Sequence[Round]) -> str:
    """The figures of predictions as text: rates of batches, and times of calls of one row."""
    ways = [way for way in rounds[0] if way != "by hand"]
    name = "rows_per_second"
    rates = {way: statistics.median(r[way][name] for r in rounds) for way in rounds[0]}
    lines = [f"  batches: by hand {rates['by hand']:.0f} rows/s"]
    for way in ways:
        ratio = _spread(_ratios(rounds, way, "by hand", name))
        verdict = _verdict(PREDICT_BARS[name], ratio["median"], least=True)
        lines.append(f"    {way}: {rates[way]:.0f} rows/s, ratio {_text(ratio)}{verdict}")
    for num_threads in rounds[0]["by hand"]["latencies"]:
        lines.append(f"  one row, {num_threads} {'thread' if num_threads == '1' else 'threads'}:")
        for name, quantile in (("p50", 50), ("p99", 99)):
            times = [
                {way: _percentile(r[way]["latencies"][num_threads], quantile) for way in r}
                for r in rounds
            ]
            medians = {way: statistics.median(each[way] for each in times) for way in times[0]}
            lines.append(f"    {name}: by hand {_us(medians['by hand'])}")
            for way in ways:
                ratio = _spread([each[way] / each["by hand"] for each in times])
                verdict = _verdict(PREDICT_BARS[name], ratio["median"], least=False)
                lines.append(f"      {way}: {_us(medians[way])}, ratio {_text(ratio)}{verdict}")
    return "\n".join(lines)


def _percentile(values: Sequence[float], percent: int) -> float:
    return statistics.quantiles(values, n=100)[percent - 1]


def _us(seconds: float) -> str:
    return f"{1e6 * seconds:.0f} µs"


def served_table(rounds: Sequence[Mapping[str, Any]]) -> str:
    """The figures of servers as text, by kind of load; ratios are Aetheria's over another's."""
    lines = []
    for load in rounds[0]["aetheria"]:
        lines.append(f"  {load}:")
        figures = [{name: each[name][load] for name in each} for each in rounds]
        for name in figures[0]:
            figure = {f: statistics.median(r[name][f] for r in figures) for f in figures[0][name]}
            line = (
                f"    {name}: {figure['requests_per_second']:.0f} requests/s, p50 "
                f"{1000 * figure['p50']:.2f} ms, p99 {1000 * figure['p99']:.2f} ms"
            )
            if name != "aetheria":
                of = ("aetheria", name)
                rate = _spread(_ratios(figures, *of, "requests_per_second"))
                p99 = _spread(_ratios(figures, *of, "p99"))
                line += f"; aetheria / {name}: rate {_text(rate)}, p99 {_text(p99)}"
            lines.append(line)
    return "\n".join(lines)


def starts_table(rounds: Sequence[Round]) -> str:
    """The figures of starts as text: medians, and ratios taken within a round."""
    lines = []
    for name in rounds[0]:
        medians = {f: statistics.median(r[name][f] for r in rounds) for f in rounds[0][name]}
        lines.append(
            f"  {name:8} first step after {medians['first_step']:6.2f} s, whole "
            f"{medians['whole']:6.2f} s, {medians['cpu']:6.2f} s of CPU, "
            f"{medians['peak_rss_mib']:5.0f} MiB"
        )
    for (name, figure), bar in START_BARS.items():
        ratio = _spread(_ratios(rounds, name, "by hand", figure))
        verdict = _verdict(bar, ratio["median"], least=False)
        lines.append(f"  {name} / by hand, {figure}: {_text(ratio)}{verdict}")
    return "\n".join(lines)


def _ms(seconds: float) -> str:
    return f"{1000 * seconds:.1f} ms"


def _text(spread: Mapping[str, float]) -> str:
    return f"{spread['median']:.3f} ({spread['min']:.3f} to {spread['max']:.3f})"


def _number(value: float) -> str:
    return f"{value:.0f}" if value >= 100 else f"{value:.2f}"


def _verdict(bar: float | None, value: float, *, least: bool) -> str:
    if bar is None:
        return ""
    met = value >= bar if least else value <= bar
    return f"   {'at least' if least else 'at most'} {bar:g}: {'met' if met else 'MISSED'}"
