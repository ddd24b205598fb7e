"""A state in JAX's layout and a state in PyTorch: leaf by leaf the same numbers.

Moves values; computes nothing, and knows no step.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from aetheria.errors import AetheriaError, SnapshotError
from aetheria.hardware.layout.trees import Leaves, Shapes
from aetheria.hardware.torch.guard import Numbers
from aetheria.hardware.torch.mapping import Rule
from aetheria.hardware.torch.optimizers import MOMENTS
from aetheria.hardware.torch.ranks import gradient_of
from aetheria.hardware.torch.state import TorchState
from aetheria.hardware.torch.twin import TorchTwin

# The kinds of a state's tensors, beside the moments.
_WEIGHTS, _AVERAGES = "weights", "averaged_params"
_COUNTS = ("count", "num_updates")
_NUM_BATCHES = "num_batches_tracked"


class Correspondence:
    """Moves states between the two layouts.

    Args:
        twin: the model's.
        leaves: leaf path -> shape and dtype of every leaf of a state, or of `params` and
            `model_state` alone, in tree order.

    Raises:
        AetheriaError: the rules leave out a leaf or a tensor, or sizes differ; named.
    """

    def __init__(self, twin: TorchTwin, leaves: Shapes):
        self._leaves = leaves
        rules = twin.rules()
        self._rules = {rule.leaf: rule for rule in rules}
        with torch.device("meta"):  # shapes alone
            module = twin.network()
        self.shapes = {name: tuple(t.shape) for name, t in mapped_tensors(module).items()}
        self._check(twin, rules)
        places = {path: self._place(path) for path in leaves}
        self._places = {path: place for path, place in places.items() if place is not None}

    @property
    def rules(self) -> Mapping[str, Rule]:
        """Leaf path -> its rule."""
        return self._rules

    def params(self, module: nn.Module) -> dict[str, list[nn.Parameter]]:
        """Maps every parameter's path in JAX's layout, `Dense_0/kernel` style, to its tensors."""
        named = dict(module.named_parameters())
        return {
            leaf.removeprefix("params/"): [named[name] for name in rule.names]
            for leaf, rule in self._rules.items()
            if leaf.startswith("params/")
        }

    def load(self, state: TorchState, arrays: Leaves) -> None:
        """Copies the arrays of an exported state into a state's tensors."""
        tensors, num_updates = _tensors(state), self.num_updates(arrays)
        with torch.no_grad():
            for path, (kind, rule) in self._places.items():
                for name, value in rule.to_torch(arrays[path], self.shapes).items():
                    tensors[kind][name].copy_(torch.from_numpy(value))
            for moments in state.optimizer.state.values():
                if "step" in moments:
                    moments["step"].fill_(num_updates)

    def export_state(self, state: TorchState, numbers: Numbers) -> dict[str, np.ndarray]:
        """Copies a state: leaf path -> array, in tree order. `numbers` are the state's, read."""
        tensors, made = _tensors(state), {}
        for path, like in self._leaves.items():
            if path in self._places:
                kind, rule = self._places[path]
                host = {n: tensors[kind][n].detach().cpu().numpy() for n in rule.names}
                made[path] = np.array(rule.to_leaf(host, like.shape), copy=True)
            else:
                made[path] = np.array(self._other(state, numbers, path), like.dtype)
        return made

    def _place(self, path: str) -> tuple[str, Rule] | None:
        """Finds among which of a state's tensors a leaf is, and by which rule: a weight's own, or
        that of the parameter whose moment or average it is, as in `…/mu/Dense_0/kernel`. None: it
        is no tensor.
        """
        if path in self._rules:
            return _WEIGHTS, self._rules[path]
        words = path.split("/")
        for place, word in enumerate(words):
            owner = f"params/{'/'.join(words[place + 1 :])}"
            if word in (*MOMENTS, _AVERAGES) and owner in self._rules:
                return word, self._rules[owner]
        return None

    def to_tensors(self, arrays: Leaves) -> dict[str, np.ndarray]:
        """Turns the weights of an exported state into the module's: name -> array."""
        made = [rule.to_torch(arrays[leaf], self.shapes) for leaf, rule in self._rules.items()]
        return {name: array for tensors in made for name, array in tensors.items()}

    def to_leaves(self, tensors: Mapping[str, np.ndarray], where: str) -> dict[str, np.ndarray]:
        """Turns a module's weights into `params` and `model_state`, in tree order.

        Raises:
            SnapshotError: a tensor is missing, unknown, or of another shape; named.
        """
        known = {n: t for n, t in tensors.items() if not n.endswith(_NUM_BATCHES)}
        for name in [*self.shapes, *known]:
            if name not in known or name not in self.shapes:
                here = "none" if name in self.shapes else "one"
                raise SnapshotError(
                    f"{where}: expected {'a' if here == 'none' else 'no'} tensor {name!r}, got "
                    f"{here}; give the model the parameters it was trained with"
                )
            if tuple(known[name].shape) != self.shapes[name]:
                raise SnapshotError(
                    f"{where}: expected {name!r} to be {list(self.shapes[name])}, got "
                    f"{list(known[name].shape)}; give the model the parameters it was trained with"
                )
        return {
            path: rule.to_leaf(known, like.shape).astype(like.dtype)
            for path, like in self._leaves.items()
            if (rule := self._rules.get(path)) is not None
        }

    def gradients(self, state: TorchState, factor: float) -> dict[str, np.ndarray]:
        """Reads a state's gradients, times a factor: parameter's path -> array, in tree order."""
        named = {n: gradient_of(p).cpu().numpy() for n, p in state.module.named_parameters()}
        return {
            path.removeprefix("params/"): self._rules[path].to_leaf(named, like.shape) * factor
            for path, like in self._leaves.items()
            if path.startswith("params/")
        }

    def num_updates(self, arrays: Leaves) -> int:
        """Reads how many updates an exported state has had, from the counts of its optimizer."""
        counts = [int(arrays[p]) for p in self._leaves if p.split("/")[-1] in _COUNTS]
        return max(counts, default=0)

    @staticmethod
    def _other(state: TorchState, numbers: Numbers, path: str) -> Any:
        match path.split("/"):
            case ["base_key"]:
                return state.base_key
            case ["counters"]:
                return numbers.counters
            case ["loss_scale"]:
                return numbers.loss_scale
            case ["opt_state", *_, name] if name in _COUNTS:
                return numbers.num_updates
        raise AssertionError(path)

    def _check(self, twin: TorchTwin, rules: Sequence[Rule]) -> None:
        where = f"{type(twin).__module__}.{type(twin).__name__}.rules"
        weights = [p for p in self._leaves if p.split("/")[0] in ("params", "model_state")]
        for what, have, want in (
            ("leaf", [rule.leaf for rule in rules], weights),
            ("tensor", [name for rule in rules for name in rule.names], self.shapes),
        ):
            for name in [*want, *have]:
                if (count := have.count(name)) != 1 or name not in want:
                    here = f"{count} rules for it" if name in want else "a rule for it alone"
                    raise AetheriaError(
                        f"{where}: expected every {what} once, got {here}: {name}; fix the rules"
                    )
        for leaf, rule in self._rules.items():
            size = sum(int(np.prod(self.shapes[name])) for name in rule.names)
            if size != int(np.prod(self._leaves[leaf].shape)):
                raise AetheriaError(
                    f"{where}: expected as many numbers in {leaf} {self._leaves[leaf].shape} as in "
                    f"{', '.join(rule.names)}, got {size}; fix the sizes of the PyTorch network"
                )


def _tensors(state: TorchState) -> dict[str, Mapping[str, Tensor]]:
    """Collects the tensors of a state that rules map: kind -> name -> tensor."""
    named = dict(state.module.named_parameters())
    moments = state.optimizer.state
    return {
        _WEIGHTS: mapped_tensors(state.module),
        _AVERAGES: dict(zip(named, state.averages, strict=False)),
        **{
            kind: {n: moments[p][theirs] for n, p in named.items() if theirs in moments[p]}
            for kind, theirs in MOMENTS.items()
        },
    }


def mapped_tensors(module: nn.Module) -> dict[str, Tensor]:
    """Collects a module's parameters and batch statistics by name. The number of batches is left
    out: with a momentum it decides nothing.
    """
    state = module.state_dict(keep_vars=True)
    return {n: t for n, t in state.items() if not n.endswith(_NUM_BATCHES)}
