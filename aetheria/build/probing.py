"""Opens the probe through which listeners look at the model at an evaluation.

The state is exported as for a snapshot, which works for every strategy and any number of processes;
process 0 then predicts by itself, with the program that `Predictor` uses. The programs of training
are not touched, so no bit of the run depends on it.
"""

import functools
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import jax
import numpy as np

from aetheria.build.model import build_predict_program
from aetheria.config import Config
from aetheria.data import Feed
from aetheria.engine.interfaces import AnyProgram, Peers
from aetheria.events import EvaluationCompleted
from aetheria.hardware.layout.leaves import evaluated_leaves
from aetheria.hardware.layout.trees import Leaves
from aetheria.model.contract import call_hook, check_images
from aetheria.model.model import Model
from aetheria.model.nesting import nested_columns
from aetheria.observe import EventBus
from aetheria.observe.probe import Probe

if TYPE_CHECKING:
    from aetheria.hardware.jax.prediction import PredictProgram, Weights

_MAX_BATCH_SIZE = 256  # more would be compiled, and kept in memory, beside the training
_PARAMS = "params/"


class Prober:
    """Lets the listeners of a run inspect its evaluations.

    Args:
        config: the run's.
        model: the model.
        feed: its data.
        program: exports the state.
        bus: knows the listeners.
        peers: the processes of the run.
    """

    def __init__(
        self,
        *,
        config: Config,
        model: Model,
        feed: Feed,
        program: AnyProgram,
        bus: EventBus,
        peers: Peers,
    ):
        self._config, self.model, self.feed = config, model, feed
        self._program, self._bus, self._peers = program, bus, peers

    def inspect(self, events: Sequence[EvaluationCompleted], state: Any) -> None:
        """Gives the listeners a probe for each of the evaluations; all processes call it."""
        arrays = self._program.export_state(state)
        if self._peers.index:
            return
        source = _Source(self, evaluated_leaves(arrays))
        for event in events:
            probe = Probe(source, event.split)
            try:
                self._bus.inspect(event, probe)
            finally:
                probe.close()

    @functools.cached_property
    def predict_program(self) -> "PredictProgram":
        """What predicts; its programs are compiled once for all evaluations."""
        return build_predict_program(
            self.model,
            self.feed.example_spec(),
            trained_with=self._config.mixed_precision,
            mixed_precision=None,
            max_batch_size=_MAX_BATCH_SIZE,
        )


class _Source:
    """Answers from one exported state. What nobody asks about is not computed."""

    def __init__(self, prober: Prober, arrays: Leaves):
        self._prober, self._arrays = prober, arrays

    @property
    def classes(self) -> tuple[str, ...]:
        encoding = self._prober.feed.splits.encoding
        return () if encoding is None else encoding.classes

    def predict(self, inputs: Any, *, probabilities: bool) -> Any:
        program = self._prober.predict_program
        return program.run(self._weights, inputs, probabilities=probabilities)

    def read(self, split: str, count: int) -> Mapping[str, Any]:
        splits = self._prober.feed.splits
        source = {**splits.evals, **splits.tests}[split]
        columns = source.read(np.arange(min(count, len(source))))
        # Copies: a source may return views of its data.
        return nested_columns({name: np.array(column) for name, column in columns.items()})

    def images(self, examples: Mapping[str, Any], outputs: Any) -> Mapping[str, np.ndarray]:
        model = self._prober.model
        count = len(jax.tree.leaves(examples)[0])
        return check_images(model, call_hook(model, "images", examples, outputs), count)

    def params(self) -> Mapping[str, np.ndarray]:
        return self._params

    @functools.cached_property
    def _params(self) -> dict[str, np.ndarray]:
        own = {path: leaf for path, leaf in self._arrays.items() if path.startswith(_PARAMS)}
        fetched = jax.device_get(own)
        return {path.removeprefix(_PARAMS): np.asarray(leaf) for path, leaf in fetched.items()}

    @functools.cached_property
    def _weights(self) -> "Weights":
        # From the host: the exported arrays may be split over devices that take no part here.
        program = self._prober.predict_program
        names = program.abstract._fields
        own = {path: a for path, a in self._arrays.items() if path.split("/")[0] in names}
        return program.place(jax.device_get(own), averaged=False)
