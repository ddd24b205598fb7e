"""Where everything lies on a mesh: a model's partition rules become shardings.

Knows shapes alone; no array is moved here, but for the columns that several processes join.
"""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import jax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from aetheria.errors import HardwareError
from aetheria.hardware.layout.leaves import copied_parameter, leaf_paths
from aetheria.hardware.layout.state import TrainState
from aetheria.hardware.layout.trees import Array, Columns, Tree
from aetheria.model.sharding import (
    BATCH_AXES,
    MESH_AXES,
    LargestDim,
    PartitionRules,
    fsdp_rules,
)


@dataclass(frozen=True)
class Placement:
    """The shardings of a program on one mesh.

    Attributes:
        mesh: the mesh.
        state: a tree like a state, of NamedShardings.
    """

    mesh: Mesh
    state: TrainState

    @property
    def whole(self) -> NamedSharding:
        """Of what every device has: reports, totals, numbers."""
        return NamedSharding(self.mesh, PartitionSpec())

    @property
    def chunk(self) -> NamedSharding:
        """Of a column [num_global_batches, num_slices, slice_size, ...]."""
        return NamedSharding(self.mesh, PartitionSpec(None, None, BATCH_AXES))

    @property
    def global_batch(self) -> NamedSharding:
        """Of a column [num_slices, slice_size, ...]."""
        return NamedSharding(self.mesh, PartitionSpec(None, BATCH_AXES))

    @property
    def batch(self) -> NamedSharding:
        """Of a column [slice_size, ...]."""
        return NamedSharding(self.mesh, PartitionSpec(BATCH_AXES))

    def abstract(self, state: TrainState) -> TrainState:
        """Adds the shardings to the shapes and dtypes of a state."""
        return jax.tree.map(
            lambda leaf, place: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=place),
            state,
            self.state,
        )

    def join(
        self, columns: Columns, sharding: NamedSharding, slice_size: int
    ) -> Mapping[str, Array]:
        """Makes one array of the rows that each of several processes has.

        Args:
            columns: this process's rows.
            sharding: `chunk` or `batch`.
            slice_size: the rows of all processes together.
        """
        dim = len(sharding.spec) - 1  # the one that is split over the batch axes, the last named
        return {
            name: jax.make_array_from_process_local_data(
                sharding, column, (*column.shape[:dim], slice_size, *column.shape[dim + 1 :])
            )
            for name, column in columns.items()
        }


def place_state(rules: PartitionRules | None, state: TrainState, mesh: Mesh) -> TrainState:
    """Gives every leaf of a state its sharding.

    A parameter goes by the first rule that matches, and so do the leaves of the optimizer that
    mirror it (moments, a copy of the parameters). Everything else is whole on every device.

    Args:
        rules: a model's `partition_rules()`; None: `fsdp_rules()`.
        state: shapes alone.
        mesh: has the axes `MESH_AXES`.

    Returns:
        A tree like `state`, of NamedShardings.

    Raises:
        HardwareError: a rule is malformed or matches no parameter, an axis does not exist, or a
            parameter cannot be split as its rule says.
    """
    rules = fsdp_rules() if rules is None else rules
    paths, leaves = leaf_paths(state.params), jax.tree.leaves(state.params)
    _check_rules(rules, paths)
    shapes = dict(zip(paths, (leaf.shape for leaf in leaves), strict=True))
    specs = {path: _spec_of(rules, path, shapes[path], mesh.shape) for path in paths}

    def spec_of(path: str, leaf: jax.ShapeDtypeStruct) -> PartitionSpec:
        copied = copied_parameter(path, leaf.shape, shapes)
        return PartitionSpec() if copied is None else specs[copied]

    place = lambda spec: NamedSharding(mesh, spec)
    opt_leaves, opt_structure = jax.tree.flatten(state.opt_state)
    opt_specs = map(spec_of, leaf_paths(state.opt_state), opt_leaves)
    whole = jax.tree.map(lambda _: place(PartitionSpec()), state)
    return whole._replace(
        params=jax.tree.unflatten(jax.tree.structure(state.params), map(place, specs.values())),
        opt_state=jax.tree.unflatten(opt_structure, map(place, opt_specs)),
    )


def _check_rules(rules: PartitionRules, paths: Sequence[str]) -> None:
    for pattern, spec in rules:
        try:
            used = any(re.search(pattern, path) for path in paths)
        except re.error as error:
            raise HardwareError(
                f"partition_rules: expected a regular expression, got {pattern!r} ({error}); fix it"
            ) from None
        if isinstance(spec, LargestDim):  # a default: it may have nothing left to split
            continue
        if not used:
            raise HardwareError(
                f"partition_rules: expected {pattern!r} to match a parameter, got none of "
                f"{', '.join(paths)}; fix or remove the rule"
            )
        if not isinstance(spec, PartitionSpec):
            raise HardwareError(
                f"partition_rules: expected a PartitionSpec for {pattern!r}, got {spec!r}; "
                "import it from jax.sharding"
            )
        _check_axes(pattern, [_axes(entry) for entry in spec])


def _check_axes(pattern: str, dims: Sequence[tuple[str, ...]]) -> None:
    named = [axis for axes in dims for axis in axes]
    for axis in named:
        if axis not in MESH_AXES:
            raise HardwareError(
                f"partition_rules: expected the axes {', '.join(MESH_AXES)}, got {axis!r} for "
                f"{pattern!r}; use these"
            )
        if named.count(axis) > 1:
            raise HardwareError(
                f"partition_rules: expected each axis once, got {axis!r} twice for {pattern!r}; "
                "split one dim by it"
            )
    for axes in dims:
        # In another order XLA's partitioner may silently give wrong gradients: measured on jax
        # 0.10.2 with ("tensor", "fsdp") beside ("data", "tensor") and (None, "fsdp").
        ordered = tuple(sorted(axes, key=MESH_AXES.index))
        if axes != ordered:
            raise HardwareError(
                f"partition_rules: expected the axes of one dim in the order {ordered}, got {axes} "
                f"for {pattern!r}; turn them round"
            )


def _spec_of(
    rules: PartitionRules, path: str, shape: Sequence[int], sizes: Mapping[str, int]
) -> PartitionSpec:
    """Finds the spec of one parameter, checked against its shape."""
    found = next((rule for rule in rules if re.search(rule[0], path)), None)
    if found is None:
        return PartitionSpec()
    pattern, spec = found
    if isinstance(spec, LargestDim):
        return spec.spec(shape, sizes)
    if len(spec) > len(shape):
        raise HardwareError(
            f"partition_rules: expected at most {len(shape)} entries for {path!r} {list(shape)}, "
            f"got {len(spec)} of the rule {pattern!r}; give it a rule of its own before that one"
        )
    for dim, (size, entry) in enumerate(zip(shape, spec, strict=False)):
        axes = _axes(entry)
        if size % math.prod(sizes[axis] for axis in axes):
            by = " x ".join(f"{axis}={sizes[axis]}" for axis in axes)
            raise HardwareError(
                f"partition_rules: expected dim {dim} of {path!r} {list(shape)} to divide by {by}, "
                f"got {size}; change the model's size, the mesh, or the rule {pattern!r}"
            )
    return spec


def _axes(entry: Tree) -> tuple[str, ...]:
    """Lists the mesh axes that one dim is split by."""
    if entry is None:
        return ()
    return entry if isinstance(entry, tuple) else (entry,)
