"""The peers' environments: one for Keras, one for what runs on PyTorch, one for KServe's server."""

import subprocess
import sys
from pathlib import Path

# lightning 2.6.2 and 2.6.3 were malicious uploads. Pinned where the newest would not do: that
# torch is a small build on a CPU for Python 3.11, and others pull gigabytes.
_PACKAGES = {
    "keras": ("keras>=3.10", "numpy"),
    "kserve": ("kserve>=0.15", "flatbuffers", "numpy"),
    "torch": (
        "torch==2.13.0",
        "lightning>=2.5,!=2.6.2,!=2.6.3",
        "accelerate>=1.8",
        "tensorboard",
        "numpy",
    ),
}
_JAX = {"cpu": "jax", "gpu": "jax[cuda]"}


def make_environments(folder: Path, device: str) -> None:
    """Makes each environment with this Python's venv and pip; raises what these raise."""
    for name, packages in _PACKAGES.items():
        wanted = list(packages) if name == "torch" else [*packages, _JAX[device]]
        print(f"{folder / name}: {' '.join(wanted)}", flush=True)
        subprocess.run([sys.executable, "-m", "venv", folder / name], check=True)
        python = folder / name / "bin" / "python"
        subprocess.run([python, "-m", "pip", "install", "--quiet", *wanted], check=True)


def missing(folder: Path) -> list[str]:
    """The environments that are not in the folder."""
    return [name for name in _PACKAGES if not (folder / name / "bin" / "python").exists()]
