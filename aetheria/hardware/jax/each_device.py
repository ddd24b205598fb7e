"""Compiles a function of one device once, and runs it on each device of a process.

`jax.jit` compiles anew for every device that its arguments lie on: with eight, a lane's gradient
took eight times as long until the first step. One executable, loaded once for each device, also
means that all of them run the very same instructions.
"""

import contextlib
import io
from collections.abc import Hashable, Sequence
from typing import Any

import jax
import numpy as np

from aetheria.hardware.jax.compile_cache import active_cache
from aetheria.hardware.jax.mesh import Device


class EachDevice:
    """A compiled function on each of several devices.

    The arguments of one variant always have the same shapes and dtypes. Its first call has to be on
    the first device, which is the one that is compiled for. No other object may have jitted the
    same function: JAX would give the executable that it has, which may have come from
    the cache and then cannot be serialized.

    Args:
        function: the result of `jax.jit`.
        devices: of this process, all of one kind.

    Attributes:
        traced: the function as it was traced; None: it was not called yet.
    """

    def __init__(self, function: jax.stages.Wrapped, devices: Sequence[Device]):
        self._function, self._devices = function, devices
        self._loaded: dict[Hashable, list[Any]] = {}  # one callable a device
        self.traced: jax.stages.Traced | None = None

    def __call__(self, place: int, *arguments: Any, variant: Hashable = None) -> Any:
        """Calls the function with arguments that lie on the device number `place`, or on the host.

        Donated arguments are donated.

        Args:
            place: the number of the device.
            arguments: the function's.
            variant: differs where the shapes of the arguments do: each is compiled once.
        """
        if variant not in self._loaded:
            assert place == 0, "compiled for the first device"
            # Lowered here: a frame less at every error in a user's network.
            self.traced = self._function.trace(*arguments)
            self._loaded[variant] = self._compile(self.traced.lower())
        return self._loaded[variant][place](*arguments)

    def _compile(self, lowered: jax.stages.Lowered) -> list[Any]:
        cache = active_cache()
        # A cache of JAX's own hides what it holds; with one, each device has an entry of its own.
        if len(self._devices) == 1 or (cache is None and _has_cache()):
            return [self._function] * len(self._devices)
        with contextlib.nullcontext([]) if cache is None else cache.watched() as seen:
            compiled = lowered.compile()
        try:
            if cache is not None and not seen and jax.process_index() == 0:
                raise ValueError("compiled before in this process, and perhaps read from the cache")
            payload = _serialize(compiled, seen)
            others = [_load(compiled, payload, device) for device in self._devices[1:]]
            return [compiled, *others]
        except Exception:
            # Loading elsewhere is no public API of JAX. Without it, each device is compiled for,
            # which takes longer and computes the same.
            return [compiled, *(self._function for _ in self._devices[1:])]


def _has_cache() -> bool:
    """Whether JAX keeps what it compiles on the disk."""
    return getattr(jax.config, "jax_compilation_cache_dir", None) is not None


def _serialize(compiled: jax.stages.Compiled, seen: Sequence[bytes]) -> bytes:
    """Serializes an executable, and the shardings of its arguments and results.

    Args:
        compiled: what to serialize.
        seen: what the compilation read from the cache or wrote to it. One that was read cannot be
            serialized a second time: it then lacks functions (jax 0.10.2: "Function … not found").

    Raises:
        Exception: this version of JAX works in another way, or the program calls the host.
    """
    from jax._src import compilation_cache, lib
    from jax.experimental import serialize_executable

    if not seen:
        return serialize_executable.serialize(compiled)[0]
    content = compilation_cache.decompress_executable(seen[-1])
    executable, _ = compilation_cache.extract_executable_and_time(content)

    jaxlib: Any = lib
    executables = (jaxlib.xla_client.LoadedExecutable, jaxlib._jax.Executable)

    class Kept(serialize_executable._JaxPjrtPickler):
        def persistent_id(self, obj: Any) -> Any:
            if isinstance(obj, executables):
                return ("exec", executable)
            return super().persistent_id(obj)

    with io.BytesIO() as file:
        arguments = jax.tree.leaves(compiled.args_info)
        unloaded: Any = compiled._executable
        Kept(file).dump((unloaded._unloaded_executable, arguments, compiled._no_kwargs))
        return file.getvalue()


def _load(compiled: jax.stages.Compiled, payload: bytes, device: Device) -> jax.stages.Compiled:
    """Loads what was serialized on another device.

    `serialize_executable.deserialize_and_load` leaves the executable of a CPU on the device that
    its options name (jax 0.10.2, 0.12.0.1), so this gives it other options.

    Raises:
        Exception: this version of JAX works in another way.
    """
    from jax._src.compiler import get_compile_options
    from jax.experimental import serialize_executable

    client, assigned = device.client, np.array([[device.id]])
    options = get_compile_options(1, 1, device_assignment=assigned, backend=client)

    class OnDevice(serialize_executable._JaxPjrtUnpickler):
        def persistent_load(self, pid: Any) -> Any:
            if pid[0] == "device":
                return device
            if pid[0] == "exec":
                return client.deserialize_executable(
                    pid[1], executable_devices=self.execution_devices, compile_options=options
                )
            return super().persistent_load(pid)

    unloaded, arguments, no_kwargs = OnDevice(io.BytesIO(payload), client, [device]).load()
    in_tree = jax.tree.structure(compiled.args_info)
    return jax.stages.Compiled(
        unloaded.load(), [], in_tree.unflatten(arguments), compiled.out_tree, no_kwargs=no_kwargs
    )
