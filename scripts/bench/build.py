"""Builds the programs of this tree and describes the machine that they run on."""

import datetime
import os
import platform
import subprocess

from .measure import run

# The checkout that contains this file.
ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))


def programs():
    """Builds xdprobe and xdprobe-lab in release mode and returns their paths by name."""
    subprocess.run(
        [
            "cargo",
            "build",
            "--release",
            "--quiet",
            "--package",
            "xdprobe",
            "--package",
            "xdprobe-lab",
        ],
        cwd=ROOT,
        check=True,
    )
    built = os.path.join(ROOT, os.environ.get("CARGO_TARGET_DIR", "target"), "release")
    return {name: os.path.join(built, name) for name in ("xdprobe", "xdprobe-lab")}


def machine():
    def first(path, key):
        with open(path) as lines:
            return next(
                (line.partition(":")[2].strip() for line in lines if line.startswith(key)),
                "unknown",
            )

    return {
        "date": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        "commit": commit(),
        "processor": first("/proc/cpuinfo", "model name"),
        "cores": os.cpu_count(),
        "memory": first("/proc/meminfo", "MemTotal"),
        "virtual": virtual(),
        "kernel": platform.release(),
        "system": platform.freedesktop_os_release().get("PRETTY_NAME", "unknown"),
        "rustc": run("rustc", "--version").strip(),
    }


def commit():
    """The commit of the working tree, marked `-dirty` if the tree differs from it."""
    try:
        return run("git", "-C", ROOT, "describe", "--always", "--dirty").strip()
    except (OSError, RuntimeError):
        return "unknown"


def virtual():
    with open("/proc/cpuinfo") as cpuinfo:
        return " hypervisor" in cpuinfo.read()
