"""Command: from an argument vector to a frozen value that can be executed. Parsing imports no jax."""
