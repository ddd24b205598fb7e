"""The JAX backend: one model compiled for a mesh of devices. Knows nothing of PyTorch."""
