"""Measures the whole engine in memory (`cargo bench --bench engine`) with 1000 to 16 million flows,
and plots the cost of a packet over the number of flows. The plot shows whether the cost jumps
anywhere except where the processor's caches end.

Writes engine.json, engine.svg and engine.png to benches/results/DATE/. Takes about three minutes
once it is built.
"""

import argparse
import datetime
import json
import os
import subprocess

from . import build, report
from .build import ROOT
from .measure import say

FLOWS = [1_000, 4_000, 16_000, 64_000, 256_000, 1_000_000, 4_000_000, 16_000_000]
# Figures of the bench, and their labels in the plot.
CURVES = {
    "floor_ns": "floor: read, change and write known records",
    "look_up_ns": "hashbrown: one look-up for each packet, nothing else",
    "naive_ns": "naive: decode, then one hashbrown look-up, packet by packet",
    "engine_ns": "engine: decode, observe, expire, batch",
    "flood_ns": "engine, each packet a new flow, cache full",
}


def main():
    parser = argparse.ArgumentParser(
        prog="bench-engine",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    today = datetime.date.today().isoformat()
    parser.add_argument(
        "--output",
        metavar="DIR",
        default=os.path.join(ROOT, "benches", "results", today),
        help="directory for results (benches/results/DATE)",
    )
    folder = parser.parse_args().output
    machine = build.machine()
    say(f"engine, {FLOWS[0]} to {FLOWS[-1]} flows")
    rows = measure(FLOWS)
    os.makedirs(folder, exist_ok=True)
    with open(os.path.join(folder, "engine.json"), "w") as file:
        json.dump({"machine": machine, "engine": rows}, file, indent=1)
        file.write("\n")
    draw(folder, machine, rows)
    say(f"results are in {folder}")


def measure(flows):
    """Returns one row of figures for each number of flows."""
    bench = [
        "cargo",
        "bench",
        "--quiet",
        "--package",
        "xdprobe-benches",
        "--bench",
        "engine",
        "--",
        "--json",
        *map(str, flows),
    ]
    lines = subprocess.run(
        bench, cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True
    ).stdout.splitlines()
    return [json.loads(line) for line in lines if line.startswith("{")]


def draw(folder, machine, rows):
    pyplot, save_figure = report.easel(folder, machine)
    figure, axes = pyplot.subplots(figsize=(7, 4.2))
    for name, label in CURVES.items():
        axes.plot(
            [row["flows"] for row in rows],
            [row[name] for row in rows],
            marker="o",
            markersize=3,
            label=label,
        )
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xlabel("flows")
    axes.set_ylabel("ns per packet")
    axes.set_title("Cost of a packet by number of flows")
    axes.legend(fontsize=7)
    save_figure(figure, "engine")


if __name__ == "__main__":
    main()
