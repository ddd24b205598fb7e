"""Law of Sovereignty: the model alone owns its optimization and its hyperparameters."""

import io
import re
import tokenize

import pytest
from support.runs import REPOSITORY

# Whole words of an identifier, so that `clear` or `scale` are no learning rate.
OPTIMIZATION = re.compile(r"(^|_)(lr|learning_rate|momentum|weight_decay|adamw?|sgd|warmup)(_|$)")
ROOMS_WITHOUT = (
    "engine",
    "hardware/jax",
    "hardware/layout",
    "hardware/processes",
    "observe",
    "snapshots",
    "data",
    "plugins",
)


def optimization_names(source: str) -> set[str]:
    """The identifiers of a source that name a part of an optimizer; comments do not count."""
    tokens = tokenize.generate_tokens(io.StringIO(source).readline)
    names = {token.string for token in tokens if token.type == tokenize.NAME}
    return {name for name in names if OPTIMIZATION.search(name.lower())}


@pytest.mark.parametrize("room", ROOMS_WITHOUT)
def test_no_room_but_the_models_names_an_optimizer(room):
    files = sorted((REPOSITORY / "aetheria" / room).rglob("*.py"))
    assert files
    found = {str(file): optimization_names(file.read_text()) for file in files}
    assert {file: names for file, names in found.items() if names} == {}


def test_pytorch_names_optimizers_where_it_realises_them_and_nowhere_else():
    folder = REPOSITORY / "aetheria" / "hardware" / "torch"
    files = {file.name: file for file in folder.glob("*.py")}
    found = {name: optimization_names(file.read_text()) for name, file in files.items()}
    assert "adamw" in {name.lower() for name in found.pop("optimizers.py")}
    # How far one update of each of these can reach, for the guard.
    assert "adamw" in {name.lower() for name in found.pop("reach.py")}
    # A batch norm's, which the twin's own module holds.
    assert found.pop("running_statistics.py") == {"momentum"}
    assert found and {name: names for name, names in found.items() if names} == {}


def test_the_check_sees_a_learning_rate():
    assert optimization_names("step(base_lr=0.1)") == {"base_lr"}
    assert optimization_names("optax.adamw(1e-3)  # lr") == {"adamw"}
    assert optimization_names("clear(rescale)") == set()


OTHER_OPTIMIZER = """
from dataclasses import dataclass
import optax
from aetheria import register_model
from aetheria.models.mlp import SimpleMLP

@register_model("{name}")
@dataclass(frozen=True)
class Changed(SimpleMLP):
    def optimizer(self, total_steps):
        return {optimizer}
"""


def test_another_optimizer_is_a_change_in_one_file(train, tmp_path):
    """Only the model's file differs between these runs; the parameters do too."""
    models = tmp_path / "models"
    models.mkdir()
    for name, optimizer in (("Lion", "optax.lion(1e-3)"), ("Sgd", "optax.sgd(0.1)")):
        source = OTHER_OPTIMIZER.format(name=name, optimizer=optimizer)
        (models / f"{name.lower()}.py").write_text(source)
    runs = [train(name, model_name=name, epochs=1) for name in ("SimpleMLP", "Lion", "Sgd")]
    digests = {run.summary["params_sha256"] for run in runs}
    assert len(digests) == 3


def test_short_keys_reach_the_model_as_its_hyperparameters(train):
    slow = train("slow", learning_rate=1e-9, epochs=1)
    fast = train("fast", learning_rate=1e-2, epochs=1)
    assert fast.summary["final"]["eval/loss"] < slow.summary["final"]["eval/loss"] - 0.5
