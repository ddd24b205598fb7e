"""A plan as text."""

from collections.abc import Iterator, Mapping
from typing import Any, TypeAlias

from aetheria.snapshots.sizes import size_text

Part: TypeAlias = Mapping[str, Any]  # JSON values of a plan, or of a part of it

_MEMORY_ROWS = ("params", "opt_state", "model_state", "batch", "temporaries", "peak")


def describe(plan: Part) -> Iterator[str]:
    """The lines of a plan: what `analysis.analyze` returns, with assumptions."""
    mesh = " x ".join(f"{axis}={size}" for axis, size in plan["mesh"].items())
    yield f"One train step on {mesh}, each device:"
    yield ""
    yield from _memory(plan["memory"])
    yield ""
    yield from _collectives(plan["collectives"])
    yield ""
    yield from _whole_leaves(plan["whole_leaves"])
    yield from _estimate(plan)
    yield "Assumptions:"
    yield from (f"- {note}" for note in plan["assumptions"])


def _memory(memory: Part) -> Iterator[str]:
    yield from (f"  {name:<12}{size_text(memory[name]):>12}" for name in _MEMORY_ROWS)
    if memory["fits"] is not None:
        verdict = "fits in" if memory["fits"] else "does NOT fit in"
        yield f"  {verdict} {size_text(memory['limit'])}"


def _collectives(collectives: list[Part]) -> Iterator[str]:
    if not collectives:
        yield "No collectives."
        return
    yield f"  {'collective':<20}{'along':<20}{'count':>7}{'makes':>12}{'sends':>12}"
    for each in collectives:
        axes = "+".join(each["axes"]) or "-"
        made, sent = size_text(each["result_bytes"]), size_text(each["sent_bytes"])
        yield f"  {each['kind']:<20}{axes:<20}{each['count']:>7}{made:>12}{sent:>12}"


def _whole_leaves(leaves: list[Part]) -> Iterator[str]:
    if not leaves:
        return
    yield "Large leaves that an axis could split, but does not:"
    for leaf in leaves:
        axes = ", ".join(leaf["whole_over"])
        rule = f"; a rule: {leaf['rule']}" if leaf["rule"] else "; no dim divides"
        rule = rule if leaf["is_param_copy"] else "; no copy of a parameter"
        size = size_text(leaf["device_bytes"])
        yield f"  {leaf['leaf']} {leaf['shape']}, {size}, whole over {axes}{rule}"
    yield ""


def _estimate(plan: Part) -> Iterator[str]:
    operations, estimate, machine = plan["operations"], plan["estimate"], plan["machine"]
    yield (
        f"{operations['flops_per_device']:.4g} FLOPs of {operations['flops_per_step']:.4g} over "
        "all devices"
    )
    yield (
        f"at {machine['peak_tflops']:g} TFLOP/s: {_milliseconds(estimate['compute_seconds'])}; "
        f"memory at {machine['hbm_gbps']:g} GB/s: {_milliseconds(estimate['memory_seconds'])}; "
        f"links at {machine['link_gbps']:g} GB/s: {_milliseconds(estimate['link_seconds'])}"
    )
    yield (
        f"a step takes {_milliseconds(estimate['step_seconds_overlapped'])} (MFU "
        f"{estimate['mfu_overlapped']:.0%}) if these overlap, "
        f"{_milliseconds(estimate['step_seconds_sequential'])} (MFU "
        f"{estimate['mfu_sequential']:.0%}) if devices wait for their links"
    )
    yield ""


def _milliseconds(seconds: float) -> str:
    return f"{seconds * 1e3:.3g} ms"
