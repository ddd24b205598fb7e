"""Weights to PyTorch's files, and from them."""
