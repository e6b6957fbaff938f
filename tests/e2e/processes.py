"""Processes that the tests start, and how they wait for them."""

import os
import pathlib
import shutil
import signal
import socket
import subprocess
import threading
import time

ROOT = pathlib.Path(__file__).resolve().parents[2]


class Hopeless(AssertionError):
    """What is waited for will never be."""


def eventually(what, check, within=10.0, every=0.02):
    """Gives back the first true result of `check`; fails when there is none within so many seconds.

    An exception of `check` other than Hopeless counts as "not yet"; the last one is part of the failure.
    """
    deadline = time.monotonic() + within
    last = None
    while True:
        try:
            if result := check():
                return result
            last = None
        except Hopeless:
            raise
        except Exception as error:  # whatever it is, the next attempt may succeed
            last = error
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {within} s: {what}" + (f" (last: {last!r})" if last else ""))
        time.sleep(every)


def free_ports(count):
    """Ports that were free a moment ago, all different."""
    sockets = [socket.socket() for _ in range(count)]
    try:
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]
    finally:
        for one in sockets:
            one.close()


def accepts(port):
    """Whether anything listens on the port."""
    with socket.create_connection(("127.0.0.1", port), timeout=1):
        return True


def program(name, *, variable, directories=(), install):
    """Finds a program: named by an environment variable, on the PATH, or in one of the directories."""
    if named := os.environ.get(variable):
        path = pathlib.Path(named)
        return str(path / name if path.is_dir() else path.absolute())
    found = shutil.which(name) or next((str(d / name) for d in directories if (d / name).exists()), None)
    assert found, f"{name} is missing: {install}, or name it with {variable}"
    return found


def bandar():
    """The binary under test."""
    return program(
        "bandar", variable="BANDAR_BIN", directories=[ROOT / "target/debug"], install="cargo build -p bandar"
    )


def bench():
    """The load generator, built beside the binary under test."""
    return program(
        "bench",
        variable="BANDAR_BENCH_BIN",
        directories=[pathlib.Path(bandar()).parent, ROOT / "target/debug"],
        install="cargo build -p bench",
    )


def echo():
    """The example of an extension service of one's own. Every PATH has another program of that name."""
    beside = pathlib.Path(bandar()).parent / "examples" / "echo"
    path = pathlib.Path(os.environ.get("BANDAR_ECHO_BIN", beside))
    assert path.exists(), f"{path} is missing: cargo build -p extension --examples"
    return str(path.absolute())


def nats_server():
    return program(
        "nats-server",
        variable="BANDAR_NATS_SERVER",
        directories=[ROOT / ".tools/bin"],
        install="deploy/prerequisites.sh test installs it",
    )


def postgres_program(name):
    versions = pathlib.Path("/usr/lib/postgresql").glob("*/bin")
    newest_first = sorted(versions, key=lambda path: int(path.parent.name), reverse=True)
    return program(
        name,
        variable="BANDAR_POSTGRES_BIN",
        directories=newest_first,
        install="install the package postgresql",
    )


def spawn(command, log, *, environment=None, user=None, stdout=None):
    """Starts a process that ends with the thread that started it, even if that is killed; its output goes to `log`."""
    wrapper = ["setpriv", "--pdeathsig", "KILL"]
    if user and os.geteuid() == 0:
        wrapper += ["--reuid", user, "--regid", user, "--clear-groups"]
    ours = ("BANDAR__", "NATS_", "DATABASE_")
    clean = {name: value for name, value in os.environ.items() if not name.startswith(ours)}
    with open(log, "ab") as out:
        return subprocess.Popen(
            [*wrapper, *map(str, command)],
            env={**clean, **(environment or {})},
            stdin=subprocess.DEVNULL,
            stdout=stdout or out,
            stderr=out,
            text=True,
        )


class Supervised:
    """A process that is started again whenever it ends, as Kubernetes would."""

    def __init__(self, name, command, directory, *, environment=None, user=None, stop_signal=signal.SIGTERM):
        self.name = name
        self._stop_signal = stop_signal
        self.log = pathlib.Path(directory) / f"{name}.log"
        self.starts = 0
        self._spawn = lambda: spawn(command, self.log, environment=environment, user=user)
        self._process = None
        self._stopping = threading.Event()
        # The kernel ends a child when the thread that started it ends: this one lives as long as the process should.
        self._thread = threading.Thread(target=self._keep_alive, name=name, daemon=True)

    def start(self):
        self._thread.start()
        eventually(f"{self.name} is started", lambda: self._process)
        return self

    def _keep_alive(self):
        while not self._stopping.is_set():
            self._process = self._spawn()
            self.starts += 1
            self._process.wait()
            self._stopping.wait(0.2)

    def kill(self):
        """kill -9; gives back when the next one has been started."""
        self._replace(signal.SIGKILL)

    def restart(self):
        """Lets the process end in order; gives back when the next one has been started."""
        self._replace(self._stop_signal)

    def _replace(self, how):
        starts = self.starts
        self._process.send_signal(how)
        eventually(f"{self.name} is started again", lambda: self.starts > starts, within=30)

    def stop(self, within=20):
        if not self._process:
            return
        self._stopping.set()
        if self._process.poll() is None:
            self._process.send_signal(self._stop_signal)
        self._thread.join(within)
        if self._thread.is_alive():
            self._process.kill()
            self._thread.join()

    def log_tail(self, lines=30):
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-lines:])
