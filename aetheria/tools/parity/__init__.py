"""Whether JAX and PyTorch compute the same run."""
