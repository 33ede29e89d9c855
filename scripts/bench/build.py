"""The programs of this tree, and the machine that they run on."""

import datetime
import os
import platform
import subprocess

from .measure import run


def programs(root):
    """Builds xdprobe and xdprobe-lab as they are released, and tells where they are."""
    subprocess.run(["cargo", "build", "--release", "--quiet", "--package", "xdprobe", "--package", "xdprobe-lab"], cwd=root, check=True)
    built = os.path.join(os.environ.get("CARGO_TARGET_DIR", os.path.join(root, "target")), "release")
    return {name: os.path.join(built, name) for name in ("xdprobe", "xdprobe-lab")}


def machine(root):
    def first(path, key):
        with open(path) as lines:
            return next((line.partition(":")[2].strip() for line in lines if line.startswith(key)), "unknown")

    # What is measured is the working tree, which may differ from any commit.
    commit = subprocess.run(["git", "describe", "--always", "--dirty"], cwd=root, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
                            text=True).stdout.strip()
    return {
        "date": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        "commit": commit or "unknown",
        "processor": first("/proc/cpuinfo", "model name"),
        "cores": os.cpu_count(),
        "memory": first("/proc/meminfo", "MemTotal"),
        "virtual": virtual(),
        "kernel": platform.release(),
        "system": platform.freedesktop_os_release().get("PRETTY_NAME", "unknown"),
        "rustc": run("rustc", "--version").strip(),
    }


def virtual():
    with open("/proc/cpuinfo") as cpuinfo:
        return " hypervisor" in cpuinfo.read()
