"""A whole state here and a whole state in PyTorch: leaf by leaf the same numbers."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from aetheria.errors import AetheriaError, SnapshotError
from aetheria.pytorch.guard import Numbers
from aetheria.pytorch.mapping import Rule
from aetheria.pytorch.optimizers import MOMENTS
from aetheria.pytorch.state import TorchState
from aetheria.pytorch.twin import TorchTwin

_AVERAGES = "averaged_params"
_COUNTS = ("count", "num_updates")
_NUM_BATCHES = "num_batches_tracked"


class Correspondence:
    """Moves states between the two layouts.

    Args:
        twin: the model's.
        leaves: leaf path -> shape and dtype of every leaf of a state, or of `params` and
            `model_state` alone, in tree order.

    Raises:
        AetheriaError: the twin's rules leave a leaf or a tensor out, or sizes differ; named.
    """

    def __init__(self, twin: TorchTwin, leaves: Mapping[str, Any]):
        self._twin, self._leaves = twin, leaves
        self._rules = {rule.leaf: rule for rule in twin.rules()}
        with torch.device("meta"):  # shapes alone
            module = twin.network()
        self.shapes = {name: tuple(t.shape) for name, t in mapped_tensors(module).items()}
        self._check(twin)

    @property
    def rules(self) -> Mapping[str, Rule]:
        """Leaf path -> its rule."""
        return self._rules

    def params(self, module: nn.Module) -> dict[str, list[nn.Parameter]]:
        """Every parameter's path here, such as `Dense_0/kernel`, and its tensors."""
        named = dict(module.named_parameters())
        return {
            leaf.removeprefix("params/"): [named[name] for name in rule.names]
            for leaf, rule in self._rules.items()
            if leaf.startswith("params/")
        }

    def load(self, state: TorchState, arrays: Mapping[str, Any]) -> None:
        """Copies the arrays of an exported state into a state's tensors."""
        with torch.no_grad():
            for path in self._leaves:
                if (found := self._tensors(state, path)) is None:
                    continue
                rule, tensors = found
                made = rule.to_torch(arrays[path], self.shapes)
                for name, value in made.items():
                    tensors[name].copy_(torch.from_numpy(value))
            for moments in state.optimizer.state.values():
                if "step" in moments:
                    moments["step"].fill_(self.num_updates(arrays))

    def export_state(self, state: TorchState, numbers: Numbers) -> dict[str, np.ndarray]:
        """Copies a state: leaf path -> array, in tree order. `numbers` are the state's, read."""
        made = {}
        for path, like in self._leaves.items():
            if (found := self._tensors(state, path)) is not None:
                rule, tensors = found
                host = {name: tensors[name].detach().cpu().numpy() for name in rule.names}
                made[path] = np.array(rule.to_leaf(host, like.shape), copy=True)
            else:
                made[path] = np.array(self._other(state, numbers, path), like.dtype)
        return made

    def _tensors(self, state: TorchState, path: str) -> tuple[Rule, Mapping[str, Tensor]] | None:
        """The rule of a leaf that belongs to a parameter, or to the model's state, and the tensors
        that the rule names; None for any other leaf.
        """
        if (rule := self._rules.get(path)) is not None:
            return rule, mapped_tensors(state.module)
        kind, param = self._moment(path)
        if kind is None:
            return None
        named = dict(state.module.named_parameters())
        rule = self._rules[f"params/{param}"]
        if kind == _AVERAGES:
            return rule, dict(zip(named, state.averages, strict=True))
        return rule, {
            name: state.optimizer.state[tensor][MOMENTS[kind]] for name, tensor in named.items()
        }

    def _moment(self, path: str) -> tuple[str | None, str]:
        """What a leaf of the optimizer is, and of which parameter: `…/mu/Dense_0/kernel`."""
        words = path.split("/")
        if words[0] == "opt_state":
            for place, word in enumerate(words):
                param = "/".join(words[place + 1 :])
                if word in (*MOMENTS, _AVERAGES) and f"params/{param}" in self._rules:
                    return word, param
        return None, ""

    def to_tensors(self, arrays: Mapping[str, Any]) -> dict[str, np.ndarray]:
        """The weights of an exported state as the module's: name -> array."""
        made = [rule.to_torch(arrays[leaf], self.shapes) for leaf, rule in self._rules.items()]
        return {name: array for tensors in made for name, array in tensors.items()}

    def to_leaves(self, tensors: Mapping[str, Any], where: str) -> dict[str, np.ndarray]:
        """The inverse: `params` and `model_state` of a module's weights, in tree order.

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
        """A state's gradients times a factor: parameter's path -> array, in tree order."""
        named = {name: param.grad for name, param in state.module.named_parameters()}
        made = {}
        for path, like in self._leaves.items():
            if path.startswith("params/"):
                rule = self._rules[path]
                host = {n: g.cpu().numpy() for n in rule.names if (g := named[n]) is not None}
                made[path.removeprefix("params/")] = rule.to_leaf(host, like.shape) * factor
        return made

    def num_updates(self, arrays: Mapping[str, Any]) -> int:
        """How many updates an exported state has behind it: every count of its optimizer says."""
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

    def _check(self, twin: TorchTwin) -> None:
        where = f"{type(twin).__module__}.{type(twin).__name__}.rules"
        weights = [p for p in self._leaves if p.split("/")[0] in ("params", "model_state")]
        for what, have, want in (
            ("leaf", self._rules, weights),
            ("tensor", [n for rule in self._rules.values() for n in rule.names], self.shapes),
        ):
            for name in [*want, *have]:
                if name not in have or name not in want:
                    here = "no rule for it" if name in want else "a rule for it alone"
                    raise AetheriaError(
                        f"{where}: expected every {what} once, got {here}: {name}; mend the rules"
                    )
        for leaf, rule in self._rules.items():
            size = sum(int(np.prod(self.shapes[name])) for name in rule.names)
            if size != int(np.prod(self._leaves[leaf].shape)):
                raise AetheriaError(
                    f"{where}: expected as many numbers in {leaf} {self._leaves[leaf].shape} as in "
                    f"{', '.join(rule.names)}, got {size}; mend the twin's sizes"
                )


def mapped_tensors(module: nn.Module) -> dict[str, Tensor]:
    """A module's parameters and batch statistics by name. How many batches these are of is left
    out: it decides nothing where there is a momentum.
    """
    state = module.state_dict(keep_vars=True)
    return {n: t for n, t in state.items() if not n.endswith(_NUM_BATCHES)}
