"""When things are due: pure arithmetic on absolute optimizer steps, so a resumed run agrees."""

from dataclasses import dataclass

from aetheria.events import Progress

_MAX_FETCH_LAG = 16


@dataclass(frozen=True, kw_only=True, slots=True)
class Schedule:
    """The length of a run and its cadences.

    Attributes:
        num_train_examples: size of the training split.
        batch_size: examples in one optimizer step, over all devices.
        grad_accumulation_steps: micro-batches in one optimizer step.
        epochs: passes over the training split.
        max_steps: the length of the run in optimizer steps, whatever `epochs` says; None: `epochs`
            decides.
        stop_at_step: leave the run there, to be resumed; unlike `max_steps` it does not shorten
            the run that the model's schedule is made for.
        log_every_steps: cadence of TrainMetrics.
        eval_every_steps: cadence of evaluation; None: at each end of an epoch.
        save_every_steps: cadence of step snapshots; 0: none.
        save_every_epochs: cadence of epoch snapshots; 0: none.
        check_every_steps: cadence of spot checks, of the state after these steps and of the next
            step; 0: none.
    """

    num_train_examples: int
    batch_size: int
    grad_accumulation_steps: int
    epochs: int
    max_steps: int | None = None
    stop_at_step: int | None = None
    log_every_steps: int = 10
    eval_every_steps: int | None = None
    save_every_steps: int = 0
    save_every_epochs: int = 1
    check_every_steps: int = 0

    @property
    def steps_per_epoch(self) -> int:
        return -(-self.num_train_examples // self.batch_size)

    @property
    def total_steps(self) -> int:
        """Optimizer steps of the whole run; the model's learning-rate schedule spans these.

        >>> s = Schedule(num_train_examples=10, batch_size=4, grad_accumulation_steps=1, epochs=2)
        >>> s.steps_per_epoch, s.total_steps
        (3, 6)
        """
        return self.epochs * self.steps_per_epoch if self.max_steps is None else self.max_steps

    def progress(self, step: int, examples_seen: int) -> Progress:
        """The counters after `step` steps and `examples_seen` examples."""
        return Progress(
            step=step,
            micro_step=step * self.grad_accumulation_steps,
            examples_seen=examples_seen,
            epoch=-(-examples_seen // self.num_train_examples),
        )

    def is_finished(self, progress: Progress) -> bool:
        """Whether `max_steps` were taken or, where it is not given, every example of every epoch
        was seen.
        """
        if self.max_steps is not None:
            return progress.step >= self.max_steps
        return progress.examples_seen >= self.epochs * self.num_train_examples

    def steps_to_boundary(self, progress: Progress) -> int:
        """Steps until the next moment at which anything but a step can be due (at least 1)."""
        if self.is_check_due(progress):
            return 1
        to_epoch_end = self.num_train_examples - progress.examples_seen % self.num_train_examples
        distances = [-(-to_epoch_end // self.batch_size)]
        for cadence in (
            self.log_every_steps,
            self.eval_every_steps,
            self.save_every_steps,
            self.check_every_steps,
        ):
            if cadence:
                distances.append(cadence - progress.step % cadence)
        distances.append(
            self.log_every_steps - (progress.step - self.fetch_lag) % self.log_every_steps
        )
        for limit in (self.max_steps, self.stop_at_step):
            if limit is not None and limit > progress.step:
                distances.append(limit - progress.step)
        return min(distances)

    @property
    def fetch_lag(self) -> int:
        """Steps dispatched after one whose report is due, before that report is fetched.

        Enough for a device with steps of 0.1 ms to stay busy; none where every step is logged.
        """
        return min(self.log_every_steps // 4, _MAX_FETCH_LAG)

    def is_log_due(self, progress: Progress) -> bool:
        """Whether the step just taken is one that is reported."""
        return progress.step % self.log_every_steps == 0

    def is_fetch_due(self, progress: Progress) -> bool:
        """Whether the reports held back are fetched now."""
        return (progress.step - self.fetch_lag) % self.log_every_steps == 0

    def is_eval_due(self, progress: Progress) -> bool:
        return self.is_finished(progress) or self.is_on_eval_cadence(progress)

    def is_on_eval_cadence(self, progress: Progress) -> bool:
        """Whether an evaluation is due, wherever the run ends."""
        if self.eval_every_steps is None:
            return self.ends_epoch(progress)
        return progress.step % self.eval_every_steps == 0

    def is_step_save_due(self, progress: Progress) -> bool:
        return self.save_every_steps > 0 and progress.step % self.save_every_steps == 0

    def is_epoch_save_due(self, progress: Progress) -> bool:
        ends = self.ends_epoch(progress)
        return ends and self.save_every_epochs > 0 and progress.epoch % self.save_every_epochs == 0

    def is_check_due(self, progress: Progress) -> bool:
        """Whether the next step is a checked one."""
        return self.check_every_steps > 0 and progress.step % self.check_every_steps == 0

    def last_check_before(self, step: int) -> int | None:
        """The last state that was checked if `step` steps are taken; None: none was.

        >>> once = Schedule(
        ...     num_train_examples=64, batch_size=4, grad_accumulation_steps=1, epochs=9,
        ...     check_every_steps=10,
        ... )
        >>> [once.last_check_before(step) for step in (0, 1, 10, 11)]
        [None, 0, 0, 10]
        """
        if not self.check_every_steps or step < 1:
            return None
        return (step - 1) // self.check_every_steps * self.check_every_steps

    def snapshot_name(self, progress: Progress, *, pending: bool = False) -> str:
        """`snapshot_ep5` where an epoch ends, `snapshot_step120` within one; with `pending`, of a
        run that was stopped in the evaluation there, `snapshot_step120_unevaluated`.
        """
        if pending:
            return f"snapshot_step{progress.step}_unevaluated"
        if self.ends_epoch(progress):
            return f"snapshot_ep{progress.epoch}"
        return f"snapshot_step{progress.step}"

    def ends_epoch(self, progress: Progress) -> bool:
        """Whether the step just taken is the last of its epoch."""
        return progress.step > 0 and progress.examples_seen % self.num_train_examples == 0
