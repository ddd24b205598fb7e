"""Leaves out, where PyTorch is not installed, the files that are nothing without it."""

import importlib.util

collect_ignore_glob = (
    []
    if importlib.util.find_spec("torch")
    else ["aetheria/pytorch/*", "aetheria/proofs/traps.py", "models/*_torch.py"]
)
