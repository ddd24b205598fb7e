"""How the leaves of a state here and the tensors of a PyTorch module are the same numbers.

Knows NumPy alone. A rule is data: a model's rules show every transpose.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import ArrayLike


@dataclass(frozen=True, kw_only=True)
class Rule:
    """One leaf and its tensor; or, where one leaf stacks layers, its tensors.

    The leaf (each layer of a stack) is viewed in the shape `view`, its dims are permuted to `dims`,
    and the result is reshaped to the tensor's shape.

    Attributes:
        leaf: its path in a state, such as `params/Dense_0/kernel`.
        name: the tensor's in a `state_dict`, such as `layers.0.weight`; for stacked layers with
            `{layer}` in it.
        view: a shape to view the leaf in; None: its own.
        dims: for each dim of the tensor, the dim of the view; None: in the same order.
        layers: how many layers the leaf's first dim stacks; 0: none.

    >>> rule = Rule(leaf="params/Dense_0/kernel", name="fc.weight", dims=(1, 0))
    >>> rule.to_torch(np.array([[1, 2, 3], [4, 5, 6]]), {"fc.weight": (3, 2)})["fc.weight"].tolist()
    [[1, 4], [2, 5], [3, 6]]
    """

    leaf: str
    name: str
    view: tuple[int, ...] | None = None
    dims: tuple[int, ...] | None = None
    layers: int = 0

    @property
    def names(self) -> tuple[str, ...]:
        """The tensors' names."""
        if not self.layers:
            return (self.name,)
        return tuple(self.name.format(layer=layer) for layer in range(self.layers))

    def to_torch(
        self, leaf: ArrayLike, shapes: Mapping[str, Sequence[int]]
    ) -> dict[str, np.ndarray]:
        """Makes the tensors' values from the leaf's, as contiguous arrays of the given shapes."""
        pieces = np.asarray(leaf) if self.layers else [leaf]
        return {
            name: np.array(self._turn(np.asarray(piece)).reshape(shapes[name]), order="C")
            for name, piece in zip(self.names, pieces, strict=True)
        }

    def to_leaf(self, tensors: Mapping[str, ArrayLike], shape: Sequence[int]) -> np.ndarray:
        """Makes the leaf's value, of the given shape, from the tensors'."""
        one = tuple(shape[1:] if self.layers else shape)
        pieces = [self._turn_back(np.asarray(tensors[name]), one) for name in self.names]
        return np.stack(pieces) if self.layers else np.ascontiguousarray(pieces[0])

    def _turn(self, piece: np.ndarray) -> np.ndarray:
        seen = piece if self.view is None else piece.reshape(self.view)
        return seen if self.dims is None else seen.transpose(self.dims)

    def _turn_back(self, piece: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
        seen = shape if self.view is None else self.view
        if self.dims is None:
            return piece.reshape(shape)
        turned = piece.reshape([seen[dim] for dim in self.dims])
        return turned.transpose(np.argsort(self.dims)).reshape(shape)


def dense(name: str, path: str, *, bias: bool = True, layers: int = 0) -> list[Rule]:
    """Maps an `nn.Linear` to a `Dense`: weight [out, in], kernel [in, out]."""
    rules = [Rule(leaf=f"params/{path}/kernel", name=f"{name}.weight", dims=(1, 0))]
    return _layered(rules + _bias(name, path, bias), layers)


def conv2d(name: str, path: str, *, bias: bool = True) -> list[Rule]:
    """Maps an `nn.Conv2d` to a `Conv`: weight [out, in, y, x], kernel [y, x, in, out]."""
    rules = [Rule(leaf=f"params/{path}/kernel", name=f"{name}.weight", dims=(3, 2, 0, 1))]
    return rules + _bias(name, path, bias)


def layer_norm(name: str, path: str, *, layers: int = 0) -> list[Rule]:
    """Maps an `nn.LayerNorm` to a `LayerNorm`: weight is scale, without a transpose."""
    rules = [Rule(leaf=f"params/{path}/scale", name=f"{name}.weight")]
    return _layered(rules + _bias(name, path, True), layers)


def batch_norm(name: str, path: str) -> list[Rule]:
    """Maps an `nn.BatchNorm…` to a `BatchNorm`: as a layer norm, and the running statistics."""
    return [
        *layer_norm(name, path),
        Rule(leaf=f"model_state/batch_stats/{path}/mean", name=f"{name}.running_mean"),
        Rule(leaf=f"model_state/batch_stats/{path}/var", name=f"{name}.running_var"),
    ]


def embedding(name: str, path: str) -> list[Rule]:
    """Maps an `nn.Embedding` to an `Embed`: [number, features] in both."""
    return [Rule(leaf=f"params/{path}/embedding", name=f"{name}.weight")]


def _bias(name: str, path: str, bias: bool) -> list[Rule]:
    return [Rule(leaf=f"params/{path}/bias", name=f"{name}.bias")] if bias else []


def _layered(rules: list[Rule], layers: int) -> list[Rule]:
    return [replace(rule, layers=layers) for rule in rules]
