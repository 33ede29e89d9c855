"""Measures xdprobe beside fprobe, softflowd, pmacctd (nfprobe), nfpcapd and no probe at all
(nobody): the same capture files, and the same traffic on a veth pair, to the same collector. Writes
tables, plots, and all figures and command lines as JSON to benches/results/DATE/.

Needs root, uses network namespaces of its own, and builds xdprobe. Progress is on standard error.
docs/BENCHMARKS.md says what the figures show and what they do not.
"""

import argparse
import datetime
import os
import shlex
import signal
import sys
import tempfile

from . import build, capture_file, live, peers, report
from .build import ROOT
from .measure import say


def arguments():
    parser = argparse.ArgumentParser(
        prog="bench-peers",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    listed = lambda known: lambda text: known_words(text, known)
    parser.add_argument(
        "--peers",
        type=listed(peers.ALL),
        default=list(peers.ALL),
        metavar="NAME,...",
        help=f"of {', '.join(peers.ALL)} (all)",
    )
    parser.add_argument(
        "--only",
        type=listed(("capture", "live", "zero-loss")),
        default=["capture", "live", "zero-loss"],
        metavar="PART,...",
        help="of capture, live, zero-loss (all)",
    )
    parser.add_argument(
        "--captures",
        type=listed(("realistic", "worst")),
        default=["realistic", "worst"],
        metavar="KIND,...",
        help="capture files: realistic, worst (both)",
    )
    parser.add_argument(
        "--repeat",
        type=int,
        default=3,
        metavar="N",
        help="runs for each capture file; the median counts (3)",
    )
    parser.add_argument(
        "--patterns",
        type=listed(live.PATTERNS),
        default=live.USUAL,
        metavar="NAME,...",
        help=f"of {', '.join(live.PATTERNS)} ({','.join(live.USUAL)})",
    )
    parser.add_argument(
        "--rates",
        type=rates,
        default=[10_000, 50_000, 200_000, 500_000, 1_000_000, 2_000_000, None],
        metavar="PPS,...",
        help="offered rates in packets per second; `flat`: as fast as one core sends "
        "(10000,50000,200000,500000,1000000,2000000,flat)",
    )
    parser.add_argument(
        "--seconds", type=float, default=10, metavar="S", help="duration of each rate (10)"
    )
    parser.add_argument(
        "--resolution",
        type=float,
        default=0.05,
        metavar="SHARE",
        help="resolution of the search for the zero-loss rate (0.05)",
    )
    parser.add_argument(
        "--tries",
        type=int,
        default=1,
        metavar="N",
        help="trials in that search; a rate loses if all of them lose (1, as in RFC 2544)",
    )
    parser.add_argument(
        "--quick",
        action="store_true",
        help="a short run as a test: small files, one pattern, two rates, 2 s, a coarse search",
    )
    parser.add_argument(
        "--output", metavar="DIR", help="directory for results (benches/results/DATE)"
    )
    parser.add_argument(
        "--draw",
        metavar="DIR",
        help="measure nothing; draw tables and plots again from DIR/results.json",
    )
    chosen = parser.parse_args()
    if chosen.quick:
        chosen.repeat, chosen.seconds, chosen.resolution = 1, 2, 0.3
        chosen.patterns, chosen.rates = chosen.patterns[:1], [50_000, None]
    chosen.output = chosen.output or os.path.join(
        ROOT, "benches", "results", datetime.date.today().isoformat()
    )
    return chosen


def known_words(text, known):
    words = text.split(",")
    for word in words:
        if word not in known:
            raise argparse.ArgumentTypeError(f"'{word}' is unknown; choose from {', '.join(known)}")
    return words


def rates(text):
    try:
        return [None if word == "flat" else int(word) for word in text.split(",")]
    except ValueError:
        raise argparse.ArgumentTypeError(f"'{text}': expected packets per second, or `flat`")


def main():
    chosen = arguments()
    if chosen.draw:
        report.write(chosen.draw, report.read(chosen.draw))
        return
    if os.getuid() != 0:
        sys.exit(
            "bench-peers: needs root for network namespaces and AF_XDP: sudo ./scripts/bench-peers"
        )
    # On SIGTERM, end all processes and delete the network.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    programs = build.programs()
    os.makedirs(chosen.output, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="xdpbench-") as scratch:
        lineup = [peers.ALL[name](os.path.join(scratch, name), programs) for name in chosen.peers]
        for peer in lineup:
            os.mkdir(peer.scratch)
        results = {
            "machine": build.machine(),
            "versions": {peer.name: peer.version() for peer in lineup},
            "command": shlex.join(["./scripts/bench-peers", *sys.argv[1:]]),
            "capture": [],
            "live": [],
            "zero_loss": [],
            "failed": [],
        }

        def keep(part, measured):
            """Saves the results after each measurement, so that an interrupted run leaves them."""
            results[part].append(measured)
            report.save(chosen.output, results)

        if "capture" in chosen.only:
            size = "quick" if chosen.quick else "full"
            for measured in capture_file.measure(
                lineup, chosen.captures, size, chosen.repeat, programs, scratch
            ):
                keep("capture", measured)
        if "live" in chosen.only or "zero-loss" in chosen.only:
            live.measure(lineup, chosen, programs, scratch, keep)
    report.write(chosen.output, results)
    say(f"results are in {chosen.output}")


if __name__ == "__main__":
    main()
