"""Keeps what is compiled in the user's cache folder, for the next start on this machine.

JAX has a persistent cache of its own; this replaces the part of it that touches the disk. There, a
process killed while it writes leaves half an entry that is read at every start and never replaced,
or, with a limit on the size, one that stops every later write (jax 0.10.2, `lru_cache.py`). Here
entries appear whole or not at all, carry a digest, and are removed when they are damaged.
"""

import contextlib
import hashlib
import json
import os
import tempfile
import threading
from collections.abc import Generator, Mapping
from pathlib import Path
from typing import Any

import jax
from jaxlib import version

from aetheria.hardware.jax.environment import describe_processor

MAX_BYTES = 2 << 30
_DIGEST_BYTES = 32
_JAX_SETTINGS = {
    "jax_compilation_cache_dir": "",  # the folder; XLA keeps what it measured on a GPU in it
    "jax_persistent_cache_min_compile_time_secs": 0.0,
    "jax_persistent_cache_min_entry_size_bytes": -1,
}
_active: "list[CompileCache]" = []


class CompileCache:
    """A folder of entries: key -> bytes. Several processes may share it.

    An entry that cannot be written is not kept: a full disk costs time at the next start, and
    nothing else.
    """

    def __init__(self, folder: Path):
        self._path, self._has_written = folder, False  # JAX reads `_path`
        self._seen: dict[int, list[bytes]] = {}  # by thread

    @contextlib.contextmanager
    def watched(self) -> Generator[list[bytes]]:
        """Collects what this thread reads and writes meanwhile."""
        self._seen[threading.get_ident()] = seen = []
        try:
            yield seen
        finally:
            del self._seen[threading.get_ident()]

    def get(self, key: str) -> bytes | None:
        """Reads an entry; removes it if it is damaged."""
        value = self._read(self._path / key)
        if value is not None:
            self._see(value)
        return value

    def put(self, key: str, value: bytes) -> None:
        """Writes an entry; the first of two with one key stays."""
        self._see(value)
        with contextlib.suppress(OSError):
            self._write(self._path / key, value)

    def _see(self, value: bytes) -> None:
        self._seen.get(threading.get_ident(), []).append(value)

    def _read(self, path: Path) -> bytes | None:
        try:
            content = path.read_bytes()
            if hashlib.sha256(content[_DIGEST_BYTES:]).digest() != content[:_DIGEST_BYTES]:
                path.unlink()
                return None
            os.utime(path)  # used last: removed last
        except OSError:
            return None
        return content[_DIGEST_BYTES:]

    def _write(self, path: Path, value: bytes) -> None:
        if path.exists():
            return
        with tempfile.NamedTemporaryFile(dir=self._path, delete=False) as file:
            try:
                file.write(hashlib.sha256(value).digest() + value)
                file.flush()
                Path(file.name).rename(path)
            except BaseException:
                Path(file.name).unlink(missing_ok=True)
                raise
        self._has_written = True

    def trim(self, max_bytes: int = MAX_BYTES) -> None:
        """Removes the entries that were not used for longest, if this process has added any."""
        if not self._has_written:
            return
        entries: list[tuple[float, int, Path]] = []
        for path in self._path.iterdir():
            with contextlib.suppress(OSError):  # another process may remove it
                stat = path.stat()
                entries.append((stat.st_mtime, stat.st_size, path))
        excess = sum(size for _, size, _ in entries) - max_bytes
        for _, size, path in sorted(entries):
            if excess <= 0:
                break
            excess -= size
            with contextlib.suppress(OSError):
                path.unlink()


def active_cache() -> CompileCache | None:
    """The cache in use now."""
    return _active[-1] if _active else None


@contextlib.contextmanager
def keep_compiled(environ: Mapping[str, str]) -> Generator[None]:
    """JAX keeps what it compiles, and reads it back, meanwhile.

    Nothing changes where the user has given JAX a folder or switched its cache off, or where there
    is no folder that belongs to this user alone.
    """
    config: Any = jax.config
    if config.jax_compilation_cache_dir is not None or not config.jax_enable_compilation_cache:
        yield
        return
    folder = make_folder(environ)
    if folder is None:
        yield
        return
    with in_folder(folder):
        yield


@contextlib.contextmanager
def in_folder(folder: Path) -> Generator[None]:
    """JAX's cache is this folder meanwhile."""
    from jax.experimental.compilation_cache import compilation_cache

    cache = CompileCache(folder)
    before = {name: getattr(jax.config, name) for name in _JAX_SETTINGS}
    _update({**_JAX_SETTINGS, "jax_compilation_cache_dir": str(folder)})
    compilation_cache.reset_cache()  # JAX decides once whether it has one
    installed = _install(cache)
    if installed:
        _active.append(cache)
    try:
        yield
    finally:
        if installed:
            _active.remove(cache)
        _update(before)
        compilation_cache.reset_cache()
        with contextlib.suppress(OSError):
            cache.trim()


def _install(cache: CompileCache) -> bool:
    """Makes it the one that JAX asks. A version of JAX without such a place uses its own files."""
    from jax._src import compilation_cache

    names = ("_cache", "_cache_initialized", "_cache_initialized_mutex")
    if not all(hasattr(compilation_cache, name) for name in names):
        return False
    with compilation_cache._cache_initialized_mutex:
        compilation_cache._cache, compilation_cache._cache_initialized = cache, True
    return True


def make_folder(environ: Mapping[str, str]) -> Path | None:
    """Makes the folder for this machine and this version of JAX; None where it cannot be used.

    Code for another processor may end the process, and the number of cores decides how XLA cuts the
    work: both are in the name, since machines may share a home. JAX's keys hold the rest.
    """
    processor = {**describe_processor(), "threads": environ.get("NPROC", "")}
    digest = hashlib.sha256(json.dumps(processor, sort_keys=True).encode()).hexdigest()[:16]
    try:
        folder = Path(environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
        folder.mkdir(parents=True, exist_ok=True)
        for name in ("aetheria", "compiled", f"jaxlib-{version.__version__}-{digest}"):
            folder /= name
            folder.mkdir(mode=0o700, exist_ok=True)
            # What lies in it is executed: nobody else may write to it.
            stat = folder.stat()
            if stat.st_uid != os.geteuid() or stat.st_mode & 0o022:
                return None
    except (OSError, RuntimeError):  # no home
        return None
    return folder if os.access(folder, os.W_OK) else None


def _update(values: Mapping[str, object]) -> None:
    for name, value in values.items():
        jax.config.update(name, value)
