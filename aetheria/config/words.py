"""What the field's words mean here: one table for keys of a config, options and verbs.

Read only once somebody has written a word that does not exist.
"""

from typing import NamedTuple


class Meaning(NamedTuple):
    """How a word is spelled here.

    Attributes:
        key: a key of the config with the same value; or a setting `key=value`, in which N stands
            for a number that was given with the word.
        option: an option of a command.
        command: what follows `aetheria`.
        note: what to do where nothing is spelled in its place; goes before `key` in an answer.
    """

    key: str = ""
    option: str = ""
    command: str = ""
    note: str = ""

    def setting(self, value: str) -> str:
        """`key=value` for a value that was given with the word; empty: none was.

        >>> Meaning("epochs").setting("3"), Meaning("mesh={data: N}").setting("2")
        ('epochs=3', 'mesh={data: 2}')
        >>> Meaning("mixed_precision=bf16").setting("true"), Meaning("epochs").setting("")
        ('mixed_precision=bf16', 'epochs=…')
        """
        if "=" not in self.key:
            return f"{self.key}={value[:80] or '…'}"
        return self.key.replace("N", value) if value.isdecimal() and len(value) < 10 else self.key


# Hyperparameters that a Classifier and a Regressor have.
_MODEL = "model_params."
_CHOOSES = "the model chooses it: give a hyperparameter in model_params, or change the model"
_READS_AHEAD = (
    "leave it out: a thread reads data ahead of the training loop, and data_readers says how many"
)
_TOP_LEVEL = "write its keys at the top level of the config"
_EVALUATES = (
    "a run evaluates as it trains: eval_every_steps is the interval, and the dataset gives the "
    "evaluation split"
)
_PREDICTS = "predict from Python, with aetheria.Predictor"
NOTES_ON_VERBS = (_EVALUATES, _PREDICTS)  # the other notes are about keys and options

_TABLE = (
    # The length and the size of a run.
    ("lr base_lr max_lr", Meaning("learning_rate")),
    ("num_epochs max_epochs n_epochs num_train_epochs epoch", Meaning("epochs")),
    ("steps num_steps train_steps total_steps max_iters", Meaning("max_steps")),
    ("bs batch train_batch_size global_batch_size", Meaning("batch_size")),
    (
        "per_device_train_batch_size per_device_batch_size micro_batch_size",
        Meaning(note="use batch_size, the examples of one optimizer step over all devices"),
    ),
    (
        "eval_batch_size val_batch_size per_device_eval_batch_size",
        Meaning(note="leave it out: an evaluation takes batches of the size of a micro-batch"),
    ),
    (
        "accumulate_grad_batches gradient_accumulation_steps accumulation accum_steps grad_accum",
        Meaning("grad_accumulation_steps"),
    ),
    (
        "gradient_clip_val grad_clip clip_grad_norm gradient_clipping clip_norm",
        Meaning("max_grad_norm"),
    ),
    ("seed_everything random_seed rng_seed", Meaning("seed")),
    ("deterministic determinism", Meaning("reproducibility")),
    ("ema ema_rate", Meaning("ema_decay")),
    ("gradient_checkpointing activation_checkpointing", Meaning("remat=full")),
    # The model.
    ("model model_config architecture", Meaning("model_name")),
    ("optimizer optim", Meaning(f"{_MODEL}rule")),
    ("scheduler lr_scheduler schedule lr_scheduler_type", Meaning(f"{_MODEL}schedule")),
    ("warmup warmup_steps num_warmup_steps", Meaning(f"{_MODEL}warmup_steps")),
    ("weight_decay wd", Meaning(f"{_MODEL}weight_decay")),
    ("momentum", Meaning(f"{_MODEL}momentum")),
    ("dropout", Meaning(f"{_MODEL}dropout")),
    ("betas loss criterion", Meaning(note=_CHOOSES)),
    # Data.
    ("data dataset dataset_name datamodule", Meaning("data_name")),
    (
        "num_workers workers dataloader_num_workers prefetch prefetch_factor pin_memory",
        Meaning(note=_READS_AHEAD),
    ),
    (
        "shuffle",
        Meaning(note="leave it out: each epoch has an order of its own, which seed determines"),
    ),
    # Devices and numbers.
    ("accelerator device backend", Meaning("strategy")),
    ("devices num_devices gpus num_gpus n_gpus sharding", Meaning("mesh={data: N}")),
    ("ddp dp data_parallel", Meaning("strategy=mesh")),
    ("fsdp deepspeed zero", Meaning("mesh={fsdp: N}")),
    ("tensor_parallel tp", Meaning("mesh={tensor: N}")),
    ("precision dtype", Meaning("mixed_precision")),
    ("amp use_amp", Meaning("mixed_precision=true")),
    ("bf16 bfloat16", Meaning("mixed_precision=bf16")),
    ("fp16 float16 half", Meaning("mixed_precision=fp16")),
    (
        "compile torch_compile jit",
        Meaning(note="leave it out: JAX compiles every step; with strategy torch none is compiled"),
    ),
    # Reports, evaluation and snapshots.
    ("logger logging report_to", Meaning("loggers")),
    ("wandb use_wandb", Meaning("loggers=[console, wandb]")),
    ("tensorboard", Meaning("loggers=[console, tensorboard]")),
    ("log_every log_every_n_steps log_interval logging_steps", Meaning("log_every_steps")),
    (
        "eval_every eval_steps eval_interval val_check_interval",
        Meaning("eval_every_steps"),
    ),
    ("early_stopping earlystopping", Meaning("callbacks=early_stopping")),
    (
        "patience early_stopping_patience",
        Meaning("callbacks={early_stopping: {patience: N}}"),
    ),
    (
        "time_limit max_time max_duration timer",
        Meaning("callbacks={time_limit: {max_seconds: N}}"),
    ),
    ("profiler", Meaning("callbacks=profiler")),
    ("save_every save_steps save_interval", Meaning("snapshot.every_steps")),
    ("save_top_k", Meaning("snapshot.keep_best")),
    ("save_total_limit", Meaning("snapshot.keep_last")),
    ("monitor metric_for_best_model", Meaning("snapshot.monitor")),
    # Options.
    (
        "output_dir out outdir logdir log_dir run_dir save_dir default_root_dir workdir",
        Meaning(option="--workdir"),
    ),
    ("run_name experiment_name experiment name", Meaning(option="--name")),
    (
        "resume resume_from_checkpoint ckpt_path restore",
        Meaning(option="--resume", command="train CONFIG --resume=latest"),
    ),
    (
        "checkpoint checkpoints ckpt checkpointing",
        Meaning(
            option="--resume",
            command="snapshots",
            note="use snapshot for when to save, and the option --resume to continue from one",
        ),
    ),
    ("force override overwrite", Meaning(option="--overwrite")),
    ("fast_dev_run", Meaning(option="--fast-dev-run")),
    ("world_size nprocs num_nodes nnodes", Meaning(option="--num-processes")),
    ("rank node_rank", Meaning(option="--process-id")),
    # Verbs.
    ("fit run start launch", Meaning(command="train", note=_TOP_LEVEL)),
    ("train trainer training hyperparameters", Meaning(note=_TOP_LEVEL)),
    ("test validate validation evaluate eval val", Meaning(note=_EVALUATES)),
    ("predict infer inference", Meaning(note=_PREDICTS)),
    ("continue restart", Meaning(command="train CONFIG --resume=latest")),
    ("ls list", Meaning(command="snapshots")),
    ("verify check", Meaning(command="snapshots verify")),
    ("goodput time profile", Meaning(command="report")),
    ("nan debug_nan", Meaning(command="debug nan")),
)
_MEANINGS = {word: meaning for words, meaning in _TABLE for word in words.split()}


def meaning_of(word: str) -> Meaning | None:
    """What a word means, however it is written.

    >>> meaning_of("--Max-Epochs")
    Meaning(key='epochs', option='', command='', note='')
    """
    return _MEANINGS.get(word.lower().lstrip("-").replace("-", "_"))
