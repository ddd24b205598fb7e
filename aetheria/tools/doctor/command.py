"""`aetheria doctor`: what is installed, which devices there are, and whether a step works."""

import importlib.metadata
import importlib.util
import os
import platform
import shutil
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from aetheria.errors import ExitCode, summary_of

# Extra -> the modules that it brings.
_EXTRAS = {
    "torch": ["torch"],
    "wandb": ["wandb", "PIL"],
    "sweep": ["optuna"],
    "plot": ["matplotlib"],
    "data": ["PIL", "datasets", "grain", "pyarrow"],
    "serve": ["fastapi", "uvicorn", "prometheus_client", "PIL"],
}
_NVIDIA = Path("/proc/driver/nvidia/version")


@dataclass(frozen=True)
class Finding:
    """One line of the report.

    Attributes:
        about: what was looked at.
        text: what was found.
        advice: what to do about it; empty: all is well.
    """

    about: str
    text: str
    advice: str = ""


@dataclass(frozen=True, kw_only=True)
class DoctorCommand:
    """Says what this installation and this machine can do, and what to mend.

    Examples:
        aetheria doctor

    Exit codes:
        0: all is well
        1: something has to be mended
        2: a mistake
    """

    def execute(self) -> int:
        """Prints a line for each finding, and returns the exit code."""
        failed = False
        for look in (_python, _packages, _extras, _devices, _step, _cache, _disk, _settings):
            for finding in _try(look):
                mark = "MEND" if finding.advice else "ok"
                advice = f"; {finding.advice}" if finding.advice else ""
                print(f"{mark:5} {finding.about:9} {finding.text}{advice}", flush=True)
                failed = failed or bool(finding.advice)
        return int(ExitCode.FAILED if failed else ExitCode.OK)


def _try(look: Callable[[], Iterator[Finding]]) -> Iterator[Finding]:
    """A look that fails is a finding too."""
    try:
        yield from look()
    except Exception as error:
        yield Finding(
            look.__name__.strip("_"), summary_of(error, 300), "see the message of the library"
        )


def _python() -> Iterator[Finding]:
    yield Finding("python", f"{platform.python_version()} on {platform.platform()}")


def _packages() -> Iterator[Finding]:
    names = ("aetheria", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy")
    found = {name: importlib.metadata.version(name) for name in names}
    minor = {found[name].rpartition(".")[0] for name in ("jax", "jaxlib")}
    advice = "install jax and jaxlib of one version" if len(minor) > 1 else ""
    yield Finding("packages", ", ".join(f"{n} {v}" for n, v in found.items()), advice)


def _extras() -> Iterator[Finding]:
    there = [name for name, brings in _EXTRAS.items() if all(map(importlib.util.find_spec, brings))]
    absent = [name for name in _EXTRAS if name not in there]
    text = f"installed: {', '.join(there) or 'none'}"
    if absent:
        text += f"; not installed: {', '.join(absent)} (pip install 'aetheria[{absent[0]}]')"
    yield Finding("extras", text)


def _devices() -> Iterator[Finding]:
    import jax

    from aetheria.hardware.jax.mesh import name_devices

    devices = jax.devices()
    wanted = _NVIDIA.exists() and "cpu" not in os.environ.get("JAX_PLATFORMS", "")
    advice = ""
    if wanted and all(device.platform == "cpu" for device in devices):
        advice = "there is an NVIDIA driver: pip install 'aetheria[cuda]' to train on the GPU"
    kinds = sorted({device.device_kind for device in devices if device.platform != "cpu"})
    yield Finding("devices", ", ".join([name_devices(devices), *kinds]), advice)


def _step() -> Iterator[Finding]:
    import jax
    import jax.numpy as jnp

    value = float(jax.jit(lambda x: (x @ x).sum())(jnp.ones((64, 64))))
    advice = "" if value == 64**3 else "the device computes wrong numbers: try another"
    yield Finding("a product", f"64 x 64 ones: {value:g}", advice)


def _cache() -> Iterator[Finding]:
    from aetheria.hardware.jax.compile_cache import make_folder

    folder = make_folder(os.environ)
    if folder is None:
        advice = "make the cache folder yours alone (chmod 700), or set XDG_CACHE_HOME"
        yield Finding("cache", "compiled programs cannot be kept", advice)
        return
    size = sum(file.stat().st_size for file in folder.iterdir())
    yield Finding("cache", f"{folder} holds {size / 2**20:.0f} MiB of compiled programs")


def _disk() -> Iterator[Finding]:
    with tempfile.TemporaryFile(dir=Path.cwd()) as file:
        file.write(b"x")
    free = shutil.disk_usage(Path.cwd()).free / 2**30
    advice = "free some space for snapshots" if free < 1 else ""
    yield Finding("disk", f"{Path.cwd()} can be written to, {free:.0f} GiB free", advice)


def _settings() -> Iterator[Finding]:
    prefixes = ("JAX_", "XLA_", "CUDA_VISIBLE", "AETHERIA_", "SLURM_JOB_ID")
    names = sorted(name for name in os.environ if name.startswith(prefixes))
    shown = [f"{n}={'(set)' if 'TOKEN' in n else os.environ[n]}" for n in names]
    yield Finding("settings", ", ".join(shown) or "none in the environment")
