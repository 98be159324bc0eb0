"""A real Slurm for tests; it needs the programs, but neither root, cgroups nor systemd.

python tests/support/slurm.py COMMAND...     runs a command that can submit jobs to it
"""

import contextlib
import os
import pwd
import secrets
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

_PROGRAMS = ("munged", "slurmctld", "slurmd", "slurmstepd", "sbatch", "srun", "scancel", "squeue", "sinfo", "scontrol")
_CONFIGURATION = """\
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={controller_port}
SlurmdPort={node_port}
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
CredType=cred/munge
# a requeued job waits until its credential expires
AuthInfo=socket={root}/munge.socket,cred_expire=5
StateSaveLocation={root}/state
SlurmdSpoolDir={root}/spool
SlurmctldPidFile={root}/slurmctld.pid
SlurmdPidFile={root}/slurmd.pid
SlurmdParameters=config_overrides
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
JobCompType=jobcomp/none
MpiDefault=none
SwitchType=switch/none
MailProg=/bin/true
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SchedulerType=sched/backfill
SchedulerParameters=batch_sched_delay=0,sched_interval=1,sched_min_interval=0,bf_interval=1
JobRequeue=1
ReturnToService=2
KillWait=2
MinJobAge=300
MessageTimeout=30
BatchStartTimeout=60
NodeName={host} NodeAddr=127.0.0.1 CPUs={cpus} RealMemory=16000 State=UNKNOWN
PartitionName=main Nodes={host} Default=YES MaxTime=INFINITE State=UP
"""


class Cluster:
    """A Slurm controller and one node on this machine, in a folder."""

    def __init__(self, root: Path, cpus: int = 2):
        self.root, self.cpus = root.resolve(), cpus
        self._daemons: list[subprocess.Popen] = []
        self.env = {
            "SLURM_CONF": str(self.root / "slurm.conf"),
            "PATH": os.pathsep.join((os.environ.get("PATH", os.defpath), "/usr/sbin", "/sbin")),
        }

    def __enter__(self) -> "Cluster":
        self.start()
        return self

    def __exit__(self, *_) -> None:
        self.stop()

    def start(self) -> None:
        """Start the daemons and wait until the node takes jobs."""
        missing = [name for name in _PROGRAMS if not shutil.which(name, path=self.env["PATH"])]
        if missing:
            raise RuntimeError(f"{', '.join(missing)} not found: apt-get install slurm-wlm munge")
        self._configure()
        try:
            # --force: munged otherwise refuses folders that others cannot enter, such as pytest's
            options = " ".join(f"--{name}-file={self.root}/munge.{name}" for name in ("key", "pid", "seed"))
            self._daemon(f"munged --foreground --force --socket={self.root}/munge.socket {options}")
            self._wait((self.root / "munge.socket").exists, "munged did not start")
            self._daemon("slurmctld -D")
            self._daemon("slurmd -D")
            self._wait(self._idle, "Slurm's node did not become idle")
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """Cancel all jobs and end the daemons and every process of a job."""
        if self._daemons and self._alive():  # else scancel would try for a minute
            with contextlib.suppress(RuntimeError, subprocess.TimeoutExpired):
                self.run("scancel --me")
                self._wait(lambda: not self.run("squeue -h -a"), "Jobs did not end", seconds=10)
        while self._daemons:
            daemon = self._daemons.pop()
            daemon.terminate()
            try:
                daemon.wait(10)
            except subprocess.TimeoutExpired:
                daemon.kill()
                daemon.wait()
        while left := self._left_over():
            for pid in left:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            time.sleep(0.05)

    def run(self, command: str) -> str:
        """Run a command of Slurm; returns its output."""
        result = subprocess.run(
            shlex.split(command), env=os.environ | self.env, cwd=self.root, capture_output=True, text=True, timeout=60,
        )  # fmt: skip
        if result.returncode:
            raise RuntimeError(f"{command}: exit code {result.returncode}\n{result.stderr.strip()}")
        return result.stdout

    def jobs(self) -> dict[str, str]:
        """States of all jobs by identifier, array tasks one by one, also of those that have just ended."""
        return dict(line.split() for line in self.run('squeue -h -a -r -t all -o "%i %T"').splitlines())

    def start_requeued_jobs(self) -> None:
        """Start pending jobs now instead of at their begin time, for which requeued jobs wait."""
        # a requeued job gets its begin time when its processes have ended
        self._wait(lambda: not self.run("squeue -h -a -t COMPLETING"), "Jobs did not end")
        if pending := self.run('squeue -h -a -t PENDING -o "%i"').split():
            time.sleep(1.5)  # the node fails a job that starts in the very second in which its last run ended
        for job in pending:
            with contextlib.suppress(RuntimeError):  # it has begun by now
                self.run(f"scontrol update JobId={job} StartTime=now")

    def _configure(self) -> None:
        host = socket.gethostname().split(".")[0]
        if len(f"{self.root}/spool/{host}_9999.4294967291") > 107:
            raise ValueError(f"{self.root} is too long for the names of sockets in it")
        for folder in ("state", "spool"):
            (self.root / folder).mkdir(parents=True, exist_ok=True)
        key = self.root / "munge.key"
        key.write_bytes(secrets.token_bytes(128))
        key.chmod(0o600)
        (self.root / "cgroup.conf").write_text("CgroupPlugin=cgroup/v1\n")  # cgroup/v2 needs systemd
        controller_port, node_port = _free_ports(2)
        (self.root / "slurm.conf").write_text(
            _CONFIGURATION.format(
                host=host, user=pwd.getpwuid(os.geteuid()).pw_name, root=self.root, cpus=self.cpus,
                controller_port=controller_port, node_port=node_port,
            )
        )  # fmt: skip

    def _daemon(self, command: str) -> None:
        name, *arguments = shlex.split(command)
        with open(self.root / f"{name}.log", "w") as log:
            self._daemons.append(
                subprocess.Popen(
                    [name, *arguments], env=os.environ | self.env, cwd=self.root, stdin=subprocess.DEVNULL, stdout=log,
                    stderr=log, start_new_session=True,
                )
            )  # fmt: skip

    def _alive(self) -> bool:
        return all(daemon.poll() is None for daemon in self._daemons)

    def _idle(self) -> bool:
        try:
            return self.run('sinfo -h -o "%T"').strip() == "idle"
        except RuntimeError:  # the controller does not answer yet
            return False

    def _wait(self, condition: Callable[[], object], message: str, seconds: float = 60) -> None:
        end = time.monotonic() + seconds
        while not condition():
            if time.monotonic() > end or not self._alive():
                raise RuntimeError("\n".join([message, *map(_end, sorted(self.root.glob("*.log")))]))
            time.sleep(0.1)

    def _left_over(self) -> list[int]:
        """Processes of this cluster's jobs, also those that left their job's process tree."""
        found = []
        for process in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):  # it has ended by now, or is another user's
                if self._of_job(process):
                    found.append(int(process.name))
        return found

    def _of_job(self, process: Path) -> bool:
        if (process / "comm").read_text() == "slurmstepd\n":  # it overwrites its environment
            return (process / "cwd").readlink() == self.root
        variables = (process / "environ").read_bytes().split(b"\0")
        ours = f"SLURM_CONF={self.env['SLURM_CONF']}".encode()
        return ours in variables and any(variable.startswith(b"SLURM_JOB_ID=") for variable in variables)


def _free_ports(number: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(number)]
        for listener in sockets:
            listener.bind(("127.0.0.1", 0))
        return [listener.getsockname()[1] for listener in sockets]


def _end(log: Path) -> str:
    return f"--- {log.name}\n{log.read_text(errors='replace')[-2000:]}"


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder, Cluster(Path(folder)) as cluster:
        sys.exit(subprocess.run(sys.argv[1:], env=os.environ | cluster.env).returncode)
