"""Compiles the training step for the present devices and computes what each of them needs."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any, TypeAlias

import jax

from aetheria.hardware.jax.operations import count_operations
from aetheria.hardware.jax.program import JaxProgram
from aetheria.hardware.jax.step_memory import StepMemory, step_memory
from aetheria.hardware.layout.leaves import copied_parameter, named_leaves
from aetheria.hardware.layout.state import TrainState
from aetheria.tools.plan.collectives import Collective, find_collectives
from aetheria.tools.plan.machine import Machine
from aetheria.tools.plan.text import Part

Tree: TypeAlias = Any  # a pytree of shapes with shardings

_MIN_WHOLE_BYTES = 1 << 20  # a smaller leaf needs no rule
_MAX_WHOLE_LEAVES = 10


def analyze(program: JaxProgram, machine: Machine) -> dict[str, Any]:
    """Traces and compiles the train step; no parameter is created and nothing runs.

    Returns:
        JSON values: `mesh`, `memory` (bytes on each device), `operations`, `collectives`,
        `whole_leaves` (large and not split), `estimate` and `machine`.
    """
    state, global_batch = program.abstract_state, program.abstract_global_batch
    mesh = dict(program.mesh_shape)
    traced = program.trace_train_step()
    compiled = traced.lower().compile()
    memory = _memory(step_memory(compiled), state, global_batch, machine)
    operations = count_operations(traced.jaxpr)
    collectives, unknown_loops = find_collectives(compiled.as_text() or "", mesh)
    flops = operations.flops / math.prod(mesh.values())
    return {
        "mesh": mesh,
        "memory": memory,
        "operations": {
            "flops_per_step": operations.flops,
            "flops_per_device": flops,
            "unknown_loops": operations.unknown_loops,
        },
        "collectives": [asdict(each) for each in collectives],
        "collective_unknown_loops": unknown_loops,
        "whole_leaves": _whole_leaves(state, mesh),
        "estimate": _estimate(flops, memory, collectives, machine),
        "machine": asdict(machine),
    }


def device_bytes(tree: Tree) -> int:
    """The bytes of a tree of sharded shapes on one device."""
    return sum(
        math.prod(leaf.sharding.shard_shape(leaf.shape)) * leaf.dtype.itemsize
        for leaf in jax.tree.leaves(tree)
    )


def _memory(
    needed: StepMemory, state: TrainState, global_batch: Tree, machine: Machine
) -> dict[str, Any]:
    """The memory of a device during a step."""
    return {
        "params": device_bytes(state.params),
        "opt_state": device_bytes(state.opt_state),
        "model_state": device_bytes(state.model_state),
        "batch": device_bytes(global_batch),
        "temporaries": needed.temporaries,
        "peak": needed.peak,
        "limit": machine.memory_bytes,
        "fits": None if machine.memory_bytes is None else needed.peak <= machine.memory_bytes,
    }


def _estimate(
    flops: float, memory: Part, collectives: Sequence[Collective], machine: Machine
) -> dict[str, float]:
    """A roofline: how long each resource is busy, and the step with full and without any overlap.

    Source: Williams, Waterman & Patterson, "Roofline" (CACM 2009).
    """
    state = memory["params"] + memory["opt_state"] + memory["model_state"]
    traffic = 2 * state + memory["batch"] + 2 * memory["temporaries"]
    sent = sum(each.sent_bytes for each in collectives)
    compute = flops / (machine.peak_tflops * 1e12)
    hbm, link = traffic / (machine.hbm_gbps * 1e9), sent / (machine.link_gbps * 1e9)
    best, worst = max(compute, hbm, link), max(compute, hbm) + link
    return {
        "compute_seconds": compute,
        "memory_seconds": hbm,
        "link_seconds": link,
        "sent_bytes": sent,
        "step_seconds_overlapped": best,
        "step_seconds_sequential": worst,
        "mfu_overlapped": compute / best if best else 0.0,
        "mfu_sequential": compute / worst if worst else 0.0,
    }


def _whole_leaves(state: TrainState, mesh: Mapping[str, int]) -> list[dict[str, Any]]:
    """The largest leaves that fsdp or tensor could split, but does not."""
    params = named_leaves(state.params)
    shapes = {path: leaf.shape for path, leaf in params.items()}
    opt_leaves = named_leaves(state.opt_state).items()
    leaves = [("params", path, path, leaf) for path, leaf in params.items()]
    leaves += [
        ("opt_state", path, copied_parameter(path, leaf.shape, shapes), leaf)
        for path, leaf in opt_leaves
    ]
    found = []
    for field, path, parameter, leaf in leaves:
        dims = [_as_tuple(entry) for entry in leaf.sharding.spec]
        used = {axis for axes in dims for axis in axes}
        free = [axis for axis in ("fsdp", "tensor") if mesh[axis] > 1 and axis not in used]
        if free and device_bytes(leaf) >= _MIN_WHOLE_BYTES:
            found.append(
                {
                    "leaf": f"{field}/{path}",
                    "shape": list(leaf.shape),
                    "device_bytes": device_bytes(leaf),
                    "whole_over": free,
                    "is_param_copy": parameter is not None,
                    "rule": None if parameter is None else _rule(parameter, leaf, free, mesh),
                }
            )
    return sorted(found, key=lambda each: -each["device_bytes"])[:_MAX_WHOLE_LEAVES]


def _rule(
    parameter: str, leaf: jax.ShapeDtypeStruct, free: Sequence[str], mesh: Mapping[str, int]
) -> str | None:
    """A rule that splits a leaf by one more axis, along its largest dim that the axis divides."""
    entries = [*map(_as_tuple, leaf.sharding.spec)]
    entries += [()] * (len(leaf.shape) - len(entries))
    part = leaf.sharding.shard_shape(leaf.shape)
    for axis in free:
        dims = [dim for dim in range(len(part)) if part[dim] % mesh[axis] == 0]
        if dims:
            dim = max(dims, key=lambda dim: part[dim])
            entries[dim] = tuple(sorted((*entries[dim], axis), key=list(mesh).index))
            spec = [axes[0] if len(axes) == 1 else axes or None for axes in entries]
            return f"({parameter!r}, PartitionSpec({', '.join(map(repr, spec))}))"
    return None


def _as_tuple(entry: str | tuple[str, ...] | None) -> tuple[str, ...]:
    if entry is None:
        return ()
    return entry if isinstance(entry, tuple) else (entry,)


def assumptions(plan: Part, dtype: str) -> list[str]:
    """What the numbers of a plan assume; the run computes in `dtype`."""
    notes = [
        "compiled by XLA for virtual CPU devices: an accelerator's compiler fuses, schedules and "
        "combines differently, so temporaries, peak and the number of collectives are estimates",
        "an all-reduce followed by a slice is a reduce-scatter on accelerators: half the bytes",
        f"operations: matrix products and convolutions of the whole step in {dtype}, loops times "
        "their length, recomputation included, shared evenly by the devices",
        "collectives: loops times their length, every branch taken, sent round a ring; XLA's CPU "
        "compiler widens bfloat16 to float32 in some",
        "memory traffic: the state read and written once, temporaries written and read once",
    ]
    if unknown := plan["operations"]["unknown_loops"] + plan["collective_unknown_loops"]:
        notes.append(f"{unknown} loops of unknown length are counted once")
    return notes
