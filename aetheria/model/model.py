"""The contract a researcher writes against. Knows no device, no loop, no file."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, NamedTuple

import jax
import optax
from jax.sharding import PartitionSpec

from aetheria.errors import AetheriaError
from aetheria.model.classes import Classes

Batch = Mapping[str, Any]
Params = Any
ModelState = Any
PartitionRules = Sequence[tuple[str, PartitionSpec]]


class WeightedSum(NamedTuple):
    """A sum and the weight it was summed over; dividing is left to whoever has all of it."""

    total: jax.Array
    weight: jax.Array


class LossOutput(NamedTuple):
    """What a model's loss returns: sums, never means.

    Attributes:
        total: f32 [], sum over the batch of weight times loss.
        weight: f32 [], sum of those weights (with the data's `mask`: 0 for padding).
        metrics: name -> WeightedSum.
        model_state: the state after this batch (batch statistics and the like).
    """

    total: jax.Array
    weight: jax.Array
    metrics: Mapping[str, WeightedSum]
    model_state: ModelState


class Model(ABC):
    """Template Method: a frozen, hashable description of a network, its loss and its optimizer.

    Subclass as a frozen dataclass whose fields are the hyperparameters. A model holds no arrays;
    its hooks are pure functions. The config's `learning_rate`, `max_grad_norm`, `ema_decay` and
    `remat` arrive as fields of these names.

    A batch is a mapping of columns. `inputs` is what the network sees, and is cast to the compute
    precision; every other column is left as the data gave it. A column that the data gives as a
    mapping, such as `inputs` of several parts, is a mapping here, and in `predict`. `mask` is f32
    [batch], 1 for an example and 0 for padding; it belongs in the weight.

    Attributes:
        decomposes: whether the loss of a batch is a sum over its examples, so that a batch may be
            cut into micro-batches and lanes. False (a contrastive loss over the batch, say) is
            refused with gradient accumulation, with `reproducibility: elastic`, and with several
            PyTorch ranks, which would each compare the examples of their own part alone.
    """

    # Whether the loss of a batch is the sum of its examples' losses. One that compares the examples
    # of a batch with each other is not: such a model says False, and is trained on whole batches.
    decomposes: ClassVar[bool] = True

    @abstractmethod
    def init(self, rng: jax.Array, example_batch: Batch) -> tuple[Params, ModelState]:
        """Makes float32 parameters and the initial model state from a batch's shapes."""

    @abstractmethod
    def loss(
        self, params: Params, model_state: ModelState, batch: Batch, rng: jax.Array, train: bool
    ) -> LossOutput:
        """Computes the summed loss of one micro-batch."""

    @abstractmethod
    def optimizer(self, total_steps: int) -> optax.GradientTransformation:
        """Makes the optimizer: schedule over `total_steps` and clipping included."""

    @abstractmethod
    def predict(self, params: Params, model_state: ModelState, inputs: Any) -> Any:
        """Computes outputs for `inputs` [batch, ...], the leading dim of every output."""

    def class_columns(self) -> Mapping[str, Classes]:
        """Says which columns hold class numbers or tokens, such as `{"labels": Classes(10)}`.

        The data is then checked before anything compiles, and at each read: a label that no class
        has is one line that names its row. (In a loss it gives a NaN, or counts as the last class.)
        Labels whose meaning is plain become whole numbers: floats without a fraction, bool for two
        classes, and [batch, 1] where `Classes.shape` is ().

        Returns:
            Column name -> its classes; empty: nothing is known, and nothing is checked.
        """
        return {}

    def partition_rules(self) -> PartitionRules:
        """Says how parameters are split over a mesh: pairs of a pattern and a spec.

        A pattern is a regular expression searched in a parameter's path, such as
        `Dense_0/kernel`; the first rule that matches counts, and a parameter that none matches is
        whole on every device. A spec names for each dim the mesh axes that split it: `data`,
        `fsdp` (which also split the batch) or `tensor`. What the optimizer holds of a parameter is
        split like it. Rules change no result beyond rounding, and an axis the mesh lacks has size
        1, so one set of rules serves every mesh.
        """
        return ()

    def torch_twin(self, example_batch: Batch) -> Any:
        """Makes the same network, loss and metrics for PyTorch: an `aetheria.pytorch.TorchTwin`.
        Import what needs torch inside this method.

        Raises:
            AetheriaError: the model has no twin.
        """
        raise AetheriaError(
            f"strategy: expected with 'torch' a model with a twin in PyTorch, got "
            f"{type(self).__name__}; override torch_twin, or train with another strategy"
        )

    def torch_inputs(
        self, shapes: Mapping[str, Sequence[int]]
    ) -> tuple[tuple[int, ...], str] | None:
        """Says what one example's inputs are, shape and dtype, for weights that come without.

        Args:
            shapes: of its twin's tensors, by name.

        Returns:
            None: neither the hyperparameters nor the weights say it.
        """
        return None

    def probabilities(self, outputs: Any) -> Any:
        """Turns outputs into class probabilities; classifiers override this.

        Raises:
            AetheriaError: the model has no classes.
        """
        raise AetheriaError(
            f"predict_proba: expected a model with classes, got {type(self).__name__}; use predict"
        )
