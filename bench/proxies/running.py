"""Processes: started and ended by id, and what the kernel counts of them."""

import ctypes
import os
import signal
import socket
import subprocess
import time
from pathlib import Path

# Seconds that a peer may take to start or to end: far above what the slowest one needs.
PATIENCE = 180.0
# The kernel's PR_SET_PDEATHSIG: what a process is sent when the one that started it dies.
PARENT_DEATH = 1
LIBC = ctypes.CDLL(None)


class Process:
    """A program, and all that it starts itself. Its output goes to a file, or to a pipe."""

    def __init__(self, args: list, log: Path, env: dict | None = None, piped: bool = False):
        self.log, self.name = log, Path(args[0]).name
        # Nothing of the caller's environment but where programs are may change what is measured.
        kept = {"PATH": os.environ["PATH"], "HOME": str(log.parent), "XDG_STATE_HOME": str(log.parent)}
        output = log.open("wb")
        self.child = subprocess.Popen(
            [str(arg) for arg in args],
            stdin=subprocess.PIPE if piped else subprocess.DEVNULL,
            stdout=subprocess.PIPE if piped else output,
            stderr=output,
            env={**kept, **(env or {})},
            cwd=log.parent,
            # A group of its own, so that ^C reaches only who ends them all; but no session, since the
            # kernel divides the CPU among sessions first, and only then among what runs in them.
            process_group=0,
            preexec_fn=lambda: LIBC.prctl(PARENT_DEATH, signal.SIGTERM),
        )
        output.close()

    def family(self) -> list[int]:
        """The ids of the process, its children, theirs, and so on."""
        parents = {}
        for entry in os.listdir("/proc"):
            if entry.isdigit():
                try:
                    # The second field is the program's name and may contain anything.
                    stat = Path(f"/proc/{entry}/stat").read_text().rpartition(")")[2].split()
                except OSError:
                    continue
                parents[int(entry)] = int(stat[1])
        found = [self.child.pid]
        for parent in found:
            found += [child for child, its in parents.items() if its == parent]
        return found

    def cpu(self) -> float:
        """Seconds of CPU, user and system, that all of them have used so far.

        The clock of a process, which also /proc/PID/stat is made from, but in nanoseconds and not in
        hundredths: a window at a low rate has only a few of those.
        """
        return sum(map(clock, self.family()))

    def resident(self) -> int:
        """Bytes of memory in use by all of them; what they share counts for each."""
        total = 0
        for pid in self.family():
            try:
                lines = Path(f"/proc/{pid}/status").read_text().splitlines()
            except OSError:
                continue
            total += sum(int(line.split()[1]) for line in lines if line.startswith("VmRSS:"))
        return total * 1024

    def check(self) -> None:
        if (code := self.child.poll()) is not None:
            raise RuntimeError(f"{self.name} ended with {code}: {self.last_words()}")

    def last_words(self) -> str:
        return " | ".join(self.log.read_text(errors="replace").strip().splitlines()[-3:])

    def line(self) -> str:
        """The next line that a role says; empty when it has ended."""
        return self.child.stdout.readline().decode().strip()

    def tell(self, order: str) -> None:
        self.child.stdin.write(f"{order}\n".encode())
        self.child.stdin.flush()

    def end(self) -> None:
        family = self.family()
        if self.child.stdin:
            self.child.stdin.close()
        self.child.terminate()
        try:
            self.child.wait(10)
        except subprocess.TimeoutExpired:
            self.child.kill()
            self.child.wait()
        if self.child.stdout:
            self.child.stdout.close()
        # Workers end with their master; one that does not is not left behind.
        for pid in family[1:]:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                pass


def clock(pid: int) -> float:
    """What clock_getcpuclockid(3) gives for a process, read; nothing if it is gone."""
    try:
        return time.clock_gettime((~pid << 3) | 2)
    except OSError:
        return 0.0


def free_ports(count: int) -> list[int]:
    """Ports nobody listens on; all are held until all are known, so that they differ."""
    held = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [each.getsockname()[1] for each in held]
    for each in held:
        each.close()
    return ports
