"""Two namespaces and a veth pair between them: tx0 sends in one, rx0 receives in the other."""

import os

from .measure import run

PREFIX = "xdpbench"


class Network:
    """Creates the network on entry, deletes it on exit, and deletes networks of killed runs."""

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
        # veth accepts frames sent by XDP only if the far end has GRO or an XDP program. All other
        # offloads are off, so that frames are as on a wire.
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
        # Only now: an interface checks for GRO at its far end when it comes up.
        for name, interface in ends:
            run("ip", "-n", name, "link", "set", interface, "up")
        return self

    def __exit__(self, *_):
        for name in (self.traffic, self.sensor):
            run("ip", "netns", "delete", name)

    def inside(self, name):
        return ["ip", "netns", "exec", name]

    def has_packet_socket(self):
        """Whether a program captures through libpcap."""
        return run(*self.inside(self.sensor), "cat", "/proc/net/packet").count("\n") > 1


def delete_orphans():
    for line in run("ip", "netns", "list").splitlines():
        name = line.split()[0]
        prefix, _, owner = name.partition("-")
        if prefix == PREFIX and not os.path.exists(f"/proc/{owner.partition('-')[0]}"):
            run("ip", "netns", "delete", name)
