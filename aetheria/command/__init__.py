"""Command: from an argument vector to a frozen value with `execute()`; parsing imports no jax."""
