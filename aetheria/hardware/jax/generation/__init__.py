"""Text generation: tokens drawn one after another from a language model's logits.

`sampling` draws a token, `program` is what runs on the device, `rows` is the loop over chunks of
tokens on the host, and `prompts` turns text to tokens and back.
"""

from aetheria.hardware.jax.generation.generator import Generator as Generator
from aetheria.hardware.jax.generation.generator import Request as Request
from aetheria.hardware.jax.generation.program import DecodeProgram as DecodeProgram
from aetheria.hardware.jax.generation.sampling import Sampling as Sampling
