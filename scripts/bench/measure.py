"""Processes and their cost: wall time, CPU time, memory, and the softirqs of the machine."""

import json
import os
import re
import signal
import subprocess
import sys
import time

TICKS_A_SECOND = os.sysconf("SC_CLK_TCK")


def say(text):
    """Prints progress to standard error."""
    print(text, file=sys.stderr, flush=True)


class Process:
    """A running program in a session of its own, with its output in a file."""

    def __init__(self, command, log, stdin=None):
        self.command = command
        self.log = log
        with open(log, "wb") as output, open(stdin or os.devnull, "rb") as stdin:
            self.started_s = time.monotonic()
            self.popen = subprocess.Popen(
                command,
                stdin=stdin,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self.pid = self.popen.pid

    def said(self):
        with open(self.log, errors="replace") as log:
            return log.read()

    def is_running(self):
        return os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None

    def wait_until(self, what, condition, seconds=20):
        """Waits for a condition; fails if the process ends first or the time is over."""
        deadline_s = time.monotonic() + seconds
        while not condition():
            if not self.is_running():
                raise RuntimeError(f"{self.command} ended before {what}:\n{self.said()}")
            if time.monotonic() > deadline_s:
                raise RuntimeError(f"{self.command}: no {what} in {seconds} s:\n{self.said()}")
            time.sleep(0.05)

    def wait_until_idle(self):
        """Waits until it has used at most 0.02 s of CPU time in half a second."""
        before = [sum(self.cpu_s())]

        def is_idle():
            time.sleep(0.5)
            before.append(sum(self.cpu_s()))
            return before[-1] - before[-2] <= 0.02

        self.wait_until("it was idle", is_idle)

    def wait(self, seconds):
        """Waits for the end, or kills it when the time is over, and returns the cost.

        The cost is from the kernel and includes all children that were waited for.
        """
        deadline_s = time.monotonic() + seconds
        while self.is_running():
            if time.monotonic() > deadline_s:
                say(f"  killed after {seconds} s: {' '.join(self.command)}")
                os.killpg(self.pid, signal.SIGKILL)
            time.sleep(0.002)
        wall_s = time.monotonic() - self.started_s
        _, status, usage = os.wait4(self.pid, 0)
        self.popen.returncode = os.waitstatus_to_exitcode(status)
        return {
            "exit_code": self.popen.returncode,
            "wall_s": wall_s,
            "user_s": usage.ru_utime,
            "system_s": usage.ru_stime,
            # The largest process of the session; ru_maxrss is in KiB.
            "memory_max_octets": usage.ru_maxrss * 1024,
        }

    def stop(self, signal_number, seconds=120):
        if self.is_running():
            self.popen.send_signal(signal_number)
        return self.wait(seconds)

    def kill(self):
        if self.popen.returncode is None:
            os.killpg(self.pid, signal.SIGKILL)
            self.wait(10)

    def cpu_s(self):
        """User and system time so far, of all processes of the session and their children."""
        user, system = 0, 0
        for name in filter(str.isdigit, os.listdir("/proc")):
            try:
                with open(f"/proc/{name}/stat") as stat:
                    # After the name in brackets: state, parent, group, session; user time is the
                    # 12th.
                    fields = stat.read().rpartition(")")[2].split()
            except OSError:
                continue  # The process has ended.
            if int(fields[3]) == self.pid:
                user += int(fields[11]) + int(fields[13])
                system += int(fields[12]) + int(fields[14])
        return user / TICKS_A_SECOND, system / TICKS_A_SECOND


def softirq_s():
    """Time that all cores have spent in softirqs, from /proc/stat."""
    with open("/proc/stat") as stat:
        return int(stat.readline().split()[7]) / TICKS_A_SECOND


def run(*command):
    """Runs a program that must succeed, and returns its standard output."""
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    if done.returncode != 0:
        raise RuntimeError(
            f"{' '.join(command)}: exit code {done.returncode}: {done.stderr.strip()}"
        )
    return done.stdout


class Collector:
    """A running `xdprobe-lab collect`: counts what it receives and what its socket drops."""

    def __init__(self, lab, port, log, inside=()):
        self.process = Process([*inside, lab, "collect", "--port", str(port)], log)
        self.process.wait_until("listening", lambda: "collecting on" in self.process.said())

    def stop(self):
        self.process.stop(signal.SIGINT)
        counted = json.loads(re.search(r"^\{.*\}$", self.process.said(), re.M).group())
        if counted["dropped_by_socket"]:
            say(
                f"  the collector's socket dropped {counted['dropped_by_socket']} datagrams: "
                "its totals are too low"
            )
        return {
            key: counted[key]
            for key in ("packets", "octets", "records", "datagrams", "gaps", "dropped_by_socket")
        }

    def kill(self):
        self.process.kill()
