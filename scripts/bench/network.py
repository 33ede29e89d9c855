"""Two namespaces and a veth pair between them: traffic is sent on tx0 in one, and seen on rx0 in the other."""

import os

from .measure import run

PREFIX = "xdpbench"


class Network:
    """Made when it is entered, deleted when it is left, and so is what a run that was killed left behind."""

    def __init__(self):
        self.traffic = f"{PREFIX}-{os.getpid()}-traffic"
        self.sensor = f"{PREFIX}-{os.getpid()}-sensor"

    def __enter__(self):
        delete_orphans()
        for name in (self.traffic, self.sensor):
            run("ip", "netns", "add", name)
            run(
                "ip",
                "netns",
                "exec",
                name,
                "sysctl",
                "-qw",
                "net.ipv6.conf.all.disable_ipv6=1",
                "net.ipv6.conf.default.disable_ipv6=1",
            )
            run("ip", "-n", name, "link", "set", "lo", "up")
        run(
            "ip",
            "-n",
            self.traffic,
            "link",
            "add",
            "tx0",
            "mtu",
            "1600",
            "numrxqueues",
            "1",
            "numtxqueues",
            "1",
            "type",
            "veth",
            "peer",
            "name",
            "rx0",
            "mtu",
            "1600",
            "numrxqueues",
            "1",
            "numtxqueues",
            "1",
            "netns",
            self.sensor,
        )
        # XDP-transmitted frames are taken by a far end that has GRO, or an XDP program of its own. No other offload: what is
        # seen is what a wire carries.
        ends = ((self.traffic, "tx0"), (self.sensor, "rx0"))
        for name, interface in ends:
            run(
                *self.inside(name),
                "ethtool",
                "-K",
                interface,
                "gro",
                "on",
                "rx",
                "off",
                "tx",
                "off",
                "tso",
                "off",
                "gso",
                "off",
                "rxvlan",
                "off",
                "txvlan",
                "off",
            )
        # Only now: an interface learns whether its far end takes XDP frames when it comes up itself.
        for name, interface in ends:
            run("ip", "-n", name, "link", "set", interface, "up")
        return self

    def __exit__(self, *_):
        for name in (self.traffic, self.sensor):
            run("ip", "netns", "delete", name)

    def inside(self, name):
        return ["ip", "netns", "exec", name]

    def has_packet_socket(self):
        """Whether anybody looks on through libpcap."""
        return run(*self.inside(self.sensor), "cat", "/proc/net/packet").count("\n") > 1


def delete_orphans():
    for line in run("ip", "netns", "list").splitlines():
        name = line.split()[0]
        prefix, _, owner = name.partition("-")
        if prefix == PREFIX and not os.path.exists(f"/proc/{owner.partition('-')[0]}"):
            run("ip", "netns", "delete", name)
