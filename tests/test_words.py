"""The field's words: wherever one is written, one line says how it is spelled here."""

import dataclasses
import functools

import pytest

from aetheria.cli.main import main
from aetheria.cli.parser import surface
from aetheria.config import Config
from aetheria.config.schema import keys
from aetheria.config.words import _TABLE, meaning_of

AHEAD, ORDER, COMPILES = "a thread reads data ahead", "each epoch has an order", "JAX compiles"
TOP, EVALUATES = "at the top level of the config", "a run evaluates as it trains"
MODEL = "the model chooses it"

# What is written -> what the answer says of it as a key of a config, as an option and as a verb;
# None: it is no mistake there.
WORDS = {
    "lr=0.1": ("'learning_rate'", "--set learning_rate=0.1?", None),
    "max_epochs=3": ("'epochs'", "--set epochs=3?", None),
    "num_epochs=3": ("'epochs'", "--set epochs=3?", None),
    "max_steps=3": (None, "--set max_steps=3?", None),
    "optimizer=adamw": ("model_params.rule", "--set model_params.rule=adamw?", None),
    "optim=adamw": ("model_params.rule", "--set model_params.rule=adamw?", None),
    "gpus=2": ("mesh={data: 2}", "--set 'mesh={data: 2}'?", None),
    "devices=auto": ("mesh={data: N}", "--set 'mesh={data: N}'?", None),
    "accelerator=gpu": ("'strategy'", "--set strategy=gpu?", None),
    "accelerator=ddp": ("'strategy'", "--set strategy=mesh?", None),
    "ddp=true": ("strategy=mesh", "--set strategy=mesh?", None),
    "fsdp=4": ("mesh={fsdp: 4}", "--set 'mesh={fsdp: 4}'?", None),
    "deepspeed=ds.json": ("mesh={fsdp: N}", "--set 'mesh={fsdp: N}'?", None),
    "precision=bf16-mixed": ("'mixed_precision'", "--set mixed_precision=bf16-mixed?", None),
    "bf16=true": ("mixed_precision=bf16", "--set mixed_precision=bf16?", None),
    "fp16=true": ("mixed_precision=fp16", "--set mixed_precision=fp16?", None),
    "amp=true": ("mixed_precision=true", "--set mixed_precision=true?", None),
    "wandb=true": ("loggers=[console, wandb]", "--set 'loggers=[console, wandb]'?", None),
    "logger=wandb": ("'loggers'", "--set loggers=wandb?", None),
    "batch=32": ("'batch_size'", "--set batch_size=32?", None),
    "bs=32": ("'batch_size'", "--set batch_size=32?", None),
    "num_workers=4": (AHEAD, AHEAD, None),
    "dropout=0.1": ("model_params.dropout", "--set model_params.dropout=0.1?", None),
    "weight_decay=0.1": ("model_params.weight_decay", "--set model_params.weight_decay=0.1?", None),
    "wd=0.1": ("model_params.weight_decay", "--set model_params.weight_decay=0.1?", None),
    "warmup=10": ("model_params.warmup_steps", "--set model_params.warmup_steps=10?", None),
    "scheduler=cosine": ("model_params.schedule", "--set model_params.schedule=cosine?", None),
    "resume_from_checkpoint=x": ("--resume", "did you mean --resume", "--resume=latest"),
    "ckpt=x": ("use snapshot for when to save, and the option --resume", "--resume", "'snapshots'"),
    "checkpoint=x": ("use snapshot for when to save", "--resume", "'snapshots'"),
    "output_dir=x": ("--workdir", "did you mean --workdir", None),
    "seed_everything=1": ("'seed'", "--set seed=1?", None),
    "log_every_n_steps=5": ("'log_every_steps'", "--set log_every_steps=5?", None),
    "accumulate_grad_batches=4": (
        "'grad_accumulation_steps'",
        "--set grad_accumulation_steps=4?",
        None,
    ),
    "gradient_accumulation_steps=4": (
        "'grad_accumulation_steps'",
        "--set grad_accumulation_steps=4?",
        None,
    ),
    "gradient_clip_val=1": ("'max_grad_norm'", "--set max_grad_norm=1?", None),
    "val_check_interval=9": ("'eval_every_steps'", "--set eval_every_steps=9?", None),
    "early_stopping=true": (
        "use callbacks=early_stopping",
        "--set callbacks=early_stopping?",
        None,
    ),
    "patience=3": (
        "callbacks={early_stopping: {patience: 3}}",
        "--set 'callbacks={early_stopping: {patience: 3}}'?",
        None,
    ),
    "compile=true": (COMPILES, COMPILES, None),
    "shuffle=true": (ORDER, ORDER, None),
    "train={a: 1}": (TOP, TOP, None),
    "fit={a: 1}": (TOP, TOP, "'train'"),
    "test=true": (EVALUATES, EVALUATES, EVALUATES),
    "validate=true": (EVALUATES, EVALUATES, EVALUATES),
    "evaluate=true": (EVALUATES, EVALUATES, EVALUATES),
}


@pytest.fixture
def answer(tmp_path, monkeypatch, capsys):
    """What a command line is answered, which is one line on stderr."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments):
        assert main(arguments) == 2
        out, err = capsys.readouterr()
        assert not out and err.count("\n") == 1
        return err

    return run


@pytest.mark.parametrize("word", WORDS)
def test_a_word_of_the_field_is_answered_with_its_spelling(word, answer, tmp_path):
    as_key, as_option, as_verb = WORDS[word]
    key, _, value = word.partition("=")
    (tmp_path / "plain.yaml").write_text("model_name: SimpleMLP\n")
    (tmp_path / "with.yaml").write_text(f"model_name: SimpleMLP\n{key}: {value}\n")
    if as_key is not None:
        assert as_key in answer("train", "with.yaml")
        assert as_key in answer("train", "plain.yaml", "--set", word)
        assert (MODEL in answer("train", "with.yaml")) == as_key.startswith("model_params")
    assert as_option in answer("train", "plain.yaml", word)
    assert as_option in answer("train", "plain.yaml", f"--{word}")
    assert as_option in answer("train", "plain.yaml", f"--{word.replace('_', '-')}")
    if key != "train":
        said = answer(key, "plain.yaml")
        assert (as_verb or f"got '{key}'; see aetheria --help") in said


def test_a_nested_option_of_another_trainer_is_a_key(answer, tmp_path):
    (tmp_path / "plain.yaml").write_text("model_name: SimpleMLP\n")
    said = answer("train", "plain.yaml", "--trainer.max_epochs=3")
    assert "did you mean --set epochs=3?" in said


def test_a_mistyped_word_is_still_found(answer, tmp_path):
    (tmp_path / "plain.yaml").write_text("model_name: SimpleMLP\n")
    assert "did you mean 'batch_size'?" in answer("train", "plain.yaml", "--set", "batchsize=3")
    assert "did you mean 'models'?" in answer("model")


options = functools.cache(surface)  # of every command


@pytest.mark.parametrize("words", [words for words, _ in _TABLE], ids=lambda words: words[:20])
def test_every_answer_of_the_table_exists(words, tmp_path, capsys):
    (tmp_path / "plain.yaml").write_text("model_name: SimpleMLP\n")
    for word in words.split():
        meaning = meaning_of(word)
        assert meaning is not None and any(meaning)
        assert word not in {item.name for item in dataclasses.fields(Config)}, "no mistake"
        key = meaning.key.partition("=")[0]
        assert not key or key in {*keys(), "snapshot"} or key.startswith("model_params.")
        if "=" in meaning.key:
            setting = f"--set={meaning.setting('2')}"
            assert main(["train", str(tmp_path / "plain.yaml"), setting, "--print-config"]) == 0
            assert capsys.readouterr().err == ""
        assert not meaning.option or meaning.option in options()["train"]
        command = meaning.command.partition(" --")[0].removesuffix(" CONFIG")
        assert not command or command in options()


def test_every_word_has_one_meaning():
    words = [word for words, _ in _TABLE for word in words.split()]
    assert len(words) == len(set(words)) > 100
