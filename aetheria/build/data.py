"""The data of a run: the dataset, checked, and how it is served."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from aetheria.build.given import NOTHING, Given
from aetheria.build.model import is_elastic
from aetheria.config import MAX_WHOLE, Config
from aetheria.data import ArraySource, DataSplits, Feed
from aetheria.data.checks import CheckedData, check_data
from aetheria.data.error_context import missing_file
from aetheria.data.forms import first_examples
from aetheria.data.sources import is_parallel
from aetheria.engine import Schedule
from aetheria.errors import ConfigError
from aetheria.model.classes import Classes
from aetheria.model.model import Model
from aetheria.plugins import DATA
from aetheria.plugins.arguments import call_with
from aetheria.plugins.checks import find_dataset
from aetheria.plugins.discovery import make_importable
from aetheria.plugins.import_path import is_import_path
from aetheria.snapshots.run_folder import some
from aetheria.snapshots.sizes import size_text

_MAX_READERS = 4  # unless the config says more


def make_dataset(
    name: str, params: Mapping[str, Any], project: Path | None, classes: Mapping[str, Classes]
) -> CheckedData:
    """Makes the dataset of a name, and checks it.

    Args:
        name: a registered dataset, or an import path.
        params: the arguments of its function.
        project: the project folder; None: there is none.
        classes: the model's declarations of columns of class numbers or tokens, by column name.

    Raises:
        AetheriaError: there is no such dataset, or it cannot be read.
    """
    dataset = find_dataset(DATA, name, project, returns=DataSplits)
    if project is not None and any(map(is_import_path, params.values())):
        make_importable(project)
    with missing_file(f"data_name {name!r}"):
        returned = call_with(dataset, "data_params", params)
    return check_data(returned, name, classes)


def build_feed(config: Config, project: Path | None, model: Model, given: Given = NOTHING) -> Feed:
    """Makes the dataset, checks that the model can be trained on it, and makes what serves it."""
    if given.data is not None:
        splits, notes = check_data(given.data, None, model.class_columns())
    else:
        made = make_dataset(config.data_name, config.data_params, project, model.class_columns())
        splits, notes = made
    notes += _undeclared_classes(splits, model)
    if config.overfit_batches:
        without = "" if splits.augment is None else ", without augmentation"
        splits = first_examples(splits, config.overfit_batches * config.batch_size)
        count = len(splits.train)
        notes.append(f"overfit_batches: {count} examples to train and evaluate on{without}")
    augment = None
    if splits.augment is not None:
        from aetheria.data.augmentation import Augmentation

        classes = model.class_columns()
        augment = Augmentation(splits.augment, splits.train, classes, config.seed)
    if config.batch_size > len(splits.train):
        notes.append(
            f"batch_size: {config.batch_size} is more than the {len(splits.train)} examples of the "
            "train split; every step takes all of them, the rest is padding"
        )
    if (config.data_readers or 1) > 1 and not is_parallel(splits.train):
        notes.append(
            f"data_readers: one thread reads the train split, not {config.data_readers}, since its "
            "source does not say `parallel = True`"
        )
    return Feed(
        splits=splits,
        augment=augment,
        num_readers=config.data_readers or min(os.cpu_count() or 1, _MAX_READERS),
        batch_size=config.batch_size,
        # Lanes on one device are computed in turn, as micro-batches are.
        num_slices=config.lanes if is_elastic(config) else config.grad_accumulation_steps,
        seed=config.seed,
        notes=tuple(notes),
    )


def _undeclared_classes(splits: DataSplits, model: Model) -> list[str]:
    """A line if the labels look like classes, and the model is left to learn them as numbers."""
    if "labels" in model.class_columns():
        return []
    classes = splits.encoding.classes if splits.encoding is not None else ()
    if classes:
        what, count = f"has the classes {some(classes)}", len(classes)
    elif getattr(model, "num_classes", None) == 0 and type(splits.train) is ArraySource:
        labels = splits.train.columns.get("labels")
        if labels is None or labels.dtype.kind not in "iub" or labels.ndim != 1:
            return []
        count = int(labels.max()) + 1
        what = f"is a whole number from {labels.min()} to {labels.max()}"
    else:
        return []
    return [
        f"data: the label {what}, and {type(model).__name__} declares no classes, so it learns "
        f"their numbers; a shipped model classifies with model_params.num_classes={count}"
    ]


def name_eval_metrics(feed: Feed, names: Sequence[str]) -> tuple[str, ...]:
    """What a run's evaluations report, given the metrics of one: `eval/loss`, and `eval/ood/loss`
    of each of several evaluation splits.
    """
    of_splits = [split for split in feed.eval_splits if split != "eval"]
    own = (f"{split}/{name.removeprefix('eval/')}" for split in of_splits for name in names)
    return (*names, *own)


def check_batch_fits(feed: Feed) -> None:
    """Raises ConfigError if this process's part of a batch is larger than the machine's memory."""
    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    if feed.global_batch_bytes > memory:
        raise ConfigError(
            f"batch_size: expected a batch that fits in this machine's {size_text(memory)} of "
            f"memory, got {feed.batch_size} examples of {size_text(feed.global_batch_bytes)} in "
            "all; use fewer"
        )


def build_schedule(config: Config, feed: Feed, stop_at_step: int | None = None) -> Schedule:
    """Takes the length and the cadences from the config.

    Raises:
        ConfigError: the run would have more steps than a device can count.
    """
    schedule = Schedule(
        num_train_examples=feed.num_train_examples,
        batch_size=config.batch_size,
        grad_accumulation_steps=config.grad_accumulation_steps,
        epochs=config.epochs,
        max_steps=config.max_steps,
        stop_at_step=stop_at_step,
        log_every_steps=config.log_every_steps,
        eval_every_steps=config.eval_every_steps,
        save_every_steps=config.snapshot.every_steps,
        save_every_epochs=config.snapshot.every_epochs,
        check_every_steps=config.spot_check_every,
    )
    if schedule.total_steps > MAX_WHOLE:
        raise ConfigError(
            f"epochs: expected a run of at most {MAX_WHOLE} steps, got {schedule.total_steps}; "
            "set max_steps, or use fewer epochs"
        )
    return schedule
