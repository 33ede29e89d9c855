"""Tests of the benchmarks without root and without other probes. scripts/test runs them."""

import tempfile
import unittest

from . import live, peers, promises, report


class Simulated(live.Bench):
    """A bench with a highest rate of the generator, and a rate above which the probe loses."""

    def __init__(self, generator_pps, lossless_pps):
        self.generator_pps, self.lossless_pps, self.seconds = generator_pps, lossless_pps, 10

    def trial(self, peer, pattern, rate):
        offered = min(rate or self.generator_pps, self.generator_pps) * self.seconds
        return {
            "offered": offered,
            "accounted": min(offered, self.lossless_pps * self.seconds),
            "offered_pps": offered / self.seconds,
        }

    def found(self, resolution=0.05, known=()):
        trials = {rate: self.trial(None, None, rate) for rate in known}
        return self.zero_loss_rate(peers.Xdprobe("", {}), "1k", resolution, 1, trials)


class ZeroLossRate(unittest.TestCase):
    def test_is_just_below_the_rate_that_loses(self):
        for lossless in (1_500, 123_456, 1_999_999):
            for known in ((), (10_000, 100_000, 1_000_000, None)):
                found = Simulated(2_000_000, lossless).found(known=known)
                self.assertFalse(found["generator_is_limit"])
                self.assertLessEqual(found["pps"], lossless)
                self.assertGreaterEqual(found["pps"], 0.95 * lossless - 1)

    def test_is_the_rate_of_the_generator_if_nothing_is_lost(self):
        found = Simulated(2_000_000, 3_000_000).found(known=(50_000, None))
        self.assertEqual((found["pps"], found["generator_is_limit"]), (2_000_000, True))

    def test_is_0_if_every_rate_loses(self):
        found = Simulated(2_000_000, 0).found()
        self.assertEqual((found["pps"], found["generator_is_limit"]), (0, False))
        self.assertLess(len(found["trials"]), 20)


class Page(unittest.TestCase):
    def test_says_100_per_cent_only_without_any_loss(self):
        self.assertEqual(report.share(10**9, 10**9), "100 %")
        self.assertEqual(report.share(10**9 - 1, 10**9), "99.99 %")
        self.assertEqual(report.share(11, 10), "110.00 %")

    def test_shows_no_path_of_this_machine(self):
        self.assertEqual(
            peers.shown(["/root/target/xdprobe", "-r", "/tmp/x/worst.pcap"]),
            ["xdprobe", "-r", "worst.pcap"],
        )


class Promises(unittest.TestCase):
    def test_are_read_from_the_page(self):
        self.assertIn(promises.read()["engine_by_floor.1000000"][0], ("most", "least"))
        self.assertTrue(
            any(name.startswith("capture_by_fastest_peer.") for name in promises.read())
        )

    def test_are_broken_by_more_than_15_per_cent(self):
        self.assertTrue(promises.is_kept("most", 4, 4.59) and promises.is_kept("least", 4, 3.41))
        self.assertFalse(promises.is_kept("most", 4, 4.61) or promises.is_kept("least", 4, 3.39))


class Peers(unittest.TestCase):
    def test_have_the_same_timeouts_and_room_for_as_many_flows(self):
        with tempfile.TemporaryDirectory() as scratch:
            for name, peer in peers.ALL.items():
                if not peer.is_probe:
                    continue
                peer = peer(scratch, {"xdprobe": "xdprobe"})
                peer.flows_max = 1_234_567
                said = " ".join(peer.live_command("rx0", "1k", [1])) + peer.configuration()
                self.assertRegex(said, r"\b60(s|\b)", name)
                self.assertRegex(said, r"\b15(s|\b)", name)
                # The cache of fprobe has no limit.
                self.assertTrue("1234567" in said or name == "fprobe", said)


if __name__ == "__main__":
    unittest.main()
