"""The PyTorch backend: the same state, steps and reports as JAX's, for one rank's device."""
