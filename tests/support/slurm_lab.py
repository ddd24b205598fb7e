"""A real SLURM on one machine: a controller and two nodes, each a daemon of its own, with two GPUs
that are empty files: SLURM gives them out like any, and says so to a job.

For tests, on a machine that nobody else uses: it needs root, Debian's `slurm-wlm` and `munge`, and
gives the nodes' names an address in /etc/hosts. Asked for by AETHERIA_SLURM_LAB=1.
"""

import os
import shutil
import signal
import socket
import subprocess
import time
from pathlib import Path

NODES = ("aetheria-n1", "aetheria-n2")
GPUS_OF_A_NODE = 2
# Each process of the tests has a SLURM of its own.
_OFFSET = 10 * int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
_CONTROLLER_PORT, _FIRST_NODE_PORT = 26817 + _OFFSET, 26820 + _OFFSET
_MUNGE_KEY = Path("/etc/munge/munge.key")
_HOSTS = Path("/etc/hosts")


def reason_to_skip():
    """Why there can be no lab here; None if there can."""
    if os.environ.get("AETHERIA_SLURM_LAB") != "1":
        return "AETHERIA_SLURM_LAB=1 asks for a SLURM of the tests' own; it is not set"
    if os.geteuid() != 0:
        return "starting SLURM's daemons needs root"
    missing = [name for name in ("slurmctld", "slurmd", "munged", "srun") if not which(name)]
    return f"not installed: {', '.join(missing)}" if missing else None


def which(name):
    """The path of a program, daemons' folders included."""
    return shutil.which(name, path=os.environ.get("PATH", "") + ":/usr/sbin:/sbin")


class SlurmLab:
    """Starts the daemons; `run` and `environment` are for its clients; `stop` ends them all."""

    def __init__(self, folder):
        self.folder = folder
        self.config = folder / "slurm.conf"
        self._daemons = []

    @property
    def environment(self):
        return {**os.environ, "SLURM_CONF": str(self.config), "XLA_FLAGS": ""}

    def start(self):
        self._start_munge()
        self._name_nodes()
        self.config.write_text(self._text())
        devices = [self.folder / f"gpu{number}" for number in range(GPUS_OF_A_NODE)]
        for device in devices:
            device.touch()
        files = "".join(f"Name=gpu File={device}\n" for device in devices)
        (self.folder / "gres.conf").write_text(files)
        for node in NODES:
            (self.folder / f"spool-{node}").mkdir()
        (self.folder / "state").mkdir()
        self._spawn("slurmctld", "-D", "-f", str(self.config))
        for node in NODES:
            self._spawn("slurmd", "-D", "-N", node, "-f", str(self.config))
        self.wait_for(lambda: self.run("sinfo", "-hN", "-o%T").split() == ["idle"] * len(NODES), 60)

    def stop(self):
        for process in self._daemons[::-1]:
            process.send_signal(signal.SIGTERM)
        for process in self._daemons:
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

    def run(self, *command, cwd=None):
        """A client's output; its errors too, where it fails."""
        done = subprocess.run(
            command, cwd=cwd, env=self.environment, capture_output=True, text=True, timeout=120
        )
        return done.stdout if done.returncode == 0 else done.stdout + done.stderr

    def wait_for(self, condition, seconds):
        deadline = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < deadline, self._logs()
            time.sleep(0.3)

    def _spawn(self, name, *options):
        program = which(name)
        with (self.folder / f"{name}-{len(self._daemons)}.log").open("w") as log:
            self._daemons.append(
                subprocess.Popen([program, *options], stdout=log, stderr=log, env=self.environment)
            )

    def _start_munge(self):
        """Authentication between the daemons; one that runs already serves."""
        if subprocess.run(["munge", "-n"], capture_output=True).returncode == 0:
            return
        if not _MUNGE_KEY.exists():
            _MUNGE_KEY.write_bytes(os.urandom(1024))
            shutil.chown(_MUNGE_KEY, "munge", "munge")
            _MUNGE_KEY.chmod(0o400)
        Path("/run/munge").mkdir(exist_ok=True)
        shutil.chown("/run/munge", "munge", "munge")
        subprocess.run(["runuser", "-u", "munge", "--", which("munged")], check=True)

    def _name_nodes(self):
        text = _HOSTS.read_text()
        missing = [node for node in NODES if node not in text.split()]
        with _HOSTS.open("a") as file:
            file.writelines(f"127.0.0.1 {node}\n" for node in missing)

    def _text(self):
        host = socket.gethostname().split(".")[0]
        settings = {
            "ClusterName": "aetheria",
            "SlurmctldHost": f"{host}(127.0.0.1)",
            "SlurmctldPort": _CONTROLLER_PORT,
            "SlurmUser": "root",
            "AuthType": "auth/munge",
            "MpiDefault": "none",
            "JobAcctGatherType": "jobacct_gather/none",
            "AccountingStorageType": "accounting_storage/none",
            "CredType": "cred/munge",
            "ProctrackType": "proctrack/linuxproc",
            "TaskPlugin": "task/none",
            "SelectType": "select/cons_tres",
            "SelectTypeParameters": "CR_Core",
            "GresTypes": "gpu",
            "ReturnToService": 2,
            "KillWait": 10,
            "StateSaveLocation": self.folder / "state",
            "SlurmdSpoolDir": self.folder / "spool-%n",
            "SlurmctldPidFile": self.folder / "slurmctld.pid",
            "SlurmdPidFile": self.folder / "slurmd-%n.pid",
            "SlurmdParameters": "config_overrides",
        }
        lines = [f"{name}={value}" for name, value in settings.items()]
        lines += [
            f"NodeName={node} NodeHostname={host} NodeAddr=127.0.0.1 Port={_FIRST_NODE_PORT + i} "
            f"CPUs=2 RealMemory=4000 Gres=gpu:{GPUS_OF_A_NODE} State=UNKNOWN"
            for i, node in enumerate(NODES)
        ]
        lines.append("PartitionName=main Nodes=ALL Default=YES MaxTime=INFINITE State=UP")
        return "\n".join(lines) + "\n"

    def _logs(self):
        return "\n".join(p.read_text()[-1500:] for p in sorted(self.folder.glob("*.log")))
