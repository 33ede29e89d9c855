"""Sends known traffic over a veth pair, and measures the share that each probe accounts for, the
cost, and the highest rate without loss.

The generator sends from CPU 0, where the softirqs of the far end run too. Probe and collector have
all other CPUs.
"""

import json
import os
import signal
import time

from .measure import Collector, Process, say, softirq_s
from .network import Network
from .peers import shown

PORT = 2055
SENDER_CPU = 0
# Size of each probe's cache.
FLOWS_MAX = 1_200_000
# Traffic patterns: options of `xdprobe-lab send`.
PATTERNS = {
    "1k": ["--flows", "1000"],
    "200k": ["--flows", "200000"],
    "zipf-imix": ["--pattern", "zipf", "--flows", "200000", "--zipf-s", "1", "--sizes", "imix"],
    "churn": ["--pattern", "churn", "--flows", "100000", "--new-per-second", "20000"],
    "syn": ["--pattern", "syn"],
    "vlan": ["--flows", "1000", "--vlan", "7"],
    "mpls": ["--flows", "1000", "--mpls", "16"],
    "ipv6": ["--flows", "1000", "--ipv6-share", "30"],
    "fragments": ["--flows", "1000", "--length", "200", "--fragments", "20"],
}
USUAL = ["1k", "200k", "zipf-imix", "churn", "syn"]
# Time after the generator ends until the probe has received all frames, including frames that
# libpcap holds back for a while.
SETTLE_S = 1
# Some probes never read an incomplete libpcap block. IPv6 packets, which NetFlow v5 does not carry,
# fill the last block.
TAIL = ["--flows", "1", "--ipv6-share", "100"]
TAIL_RATE = 10_000
# A rate counts as offered if the generator comes at least this close to it.
PACING = 0.02
# Lowest rate of the search, in packets/s.
RATE_MIN = 1_000


def measure(lineup, chosen, programs, scratch, keep):
    bench = Bench(programs, scratch, chosen.seconds)
    for peer in lineup:
        peer.flows_max = FLOWS_MAX

    def attempt(part, peer, pattern, rate, measured):
        """Keeps a result, or the failure, so that one failure does not end the whole run."""
        try:
            kept = measured()
        except RuntimeError as error:
            say(f"  {peer.name}: {error}")
            keep(
                "failed",
                {
                    "part": part,
                    "peer": peer.name,
                    "pattern": pattern,
                    "rate": rate,
                    "error": str(error),
                },
            )
            return None
        keep(part, kept)
        return kept

    for pattern in chosen.patterns:
        say(f"live, {pattern}: {' '.join(PATTERNS[pattern])}")
        for peer in lineup:
            trials = {}
            if "live" in chosen.only:
                for rate in chosen.rates:
                    trials[rate] = attempt(
                        "live", peer, pattern, rate, lambda: bench.trial(peer, pattern, rate)
                    )
            if "zero-loss" in chosen.only and peer.is_probe:
                known = {rate: trial for rate, trial in trials.items() if trial}
                attempt(
                    "zero_loss",
                    peer,
                    pattern,
                    None,
                    lambda: bench.zero_loss_rate(
                        peer, pattern, chosen.resolution, chosen.tries, known
                    ),
                )


class Bench:
    def __init__(self, programs, scratch, seconds):
        self.lab = programs["xdprobe-lab"]
        self.scratch = scratch
        self.seconds = seconds
        others = sorted(os.sched_getaffinity(0) - {SENDER_CPU})
        if not others:
            raise RuntimeError("one CPU found, two are needed: one only sends")
        self.cores = others
        self.on_others = ["taskset", "--cpu-list", ",".join(map(str, others))]

    def trial(self, peer, pattern, rate):
        """Offers a rate (None: flat out) and returns the figures."""
        with Network() as network:
            return self.trial_in(network, peer, pattern, rate)

    def trial_in(self, network, peer, pattern, rate):
        inside = [*network.inside(network.sensor), *self.on_others]
        collector = Collector(self.lab, PORT, self.log("collector"), inside)
        process = sender = None
        try:
            command = peer.live_command("rx0", pattern, self.cores)
            process = Process([*inside, *command], self.log(peer.name))
            process.wait_until("it captured", lambda: peer.is_capturing(process, network))
            process.wait_until_idle()

            before = (*process.cpu_s(), softirq_s())
            sender = Process(
                self.send_command(network, rate, PATTERNS[pattern]), self.log("sender")
            )
            sent = self.sent(sender)
            time.sleep(SETTLE_S)
            user_s, system_s, softirqs_s = (
                now - then for now, then in zip((*process.cpu_s(), softirq_s()), before)
            )
            sender = Process(self.send_command(network, TAIL_RATE, TAIL), self.log("sender"))
            self.sent(sender)
            time.sleep(SETTLE_S)

            stopping_s = time.monotonic()
            ended = peer.stop(process)
            stop_s = time.monotonic() - stopping_s
            counted = collector.stop()
            if not peer.exports:
                counted |= peer.totals()
        finally:
            for started in (sender, process, collector):
                if started:
                    started.kill()
        offered, accounted = sent["ipv4_packets"], counted["packets"]
        cost_s = user_s + system_s + softirqs_s
        costing = accounted if peer.is_probe else offered
        measured = {
            "peer": peer.name,
            "pattern": pattern,
            "rate": rate,
            "seconds": sent["seconds"],
            "offered": offered,
            "offered_pps": offered / sent["seconds"],
            "accounted": accounted,
            "accounted_pps": accounted / sent["seconds"],
            "share": accounted / offered,
            "octets_right": counted["octets"] == sent["octets"],
            "user_s": user_s,
            "system_s": system_s,
            "softirq_s": softirqs_s,
            "user_s_per_million": per_million(user_s, costing),
            "cpu_s_per_million": per_million(user_s + system_s, costing),
            "cpu_softirq_s_per_million": per_million(cost_s, costing),
            "memory_max_octets": ended["memory_max_octets"],
            "stop_s": stop_s,
            "collected": counted,
            "sent": sent,
            "command": shown(command),
            "configuration": peer.configuration(),
            "traffic": [
                "xdprobe-lab",
                "send",
                "--interface",
                "tx0",
                "--cpu",
                str(SENDER_CPU),
                *PATTERNS[pattern],
            ],
            "exit_code": ended["exit_code"],
        }
        say(
            f"  {peer.name}, {'flat out' if rate is None else rate}: "
            f"offered {measured['offered_pps'] / 1e6:.3f} million/s, "
            f"accounted {measured['share']:.4%}, "
            f"CPU s per million: {measured['user_s_per_million'] or 0:.3f} user, "
            f"{measured['cpu_softirq_s_per_million'] or 0:.3f} with system and softirqs"
        )
        return measured

    def send_command(self, network, rate, options):
        # Flat out, the number of packets is unknown: the generator is stopped instead.
        packets = (
            1 << 62
            if rate is None
            else TAIL_RATE if options is TAIL else max(1, int(rate * self.seconds))
        )
        paced = [] if rate is None else ["--rate", str(int(rate))]
        return [
            *network.inside(network.traffic),
            self.lab,
            "send",
            "--interface",
            "tx0",
            "--cpu",
            str(SENDER_CPU),
            "--packets",
            str(packets),
            *paced,
            *options,
        ]

    def sent(self, sender):
        """Returns what the generator sent, after a check against the counters of the interface."""
        deadline_s = time.monotonic() + self.seconds
        while sender.is_running() and time.monotonic() < deadline_s:
            time.sleep(0.01)
        if "--rate" not in sender.command and sender.is_running():
            sender.popen.send_signal(signal.SIGINT)
        ended = sender.wait(2 * self.seconds + 30)
        if ended["exit_code"] != 0:
            raise RuntimeError(f"{' '.join(sender.command)}: {sender.said()}")
        sent = json.loads(sender.said().splitlines()[-1])
        driver = sent["driver"]
        if driver["accepted"] + driver["refused"] != sent["packets"]:
            raise RuntimeError(
                f"the generator sent {sent['packets']} packets, but the interface counts {driver}"
            )
        return sent

    def zero_loss_rate(self, peer, pattern, resolution, tries, known):
        """The highest rate without loss (RFC 2544, section 26.1), by bisection.

        If nothing is lost flat out, or at a rate that the generator misses, the result is what the
        generator sent, and `generator_is_limit` is true.
        """
        trials = []

        def offer(rate):
            # A rate that the generator misses is offered once more: its core may have been busy.
            for at in range(max(tries, 2)):
                trial = (
                    known.get(rate)
                    if at == 0 and rate in known
                    else self.trial(peer, pattern, rate)
                )
                lost = trial["offered"] - trial["accounted"]
                trials.append({"rate": rate, "offered_pps": trial["offered_pps"], "lost": lost})
                missed = rate is not None and trial["offered_pps"] < (1 - PACING) * rate
                if not missed and (lost == 0 or at + 1 >= tries):
                    break
            return lost != 0, trial["offered_pps"], missed or rate is None

        loses, offered_pps, generator_is_limit = offer(None)
        low, high = (0, offered_pps) if loses else (offered_pps, offered_pps)
        # Known trials narrow the range.
        for rate in sorted(rate for rate in known if rate is not None and low < rate < high):
            loses, offered_pps, _ = offer(rate)
            if loses:
                high = rate
                break
            low, generator_is_limit = offered_pps, False
        while high - low > resolution * high and high > RATE_MIN:
            rate = int((low + high) / 2)
            loses, offered_pps, missed = offer(rate)
            if loses:
                high = min(rate, offered_pps)
            else:
                low, generator_is_limit = max(low, offered_pps), missed
                if missed:
                    break
        generator_is_limit &= low > 0
        say(
            f"  {peer.name}: loses nothing up to {low / 1e6:.3f} million packets/s"
            + (" (the generator is the limit)" if generator_is_limit else "")
        )
        return {
            "peer": peer.name,
            "pattern": pattern,
            "pps": low,
            "generator_is_limit": generator_is_limit,
            "seconds": self.seconds,
            "tries": tries,
            "trials": trials,
        }

    def log(self, name):
        return os.path.join(self.scratch, f"{name}.log")


def per_million(seconds, packets):
    return seconds / packets * 1e6 if packets else None
