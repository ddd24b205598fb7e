"""Text generation: the cache against the whole forward pass, what a token depends on, and what is
refused.
"""

import dataclasses
import functools
import io
import re
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from support.long import covering_rows

from aetheria import Classifier, Predictor
from aetheria.errors import AetheriaError, ModelError
from aetheria.hardware.jax.generation import Request, Sampling
from aetheria.hardware.jax.generation.prompts import Writer
from aetheria.hardware.jax.generation.rows import Row, Sizes
from aetheria.hardware.jax.generation.sampling import draw
from aetheria.hardware.jax.prediction import PredictProgram
from aetheria.hardware.layout.leaves import export_leaves
from aetheria.plugins import MODELS

Transformer = MODELS.get("Transformer")
SMALL = Transformer(
    vocab_size=256,
    num_layers=2,
    width=16,
    num_heads=2,
    max_length=16,
    tied_embeddings=False,
)
DEEP = dataclasses.replace(SMALL, num_layers=5, remat="dots", tied_embeddings=True)
PROMPTS = ["a", "The for statement", "x" * 40]
CONFIG = {
    "model_name": "Transformer",
    "model_params": {"num_layers": 1, "width": 16, "num_heads": 2, "max_length": 32},
    "data_name": "python_docs",
    "data_params": {"length": 32},
    "batch_size": 16,
    "max_steps": 3,
    "loggers": [],
}


@functools.cache
def loaded(model):
    """A prediction program and noisy weights, whose draws differ."""
    length = getattr(model, "max_length", 16)
    spec = {"inputs": {"shape": [length], "dtype": "int32"}}
    program = PredictProgram(model, spec, mixed_precision=False)
    batch = {"inputs": np.zeros((1, length), np.int32)}
    params = jax.jit(model.init)(jax.random.key(0), batch)[0]
    rng = np.random.default_rng(1)
    noisy = jax.tree.map(lambda p: p + 0.3 * rng.normal(size=p.shape).astype(np.float32), params)
    leaves = {name: np.asarray(leaf) for name, leaf in export_leaves({"params": noisy}).items()}
    return program, program.place(leaves)


def generate(prompt, *, model=SMALL, count=40, seed=0, stop=None, cache=True, **sampling):
    program, weights = loaded(model)
    request = Request(count, Sampling(**sampling), seed, stop)
    return program.generator(cache).generate(weights, prompt, request)


def ids(text, **options):
    return generate(list(text.encode()), **options).tolist()


# The cache


CACHED = {
    f"{name}-{temperature}": (model, temperature)
    for name, model in {"unrolled": SMALL, "rematerialized": DEEP}.items()
    for temperature in (0, 1.0)
}


@pytest.mark.parametrize(
    ("model", "temperature"),
    covering_rows(CACHED, default=["unrolled-1.0"]),
)
def test_the_cache_changes_no_token(model, temperature):
    options = {"model": model, "temperature": temperature, "seed": 3}
    # Of one token, of more than the window, of much more.
    cached, uncached = (
        [ids(prompt, cache=cache, **options) for prompt in PROMPTS] for cache in (True, False)
    )
    assert cached == uncached
    assert {len(tokens) for tokens in cached} == {40} and len(np.unique(cached)) > 4


class OffByOne(Transformer):
    """The control: a cache with a wrong position."""

    def decode(self, params, model_state, tokens, start, cache):
        return super().decode(params, model_state, tokens, jnp.maximum(start - 1, 0), cache)


def test_a_cache_with_a_wrong_position_gives_other_tokens():
    wrong = OffByOne(**{f.name: getattr(SMALL, f.name) for f in dataclasses.fields(SMALL)})
    assert ids(PROMPTS[1], model=wrong, count=10) != ids(PROMPTS[1], count=10)


@pytest.mark.parametrize("model", [SMALL, DEEP], ids=["unrolled", "rematerialized"])
def test_logits_of_the_cache_are_those_of_the_whole_row(model):
    params = loaded(model)[1].params
    tokens = np.random.default_rng(2).integers(256, size=(2, 9), dtype=np.int32)
    whole = jax.jit(model.predict)(params, {}, tokens)
    cache, decode = model.empty_cache(params, 2, 12), jax.jit(model.decode)
    parts, start = [], np.array([0, 0])
    for size in (4, 1, 3, 1):
        logits, cache = decode(params, {}, tokens[:, start[0] :][:, :size], start, cache)
        parts.append(logits)
        start = start + size
    np.testing.assert_allclose(np.concatenate(parts, 1), whole, rtol=1e-4, atol=1e-4)
    assert abs(whole[:, 1:] - whole[:, :-1]).max() > 0.1


def test_a_greedy_row_is_what_predict_says_step_by_step():
    program, weights = loaded(SMALL)
    tokens = list(b"for")
    for _ in range(40):  # after 16 tokens it sees the last 8, then up to 16 again
        seen = len(tokens) if len(tokens) <= 16 else 8 + (len(tokens) - 17) % 9
        window = np.zeros((1, 16), np.int32)
        window[0, :seen] = tokens[-seen:]
        tokens.append(int(program.run(weights, window)[0, seen - 1].argmax()))
    assert ids("for", temperature=0) == tokens[3:]


# What a token depends on


def test_a_prompt_has_the_same_tokens_alone_and_in_any_batch():
    prompts = ["ab", "a longer one", "ab", *(f"number {n}" for n in range(6))]
    alone = [generate(prompt, count=30, top_p=0.9) for prompt in prompts]
    assert generate(prompts, count=30, top_p=0.9) == alone
    assert generate(prompts[::-1], count=30, top_p=0.9) == alone[::-1]
    assert alone[0] == alone[2] != alone[1]


def test_threads_get_the_same_tokens():
    barrier = threading.Barrier(4)

    def work(seed):
        barrier.wait()
        return generate("threads", seed=seed, count=20)

    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(work, [0, 1, 2, 0]))
    assert together == [generate("threads", seed=seed, count=20) for seed in (0, 1, 2, 0)]
    assert len(set(together)) == 3


def test_each_prompt_may_have_its_own_seed():
    seeded = generate(["abc"] * 3, seed=[5, 6, 5], count=20)
    assert seeded == [generate("abc", seed=seed, count=20) for seed in (5, 6, 5)]
    assert seeded[0] != seeded[1]


def test_fewer_tokens_are_the_first_of_more():
    assert generate("def ", count=60).startswith(generate("def ", count=7))


# Draws


def drawn(logits, count, **sampling):
    options = Sampling(**sampling)
    one = jax.jit(jax.vmap(lambda n: draw(options.kind, rows, seeds, n, options.thresholds)[0]))
    rows, seeds = jnp.asarray(logits)[None], jnp.zeros(1, jnp.uint32)
    return np.bincount(one(jnp.arange(count)), minlength=len(logits)) / count


def test_draws_have_the_probabilities_of_the_softmax():
    shares = np.array([0.5, 0.3, 0.15, 0.05])
    logits = np.log(shares).astype(np.float32)
    np.testing.assert_allclose(drawn(logits, 20_000), shares, atol=0.02)
    hot = shares**0.5 / (shares**0.5).sum()
    np.testing.assert_allclose(drawn(logits, 20_000, temperature=2.0), hot, atol=0.02)
    kept = drawn(logits, 20_000, top_k=2)
    np.testing.assert_allclose(kept, [0.625, 0.375, 0, 0], atol=0.02)
    assert (drawn(logits, 1000, top_p=0.79)[2:] == 0).all()  # 0.5 + 0.3 have it
    assert (drawn(logits, 1000, top_p=0.81)[:3] > 0).all()
    assert drawn(logits, 1000, top_p=1e-6)[0] == 1
    assert drawn(logits, 10, temperature=0)[0] == 1


def test_thresholds_that_keep_everything_change_no_draw():
    assert ids("same") == ids("same", top_k=256, top_p=1.0)
    assert ids("same", top_k=1) == ids("same", temperature=0) != ids("same")


# Prompts, stops and pieces


def test_what_comes_back_is_of_the_kind_of_the_prompt():
    text, array, both = (generate(p, count=9) for p in ("ab", [97, 98], ["ab", np.array([97, 98])]))
    assert isinstance(text, str) and array.dtype == np.int32 and array.shape == (9,)
    assert both[0] == text == Writer("").write(array.tolist(), last=True)
    np.testing.assert_array_equal(both[1], array)
    assert generate([]) == []


def test_a_stop_ends_the_text_before_it():
    whole = ids("stop here", count=40)
    two = whole[10:12]
    first = next(i for i in range(39) if whole[i : i + 2] == two)
    assert ids("stop here", stop=[two]) == whole[:first]
    assert ids("stop here", stop=whole[5]) == whole[: whole.index(whole[5])]
    assert ids("stop here", stop=[[255, 255, 255, 254]]) == whole


def test_pieces_make_up_the_whole():
    program, weights = loaded(SMALL)
    for stop in (None, "\n", "ab"):
        request = Request(60, Sampling(), 1, stop)
        pieces = [*program.generator(True).stream(weights, "abc é", request)]
        assert "".join(pieces) == generate("abc é", seed=1, count=60, stop=stop)
        assert len(pieces) > 1 or stop


def test_a_character_in_two_pieces_is_one():
    writer = Writer("text")
    pieces = [writer.write([0xC3], last=False), writer.write([0xA9, 0xFF], last=True)]
    assert "".join(pieces) == "é\ufffd"


def test_rows_are_compiled_for_by_their_own_length_alone():
    sizes = lambda prompt, count: Row(np.zeros(prompt, np.int32), 0, count).sizes(16)
    assert sizes(3, 4) == Sizes(4, 8) == sizes(4, 5)
    assert sizes(3, 14) == Sizes(4, 16)
    assert sizes(3, 15) == Sizes(8, 16)  # slides, and then reads 8
    assert sizes(100, 1) == sizes(109, 1) == Sizes(16, 16)  # 10 are seen: 9 fewer each time


# Models of one's own


class Recurrent(nn.Module):
    length: int

    @nn.compact
    def __call__(self, x, train):
        # It takes rows of the length of training alone.
        x = nn.Embed(32, 8)(x) + self.param("places", nn.initializers.normal(1.0), (self.length, 8))
        return nn.Dense(32)(nn.RNN(nn.SimpleCell(8))(x))


@dataclasses.dataclass(frozen=True)
class OwnModel(Classifier):
    max_length: int = 16

    def network(self):
        return Recurrent(self.max_length)


def test_a_model_without_hooks_generates_through_predict():
    tokens = generate([[1, 2, 3], [4]], model=OwnModel(), count=20, temperature=0)
    program, weights = loaded(OwnModel())
    window = np.array([[1, 2, 3, *tokens[0][:13]]], np.int32)
    greedy = program.run(weights, window)[0].argmax(-1)
    np.testing.assert_array_equal(greedy[2:], tokens[0][:14])
    assert tokens[1].shape == (20,)


class HalfADecoder(OwnModel):
    def decode(self, params, model_state, tokens, start, cache):
        return None


class WrongDecoder(HalfADecoder):
    def empty_cache(self, params, batch_size, length):
        return np.zeros((batch_size, length), np.float32)


@pytest.mark.parametrize(
    ("model", "line"),
    [
        (HalfADecoder(), "expected a model with empty_cache beside it, got none"),
        (
            WrongDecoder(),
            r"decode .*: expected a pair of logits \[1, 8, 32\] and a cache, got None",
        ),
    ],
)
def test_hooks_that_do_not_fit_are_one_line(model, line):
    with pytest.raises(ModelError, match=line) as caught:
        generate([1, 2], model=model)
    assert "\n" not in str(caught.value)


# Mistakes


@pytest.mark.parametrize(
    ("prompt", "options", "line"),
    [
        ("", {}, "prompt: expected at least one token, got none"),
        (["a", ""], {}, "prompt 1: expected at least one token"),
        ([256], {}, "prompt: expected tokens from 0 to 255, got 256"),
        ([[[1]]], {}, "prompt: expected a text or token ids"),
        (np.zeros((2, 3), np.int32), {}, r"expected a text .* got int32\[2, 3\]; give several"),
        (0.5, {}, "prompt: expected a text or token ids"),
        ("\ud800", {}, "prompt: expected text, got .*half of a character"),
        ("a", {"count": 0}, "max_new_tokens: expected a whole number of 1 or more, got 0"),
        ("a", {"temperature": -1}, "temperature: expected a number from 0 to 10000, got -1"),
        ("a", {"temperature": float("nan")}, "temperature: .* got nan"),
        ("a", {"top_k": 0}, "top_k: expected a whole number of 1 or more, got 0"),
        ("a", {"top_p": 1.5}, "top_p: expected a number above 0, at most 1, got 1.5"),
        ("a", {"seed": -1}, "seed: expected a whole number from 0"),
        ("a", {"seed": [1, 2]}, "seed: expected one, or 1 for as many prompts, got 2"),
        ("a", {"stop": ""}, "stop: expected at least one token"),
    ],
)
def test_a_mistake_is_one_line(prompt, options, line):
    with pytest.raises(AetheriaError, match=line) as caught:
        generate(prompt, **options)
    assert "\n" not in str(caught.value)


def test_text_for_a_model_of_other_tokens_is_one_line():
    with pytest.raises(AetheriaError, match="expected token ids, since the model has 32 tokens"):
        generate("text", model=OwnModel())


@pytest.mark.parametrize("dtype", ["float32", "int32"])
def test_a_model_that_is_no_language_model_is_one_line(dtype):
    spec = {"inputs": {"shape": [64], "dtype": dtype}}
    program = PredictProgram(MODELS.get("SimpleMLP")(input_dim=64), spec, mixed_precision=False)
    got = {"float32": "inputs are float32", "int32": "outputs are float32"}[dtype]
    with pytest.raises(
        AetheriaError, match=f"expected a language model, .* SimpleMLP, whose {got}"
    ):
        program.generator(True)


def test_weights_that_are_not_finite_are_one_line():
    program, weights = loaded(SMALL)
    broken = weights._replace(params=jax.tree.map(lambda p: p * np.nan, weights.params))
    with pytest.raises(AetheriaError, match="generate: expected finite logits"):
        program.generator(True).generate(broken, "a", Request(3, Sampling()))


# The command


@pytest.fixture(scope="module")
def run(train_once):
    finished = train_once("lm", **CONFIG)
    assert finished.exit_code == 0
    return finished.run_dir


def test_the_command_prints_what_the_predictor_returns(run, command, tmp_path, monkeypatch):
    predictor = Predictor(checkpoint_path=run)
    text = lambda seed: predictor.generate("The ", max_new_tokens=50, temperature=0.8, seed=seed)
    options = ["--max-new-tokens=50", "--temperature=0.8", "--seed=4"]
    for more in ([], ["--stream"]):
        done = command("generate", run, "--prompt", "The ", *options, *more)
        assert (done.returncode, done.stdout) == (0, f"{text(4)}\n")
    (tmp_path / "prompt.txt").write_text("The ")
    with (tmp_path / "prompt.txt").open("rb") as file:
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(file))
        done = command("generate", run, "--prompt-file", "-", *options)
    assert (done.returncode, done.stdout) == (0, f"{text(4)}\n")
    done = command("generate", run, "--prompt-file=prompt.txt", *options, "--num-samples=2")
    assert done.stdout == f"--- sample 1, seed 4\n{text(4)}\n--- sample 2, seed 5\n{text(5)}\n"
    assert text(4) != text(5)
    on_all_devices = Predictor(checkpoint_path=run, data_parallel=True)
    said = on_all_devices.generate("The ", max_new_tokens=50, temperature=0.8, seed=4, stream=True)
    assert "".join(said) == text(4)


@pytest.mark.parametrize(
    ("options", "line"),
    [
        ([], "--prompt: expected --prompt or --prompt-file, got none"),
        (["--prompt=a", "--prompt-file=b"], "--prompt: .* got both"),
        (["--prompt-file", "--stream"], "--prompt-file: expected a value, got none"),
        (["--prompt-file=missing"], "--prompt-file: expected a file of text, got 'missing'"),
        (["--prompt=a", "--top-p=2"], "top_p: expected a number above 0, at most 1, got 2.0"),
        (["--prompt=a", "--temperature=hot"], "--temperature: expected a number, got 'hot'"),
        (["--prompt="], "prompt: expected at least one token"),
    ],
)
def test_a_mistake_on_the_command_line_is_one_line(run, command, options, line):
    refused(command("generate", run, *options), line)


def refused(done, line):
    assert done.returncode == 2 and done.stdout == ""
    (said,) = done.stderr.splitlines()
    assert re.search(line, said), said
