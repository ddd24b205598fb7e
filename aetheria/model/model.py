"""The contract that a researcher's model fulfils. Knows no device, no training loop and no file."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar, NamedTuple, TypeAlias

import jax
import optax

from aetheria.errors import AetheriaError
from aetheria.model.classes import Classes
from aetheria.model.sharding import PartitionRules
from aetheria.model.tallies import Tallies

# A pytree of arrays (or, while shapes alone are computed, of `jax.ShapeDtypeStruct`).
Tree: TypeAlias = Any
Params: TypeAlias = Tree
ModelState: TypeAlias = Tree
# One column of a batch, and what a network returns: an array, or a pytree of arrays.
Arrays: TypeAlias = Any
Batch: TypeAlias = Mapping[str, Arrays]


class WeightedSum(NamedTuple):
    """A sum and the weight it was summed over. Whoever has all parts of a batch divides."""

    total: jax.Array
    weight: jax.Array


class LossOutput(NamedTuple):
    """What a model's loss returns: sums, never means.

    Attributes:
        total: f32 [], the sum over the batch of weight times loss.
        weight: f32 [], the sum of those weights (the data's `mask` is 0 for padding).
        metrics: name -> WeightedSum.
        model_state: the state after this batch (batch statistics, for example).
    """

    total: jax.Array
    weight: jax.Array
    metrics: Mapping[str, WeightedSum]
    model_state: ModelState


class Model(ABC):
    """Template Method: a frozen, hashable description of a network, its loss and its optimizer.

    Subclass it as a frozen dataclass whose fields are the hyperparameters. A model holds no arrays;
    its hooks are pure functions. The config's `learning_rate`, `max_grad_norm`, `ema_decay` and
    `remat` arrive as fields of these names.

    A batch is a mapping of columns. `inputs` is what the network sees; it is cast to the compute
    precision. Every other column stays as the data gave it. Where the data gives a mapping as a
    column, such as `inputs` of several parts, `loss` and `predict` see that mapping. `mask` is f32
    [batch], 1 for an example and 0 for padding; multiply weights by it.

    Attributes:
        decomposes: whether the loss of a batch is the sum of its examples' losses, so that a batch
            may be cut into micro-batches and lanes. A loss that compares the examples of a batch
            with each other (a contrastive loss, for example) does not decompose: such a model sets
            False. It is then refused with gradient accumulation, with `reproducibility: elastic`
            and with several PyTorch processes, which would each compare only their own examples.
        stacked_params: the paths, such as `blocks`, below which every parameter stacks layers in
            its first dim, as a scan makes them. Statistics of layers take them apart.
        sizes_of_data: the hyperparameters that may be 0 for "as the data has it". Such a 0 in a
            snapshot is no disagreement with the number that a `Predictor` is given.
    """

    decomposes: ClassVar[bool] = True
    stacked_params: ClassVar[tuple[str, ...]] = ()
    sizes_of_data: ClassVar[tuple[str, ...]] = ()

    @abstractmethod
    def init(self, rng: jax.Array, example_batch: Batch) -> tuple[Params, ModelState]:
        """Makes float32 parameters and the initial model state from the shapes of a batch."""

    @abstractmethod
    def loss(
        self, params: Params, model_state: ModelState, batch: Batch, rng: jax.Array, train: bool
    ) -> LossOutput:
        """Computes the summed loss of one micro-batch."""

    @abstractmethod
    def optimizer(self, total_steps: int) -> optax.GradientTransformation:
        """Makes the optimizer, including its schedule over `total_steps` and its clipping."""

    @abstractmethod
    def predict(self, params: Params, model_state: ModelState, inputs: Arrays) -> Arrays:
        """Computes outputs for `inputs` [batch, ...]; every output leads with the batch."""

    def pretrained(self, params: Params, model_state: ModelState) -> tuple[Params, ModelState]:
        """Returns the weights that a run starts from, in place of those that `init` made.

        Called once, on the host and not traced, when a run starts afresh: read a file here. A
        resumed run and a `Predictor` take all weights from the snapshot and never call it, so the
        file may be gone by then. (`init` is traced wherever shapes are needed, and reads a file
        each time.)

        Args:
            params: those of `init`, a tree of NumPy arrays; leave what the file has not, such as a
                new head, as it is.
            model_state: likewise.

        Returns:
            The same trees with other values; they are cast to the dtypes that `init` made.
        """
        return params, model_state

    def tallies(self, params: Params, model_state: ModelState, batch: Batch) -> Tallies:
        """Counts what no mean says of an evaluation, such as a confusion matrix: name -> Tally.

        Called in evaluation alone, beside `loss`. The counts of all batches are added, on any
        number of devices, before `Tally.finish` makes metrics of them.
        """
        return {}

    def images(self, examples: Batch, outputs: Arrays) -> Mapping[str, Arrays]:
        """Draws what the model makes of a few examples, such as masks or reconstructions.

        Called on the host and not traced, at evaluations, if a logger shows samples.

        Args:
            examples: NumPy columns [count, ...], also `labels` if the data has them.
            outputs: what `predict` returned for their inputs, NumPy [count, ...].

        Returns:
            Name -> pictures [count, height, width, 1 or 3], of u8 or of numbers in [0, 1]; others
            are stretched. The inputs are shown without being named here.
        """
        return {}

    def class_columns(self) -> Mapping[str, Classes]:
        """Returns which columns hold class numbers or tokens, such as `{"labels": Classes(10)}`.

        The data is then checked before anything compiles, and at each read: a label outside the
        classes is an error that names its row. (In a loss, such a label gives a NaN or counts as
        the last class.) Labels with an obvious meaning become whole numbers: floats without a
        fraction, bool for two classes, and [batch, 1] where `Classes.shape` is ().

        Returns:
            Column name -> its classes. Columns that are not named are not checked.
        """
        return {}

    def partition_rules(self) -> PartitionRules | None:
        """Returns how parameters are split over a mesh: pairs of a pattern and a PartitionSpec.

        A pattern is a regular expression searched in a parameter's path, such as
        `Dense_0/kernel`; the first rule that matches applies, and a parameter that no rule matches
        is whole on every device. A spec names, for each dim, the mesh axes that split it: `data`
        and `fsdp`, which also split the batch, or `tensor`. The optimizer state of a parameter is
        split as the parameter is. Rules change results by no more than rounding. An axis that the
        mesh lacks has size 1, so one set of rules serves every mesh.

        Returns:
            The rules. None: those of `aetheria.fsdp_rules`. Empty: every parameter is whole.
        """
        return None

    def probabilities(self, outputs: Arrays) -> Arrays:
        """Turns outputs into class probabilities; classifiers override this.

        Raises:
            AetheriaError: the model has no classes.
        """
        raise AetheriaError(
            f"predict_proba: expected a model with classes, got {type(self).__name__}; use predict"
        )
