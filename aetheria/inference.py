"""Prediction from verified weights, from any number of threads at once."""

import os
import warnings
from collections.abc import Mapping, Sequence
from functools import partial as bound
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import numpy as np
from flax.traverse_util import unflatten_dict

from aetheria.build import build_predict_program
from aetheria.build.provenance import recorded_model
from aetheria.build.weights import WeightsRequest, looks_like_weights, read_weights
from aetheria.build.weights.leaf_files import SUFFIX, is_leaf_file, read_leaf_file
from aetheria.build.weights.matching import match_leaves
from aetheria.data.encoding import Encoding, read_encoding
from aetheria.data.ranges import out_of_range
from aetheria.engine.typed_json import JsonObject
from aetheria.errors import AetheriaError
from aetheria.hardware.jax.prediction import PredictProgram, Weights
from aetheria.hardware.layout.leaves import evaluated_leaves, named_leaves
from aetheria.model.by_name import RecordedModel, check_agrees, remake_model
from aetheria.model.model import Model
from aetheria.plugins.bounded import build_described
from aetheria.plugins.discovery import find_project
from aetheria.snapshots import read_snapshot
from aetheria.snapshots.finding import find_snapshot
from aetheria.snapshots.run_folder import newest_runs

if TYPE_CHECKING:
    from aetheria.hardware.jax.joining import JoinedPredictor


class _Forks:
    """How often this process is a fork of the one that imported this. To compare process numbers
    would ask the system at every prediction, of which a small one takes ten microseconds.
    """

    count = 0

    @classmethod
    def note(cls) -> None:
        """Called in the new process."""
        cls.count += 1


os.register_at_fork(after_in_child=_Forks.note)


class _Source(NamedTuple):
    """What a snapshot or a file of weights says, as far as prediction needs it."""

    path: Path
    arrays: Mapping[str, np.ndarray]
    model: RecordedModel
    example_spec: JsonObject
    mixed_precision: bool | str
    step: int | None = None
    encoding: Encoding | None = None
    ranges: Mapping[str, tuple[float, float]] = {}


class _Loaded(NamedTuple):
    """One value, so that a reload replaces program and weights in one assignment."""

    source: _Source
    program: PredictProgram
    weights: Weights


class Encoded(NamedTuple):
    """Inputs as the model sees them: arrays [batch, ...], and whether one example was given."""

    arrays: Any
    is_single: bool


class Predictor:
    """A trained model that predicts, from any number of threads.

    It can be pickled, as the path of its snapshot: the other process loads it anew. It does not
    survive `fork`, as no program of JAX does.

    Args:
        model_name: registered name or `pkg.mod:Name`; None: the snapshot's own, which is looked up
            among registered models only: a file does not choose what is imported.
        model_params: hyperparameters, which must agree with those in the snapshot if both are of
            the same model; all others are the snapshot's.
        checkpoint_path: a snapshot, a run folder, or a run and a word, such as `runs/mlp/1@best`. A
            relative path is searched from the current folder, then in the newest run under `runs/`;
            an ending `.pt` is ignored. It may also be a file of weights, `.pt` or `.safetensors`,
            under PyTorch's names or JAX's, or an exported folder of PyTorch's.
        mixed_precision: compute in bfloat16, or a precision policy, whose `output` is the dtype of
            what is returned; None: as in training.
        max_batch_size: larger batches are cut into pieces of this size, a power of two.
        min_batch_size: smaller batches are padded to this size, a power of two. If it is
            `max_batch_size`, one executable computes every row, and the bits of a row's answer do
            not depend on how many rows are asked for at once.
        batch_sizes: batch sizes to compile for at once, not at their first call.
        project: the folder that holds your `models/`; None: the current folder.
        input_shape: of one example, for a file of weights that does not say it.
        model: the model as an object, where no name stands for it: its class was defined in a
            script or a notebook, or has fields that no snapshot can hold.
        averaged: whether to predict with the averaged parameters where the run kept some.
        data_parallel: whether all devices of this process share every batch; else one computes it.
        copy: whether an answer is an array of its own. False saves a small model the time of the
            copy: an answer is then read-only, and a view of what JAX has computed.

    Raises:
        AetheriaError: no such model or snapshot, a damaged snapshot, or weights that do not fit.
    """

    def __init__(
        self,
        model_name: str | None = None,
        model_params: Mapping[str, Any] | None = None,
        checkpoint_path: str | Path | None = None,
        *,
        mixed_precision: bool | str | None = None,
        max_batch_size: int = 1024,
        min_batch_size: int = 1,
        batch_sizes: Sequence[int] = (),
        project: str | Path | None = None,
        input_shape: Sequence[int] | None = None,
        model: Model | None = None,
        averaged: bool = True,
        data_parallel: bool = False,
        copy: bool = True,
    ):
        if checkpoint_path is None:
            raise AetheriaError("checkpoint_path: expected a snapshot, got none; give its path")
        if model is not None and (model_name is not None or model_params):
            raise AetheriaError(
                "model: expected a model object or model_name and model_params, got both; give one"
            )
        self._model = model
        self._name, self._params = model_name, dict(model_params or {})
        self._mixed_precision = mixed_precision
        self._max_batch_size, self._min_batch_size = max_batch_size, min_batch_size
        self._batch_sizes, self._project = tuple(batch_sizes), project
        self._input_shape = input_shape
        self._averaged, self._data_parallel, self._copy = averaged, data_parallel, copy
        self._forks = _Forks.count
        self._loaded = self._load(str(checkpoint_path), None)

    @classmethod
    def from_snapshot(cls, path: str | Path, **options: Any) -> "Predictor":
        """Makes a predictor of the model that the snapshot names."""
        return cls(checkpoint_path=path, **options)

    @staticmethod
    def find(checkpoint_path: str | Path) -> Path:
        """Returns the snapshot or the file of weights that a path stands for now.

        Raises:
            SnapshotError: nothing is there.
        """
        file = Path(checkpoint_path)
        if looks_like_weights(file):
            return file
        return find_snapshot(str(checkpoint_path), newest_runs()[:1])

    @property
    def snapshot(self) -> Path:
        """The snapshot in use."""
        return self._loaded.source.path

    @property
    def step(self) -> int | None:
        """The training step of the snapshot in use; None: a file of weights does not say it."""
        return self._loaded.source.step

    @property
    def input_spec(self) -> Any:
        """The shape and dtype of a batch of one example: a `jax.ShapeDtypeStruct`, or a mapping of
        them if the model was trained on one.
        """
        return self._loaded.program.inputs

    @property
    def input_ranges(self) -> Mapping[str, tuple[float, float]]:
        """Column of floats that the network sees, such as `inputs` -> its smallest and largest
        value in a sample of the training split; empty: the snapshot knows none.
        """
        return self._loaded.source.ranges

    @property
    def encoding(self) -> Encoding | None:
        """How data as users have it becomes inputs; None: only arrays are inputs."""
        return self._loaded.source.encoding

    @property
    def min_batch_size(self) -> int:
        """The smallest batch size that is computed."""
        return self._min_batch_size

    @property
    def has_probabilities(self) -> bool:
        """Whether the model has classes, and `predict_proba` an answer."""
        return self._loaded.program.has_probabilities

    @property
    def model(self) -> Model:
        """The model in use."""
        return self._loaded.program.model

    def predict(self, inputs: Any) -> Any:
        """Predicts for `inputs` [batch, ...], or a mapping of them if the model was trained on one;
        returns NumPy outputs f32 [batch, ...].

        Of a model that was trained on a table, `inputs` may be rows of that table: a data frame, a
        dict of columns, or a list of dicts; of one that was trained on pictures in folders, the
        path of a picture, an image of Pillow, a list of these, or decoded pictures u8 [batch,
        height, width, channel] of any size. An array that is one example, without the batch dim,
        has an answer without it. The answer depends on the inputs alone: the same from one thread
        or from many.
        """
        return self._run(inputs)

    def predict_proba(self, inputs: Any) -> Any:
        """Predicts class probabilities f32 [batch, num_classes].

        Raises:
            AetheriaError: the model has no classes.
        """
        return self._run(inputs, True)

    @property
    def classes(self) -> tuple[str, ...]:
        """The name of each class number; empty: the snapshot knows none."""
        encoding = self.encoding
        return () if encoding is None else encoding.classes

    def predict_classes(self, inputs: Any) -> list[str]:
        """Predicts the name of the most probable class of each example.

        Raises:
            AetheriaError: the model was not trained on classes with names.
        """
        if not (classes := self.classes):
            raise AetheriaError(
                "predict_classes: expected a model that was trained on classes with names, "
                f"got {self.snapshot}; use predict_proba"
            )
        # A model may have more classes than its data, which no example has taught it.
        outputs = np.atleast_2d(self._run(inputs))[..., : len(classes)]
        return [classes[number] for number in outputs.argmax(-1)]

    def warmup(
        self, batch_sizes: Sequence[int] | None = None, *, probabilities: bool | None = None
    ) -> None:
        """Compiles ahead, so that no call waits for the compiler.

        Args:
            batch_sizes: numbers of rows to expect; None: any, which are eleven programs for the
                default `max_batch_size`.
            probabilities: of `predict` (False) or of `predict_proba` (True); None: of both, or of
                `predict` alone where the model has no classes.
        """
        program = self._loaded.program
        both = (False, True) if program.has_probabilities else (False,)
        kinds = both if probabilities is None else (probabilities,)
        for size in program.batch_sizes if batch_sizes is None else batch_sizes:
            for kind in kinds:
                program.compile(size, kind)

    @property
    def num_compilations(self) -> int:
        """How many programs were compiled for the snapshot in use."""
        return self._loaded.program.num_compilations

    def generate(
        self,
        prompt: Any,
        *,
        max_new_tokens: int,
        temperature: float = 1.0,
        top_k: int | None = None,
        top_p: float | None = None,
        seed: int | Sequence[int] = 0,
        stop: Any = None,
        cache: bool = True,
        stream: bool = False,
    ) -> Any:
        """Generates what follows a prompt, token by token, with a language model.

        The tokens depend on the prompt and on the options alone: the same in any batch, from any
        thread. After as many tokens as the model was trained to see at once, it goes on from the
        last half of them.

        Args:
            prompt: a text, for a model of bytes; token ids [length]; or a list of these.
            max_new_tokens: the most tokens to draw.
            temperature: divides the logits; 0 takes the most probable token.
            top_k: draw from so many tokens, the most probable ones; None: from all.
            top_p: draw from the fewest tokens with this probability together; None: from all.
            seed: of the draws; a list has one for each prompt.
            stop: a text or a token that ends the result, without being part of it; or a list.
            cache: use the hooks `empty_cache` and `decode` of a model that has them; without them
                each token takes a whole `predict`.
            stream: return an iterator of the pieces of the result, each as soon as it is drawn.

        Returns:
            The new tokens, without the prompt: text for a text, i32 [num_new] for token ids, a list
            for a list.

        Raises:
            AetheriaError: the model is no language model, or a prompt or an option is not valid.
        """
        from aetheria.hardware.jax.generation import Request, Sampling

        if self._forks != _Forks.count:
            raise _forked()
        request = Request(max_new_tokens, Sampling(temperature, top_k, top_p), seed, stop)
        loaded = self._loaded
        generator = loaded.program.generator(cache)
        run = generator.stream if stream else generator.generate
        return run(loaded.weights, prompt, request)

    def encode(self, inputs: Any) -> Encoded:
        """Makes the arrays that the model sees of inputs in any form that `predict` takes; of these
        arrays, `predict` gives the same answer. One example gets the batch dim.

        Raises:
            AetheriaError: the inputs are not like those of training.
        """
        loaded = self._loaded
        if loaded.source.encoding is not None:
            inputs = loaded.source.encoding.encode_inputs(inputs)
        return Encoded(*loaded.program.check(inputs))

    def joined(
        self, *, max_delay_seconds: float = 0.002, max_rows: int = 32, num_threads: int = 2
    ) -> "JoinedPredictor":
        """Makes a predictor whose concurrent calls are computed together, where every answer keeps
        the bits that it has alone: which batch sizes do so is measured here, and compiled.

        Args:
            max_delay_seconds: how long a call waits for others, at most, from its arrival. A call
                that none can join does not wait.
            max_rows: calls are joined up to so many rows.
            num_threads: how many computations run at once.
        """
        from aetheria.hardware.jax.joining import JoinedPredictor

        return JoinedPredictor(
            self, max_delay_seconds=max_delay_seconds, max_rows=max_rows, num_threads=num_threads
        )

    def _run(self, inputs: Any, probabilities: bool = False) -> Any:
        if self._forks != _Forks.count:
            raise _forked()
        loaded = self._loaded
        if loaded.source.encoding is not None:
            inputs = loaded.source.encoding.encode_inputs(inputs)
        outputs = loaded.program.run(loaded.weights, inputs, probabilities=probabilities)
        if not self._is_compared:  # once, since a scale is the same in all calls
            self._is_compared = True
            if (line := out_of_range(inputs, loaded.source.ranges)) is not None:
                warnings.warn(line, stacklevel=3)
        return outputs

    def reload(self, checkpoint_path: str | Path | None = None) -> None:
        """Loads other weights (None: reads the same path again). Calls under way finish with the
        old weights; if the new ones cannot be loaded, the old ones stay. Weights of the same model
        need no compilation.
        """
        before = self._loaded
        self._loaded = self._load(str(checkpoint_path or before.source.path), before)

    def __copy__(self) -> "Predictor":
        """A predictor of its own, which shares weights and programs until one of both reloads."""
        made = object.__new__(type(self))
        made.__dict__.update(self.__dict__)
        return made

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickles the path of the snapshot and its use; weights and programs are made anew."""
        project = find_project(None, self._project)
        options = {
            "model_name": self._name,
            "model_params": self._params,
            "checkpoint_path": self._loaded.source.path.resolve(),
            "mixed_precision": self._mixed_precision,
            "max_batch_size": self._max_batch_size,
            "min_batch_size": self._min_batch_size,
            "batch_sizes": self._batch_sizes,
            "project": project and project.resolve(),
            "input_shape": self._input_shape,
            "model": self._model,
            "averaged": self._averaged,
            "data_parallel": self._data_parallel,
            "copy": self._copy,
        }
        return bound(type(self), **options), ()

    def _load(self, checkpoint_path: str, before: _Loaded | None) -> _Loaded:
        project = find_project(None, self._project)
        source = self._read(checkpoint_path, project)
        where = str(source.path)
        if before is not None and _same_program(source, before.source):
            program = before.program
        else:
            program = self._make_program(source, where, project)
        weights = program.place(source.arrays, averaged=self._averaged)
        for batch_size in self._batch_sizes:
            program.compile(batch_size)
        self._is_compared = False
        # The arrays are on the device now; a second copy would only take memory.
        return _Loaded(source._replace(arrays={}), program, weights)

    def _make_program(self, source: _Source, where: str, project: Path) -> PredictProgram:
        model = self._model
        if model is None:
            model = remake_model(source.model, where, project, self._name, self._params).model
            check_agrees(source.model, where, self._name, self._params, model.sizes_of_data)
        build = lambda: build_predict_program(
            model,
            source.example_spec,
            trained_with=source.mixed_precision,
            mixed_precision=self._mixed_precision,
            max_batch_size=self._max_batch_size,
            min_batch_size=self._min_batch_size,
            data_parallel=self._data_parallel,
            copy=self._copy,
        )
        return build_described(build, where, len(source.arrays))

    def _read(self, checkpoint_path: str, project: Path) -> _Source:
        file = self.find(checkpoint_path)
        if looks_like_weights(file):
            request = WeightsRequest(self._name, self._params, project, self._input_shape)
            weights = read_weights(file, request)
            model = RecordedModel(weights.model.name, weights.model.params)
            spec, precision, about = weights.example_spec, weights.mixed_precision, weights.about
            if about is None:
                return _Source(file, weights.arrays, model, spec, precision)
            encoding = _encoding(about.encoding, file)
            ranges = about.input_ranges or {}
            step = about.step
            return _Source(file, weights.arrays, model, spec, precision, step, encoding, ranges)
        snapshot = read_snapshot(file)
        run, model = snapshot.record.run, recorded_model(snapshot.record.run)
        encoding = _encoding(run.encoding, snapshot.path)
        spec, precision = run.example_spec, run.mixed_precision
        ranges = run.input_ranges or {}
        step = snapshot.record.progress.step
        return _Source(
            snapshot.path, snapshot.arrays, model, spec, precision, step, encoding, ranges
        )


def _forked() -> AetheriaError:
    return AetheriaError(
        "predict: expected the process that made the predictor, got a fork of it, in which JAX "
        "hangs; make the predictor there, or start processes with the method 'spawn'"
    )


def _same_program(source: _Source, other: _Source) -> bool:
    """Whether both are weights of one model, so that one compiled program serves both."""
    return (source.model, source.example_spec, source.mixed_precision) == (
        other.model,
        other.example_spec,
        other.mixed_precision,
    )


def _encoding(said: object, path: Path) -> Encoding | None:
    return None if said is None else read_encoding(said, str(path))


def load_params(
    checkpoint_path: str | Path, *, into: Any = None, partial: bool = False
) -> dict[str, Any]:
    """Reads parameters, to start another model from them.

    Call it in the hook `Model.pretrained`, and keep the parameters of `init` where the two models
    differ: by hand, or by `into` and `partial`.

    Args:
        checkpoint_path: a snapshot or a run, as `Predictor` takes it: `runs/mlp/1@best`; or a
            `.safetensors` file with JAX's leaf names, such as
            `aetheria export --format safetensors` writes.
        into: the parameters of the model, nested dicts of arrays. What is returned has their names,
            shapes and dtypes. None: as they are stored.
        partial: keep those of `into` where there is none to read or it has another shape, and warn
            of each; without it, that is an error.

    Returns:
        Nested dicts of NumPy arrays: `{"Dense_0": {"kernel": …}}`; the averaged parameters, if the
        run kept an average.

    Raises:
        AetheriaError: there is no such snapshot or file, it is damaged, or it does not fit.
    """
    path = Path(checkpoint_path)
    if path.suffix == SUFFIX and path.is_file():
        if not is_leaf_file(path):
            raise AetheriaError(
                f"{path}: expected JAX's leaf names, got PyTorch's; make a snapshot of it with "
                "aetheria import"
            )
        arrays, _ = read_leaf_file(path)
    else:
        snapshot = read_snapshot(find_snapshot(str(checkpoint_path), newest_runs()[:1]))
        path, arrays = snapshot.path, evaluated_leaves(snapshot.arrays)
    params = {
        leaf.removeprefix("params/"): array
        for leaf, array in arrays.items()
        if leaf.startswith("params/")
    }
    if into is None:
        if partial:
            raise AetheriaError("partial: expected it beside into, got it alone; give both")
        return unflatten_dict(params, sep="/")
    own = named_leaves(into)
    match = match_leaves(params, {name: np.asarray(leaf) for name, leaf in own.items()})
    match.check(str(path), partial=partial, option="partial=True")
    if not match.is_whole:
        warnings.warn(f"{path}: {match.report()}", stacklevel=2)
    leaves = [match.arrays.get(name, leaf) for name, leaf in own.items()]
    return jax.tree.unflatten(jax.tree.structure(into), leaves)
