"""Measures the whole engine in memory (`cargo bench --bench engine`) from a thousand flows to 16 million, and draws what a packet
costs over how many flows there are: whether there is a cliff other than where the processor's caches end.

Writes engine.json, engine.svg and engine.png to benches/results/DATE/. Takes some three minutes once it is built.
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
# What the bench measures, and how it is told in the plot.
CURVES = {
    "floor_ns": "floor: known records, read, changed and written",
    "look_up_ns": "hashbrown, one look-up a packet, nothing else",
    "naive_ns": "decode, then one hashbrown look-up, packet by packet",
    "engine_ns": "engine: decode, observe, expire, batch",
    "flood_ns": "engine, every packet a new flow, cache full",
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
        help="where results go (benches/results/DATE)",
    )
    folder = parser.parse_args().output
    machine = build.machine()
    say(f"the engine, {FLOWS[0]} to {FLOWS[-1]} flows")
    rows = measure(FLOWS)
    os.makedirs(folder, exist_ok=True)
    with open(os.path.join(folder, "engine.json"), "w") as file:
        json.dump({"machine": machine, "engine": rows}, file, indent=1)
        file.write("\n")
    draw(folder, machine, rows)
    say(f"results are in {folder}")


def measure(flows):
    """One row of figures for each number of flows."""
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
    axes.set_ylabel("ns a packet")
    axes.set_title("What a packet costs, by the number of flows")
    axes.legend(fontsize=7)
    save_figure(figure, "engine")


if __name__ == "__main__":
    main()
