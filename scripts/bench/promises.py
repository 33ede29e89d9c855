"""Measures the ratios that docs/BENCHMARKS.md promises, and fails if one is worse than promised by
more than 15 %. Takes less than five minutes once everything is built.

Only ratios are promised: both figures of a ratio are from one run on one machine. A broken promise
is measured up to twice more, since a shared machine may have been busy.
"""

import argparse
import os
import re
import sys
import tempfile

from . import build, capture_file, engine, peers
from .build import ROOT
from .measure import say

TOLERANCE = 0.15
TRIES = 3
# Without pmacctd: it has never been the fastest, and takes long to start and to end.
OTHERS = ("fprobe", "softflowd", "nfpcapd")
# A row of the table: name of the ratio, `most` or `least`, the limit.
PROMISE = re.compile(r"^\| `([\w.]+)` \| at (most|least) ([\d.]+) \|", re.M)


def main():
    argparse.ArgumentParser(
        prog="bench-check",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    ).parse_args()
    promises = read()
    if not promises:
        sys.exit(
            "bench-check: no promises found in docs/BENCHMARKS.md; "
            "expected rows such as | `engine_by_floor.1000000` | at most 5 |"
        )
    programs = build.programs()
    broken = promises
    for left in reversed(range(TRIES)):
        ratios = measured(broken, programs)
        for name, (side, promised) in broken.items():
            verdict = (
                "kept"
                if is_kept(side, promised, ratios[name])
                else "measured again" if left else "BROKEN"
            )
            print(
                f"{name:35} {ratios[name]:8.2f}  promised at {side} {promised:g}: {verdict}",
                flush=True,
            )
        broken = {
            name: promise for name, promise in broken.items() if not is_kept(*promise, ratios[name])
        }
        if not broken:
            return
    sys.exit(
        f"bench-check: {len(broken)} of {len(promises)} promises are broken "
        f"by more than {TOLERANCE:.0%}"
    )


def read():
    """Returns each promised ratio by name: `most` or `least`, and the limit."""
    with open(os.path.join(ROOT, "docs", "BENCHMARKS.md")) as page:
        return {name: (side, float(number)) for name, side, number in PROMISE.findall(page.read())}


def is_kept(side, promised, ratio):
    return (
        ratio <= promised * (1 + TOLERANCE)
        if side == "most"
        else ratio >= promised * (1 - TOLERANCE)
    )


def measured(names, programs):
    """Returns the ratios of these names, and others from the same measurements."""
    ratios = {}
    flows = sorted(
        {int(name.rpartition(".")[2]) for name in names if not name.startswith("capture")}
    )
    if flows:
        ratios |= engine_ratios(flows)
    kinds = sorted({name.rpartition(".")[2] for name in names if name.startswith("capture")})
    if kinds:
        ratios |= capture_ratios(kinds, programs)
    for name in names:
        if name not in ratios:
            sys.exit(
                f"bench-check: docs/BENCHMARKS.md promises `{name}`, which is not measured; "
                f"known here: {', '.join(ratios)}"
            )
    return ratios


def engine_ratios(flows):
    say("engine against the floor of the machine")
    return {
        f"{name}.{row['flows']}": value
        for row in engine.measure(flows)
        for name, value in row.items()
        if "_by_" in name
    }


def capture_ratios(kinds, programs):
    """Packets per second as a multiple of the fastest other probe's, and packets per second of CPU
    time as a multiple of the leanest one's, among the probes that account for every packet."""
    ratios = {}
    with tempfile.TemporaryDirectory(prefix="xdpbench-") as scratch:
        lineup = [
            peers.ALL[name](os.path.join(scratch, name), programs) for name in ("xdprobe", *OTHERS)
        ]
        for peer in lineup:
            os.mkdir(peer.scratch)
        runs = list(capture_file.measure(lineup, kinds, "check", 3, programs, scratch))
    for kind in kinds:
        ours = next(run for run in runs if run["capture"] == kind and run["peer"] == "xdprobe")
        if not ours["right"]:
            sys.exit(
                f"bench-check: xdprobe's totals of the {kind} capture are {ours['collected']}, "
                f"expected {ours['truth']}"
            )
        complete = [
            run
            for run in runs
            if run["capture"] == kind and run["peer"] != "xdprobe" and run["packets_share"] == 1
        ]
        fastest, leanest = max(complete, key=lambda run: run["pps"]), min(
            complete, key=lambda run: run["cpu_s"]
        )
        say(
            f"  {kind}: of the others, {fastest['peer']} is fastest, "
            f"{leanest['peer']} takes least CPU time"
        )
        ratios[f"capture_by_fastest_peer.{kind}"] = ours["pps"] / fastest["pps"]
        ratios[f"capture_cpu_by_leanest_peer.{kind}"] = leanest["cpu_s"] / ours["cpu_s"]
    return ratios


if __name__ == "__main__":
    main()
