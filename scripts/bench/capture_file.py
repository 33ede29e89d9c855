"""Sends the same capture file through each probe to the same collector, and measures time, cost and
whether the totals are right."""

import json
import os
import statistics

from .measure import Collector, Process, run, say
from .peers import shown

# Packets and flows of each capture; the lab decides where nothing is given.
SIZES = {
    "full": {},
    "check": {"realistic": (1_000_000, 130_000), "worst": (1_000_000, 250_000)},
    "quick": {"realistic": (300_000, 40_000), "worst": (400_000, 100_000)},
}
PORT = 2055


def measure(lineup, kinds, size, repeat, programs, scratch):
    """Yields each probe's figures for each kind of capture."""
    for kind in kinds:
        path, truth = write(kind, size, programs, scratch)
        for peer in filter(lambda peer: peer.is_probe, lineup):
            peer.flows_max = truth["flows"] * 6 // 5
            yield measure_peer(peer, kind, path, truth, repeat, programs, scratch)
        os.remove(path)


def write(kind, size, programs, scratch):
    """Writes a capture file, reads it into the page cache, and returns its path and true totals."""
    path = os.path.join(scratch, f"{kind}.pcap")
    packets, flows = SIZES[size].get(kind, (None, None))
    smaller = ["--packets", str(packets), "--flows", str(flows)] if packets else []
    truth = json.loads(run(programs["xdprobe-lab"], "capture", "--kind", kind, *smaller, path))
    say(
        f"{kind} capture: {truth['packets']} packets, {truth['flows']} flows, "
        f"{truth['file_octets'] / 1e9:.2f} GB"
    )
    with open(path, "rb") as file:
        while file.read(1 << 24):
            pass
    return path, truth


def measure_peer(peer, kind, path, truth, repeat, programs, scratch):
    """Figures of the run with the median wall time; `runs` has those of every run."""
    command = peer.file_command(path)
    runs = [one_run(peer, path, truth, programs, scratch) for _ in range(repeat)]
    median = statistics.median_low(run["wall_s"] for run in runs)
    measured = {
        "peer": peer.name,
        "capture": kind,
        "command": shown(command),
        "configuration": peer.configuration(),
        "truth": truth,
        **next(run for run in runs if run["wall_s"] == median),
        "runs": runs,
    }
    say(
        f"  {peer.name}: {measured['wall_s']:.2f} s, "
        f"{measured['pps'] / 1e6:.2f} million packets/s, CPU {measured['cpu_s']:.2f} s, "
        f"{measured['memory_max_octets'] / 1e6:.0f} MB, "
        f"{measured['packets_share']:.2%} of packets, {measured['octets_share']:.2%} of octets"
    )
    return measured


def one_run(peer, path, truth, programs, scratch):
    collector = Collector(programs["xdprobe-lab"], PORT, os.path.join(scratch, "collector.log"))
    process = None
    try:
        process = Process(
            peer.file_command(path),
            os.path.join(scratch, f"{peer.name}.log"),
            stdin=peer.file_stdin(path),
        )
        cost = process.wait(300)
        counted = collector.stop()
        if not peer.exports:
            counted |= peer.totals()
    finally:
        if process:
            process.kill()
        collector.kill()
    return {
        **cost,
        "cpu_s": cost["user_s"] + cost["system_s"],
        "pps": truth["packets"] / cost["wall_s"],
        "collected": counted,
        "packets_share": counted["packets"] / truth["packets"],
        "octets_share": counted["octets"] / truth["octets"],
        "right": counted["packets"] == truth["packets"] and counted["octets"] == truth["octets"],
    }
