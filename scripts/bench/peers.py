"""How each probe runs. All have the same settings: active timeout 60 s, idle timeout 15 s, NetFlow
v5, no sampling, a cache for a fifth more flows than the traffic has (live: 1.2 million), and the
largest capture buffer that the probe allows.

Each peer has a command for a capture file and one for an interface, a sign that it captures, and a
signal that ends it with all flows exported.
"""

import os
import re
import signal

from .measure import run

# A command line without the paths of this machine.
shown = lambda command: [
    os.path.basename(word) if word.startswith("/") else word for word in command
]

ACTIVE_S, IDLE_S = 60, 15
BUFFER_OCTETS = 128 << 20
COLLECTOR = "127.0.0.1:2055"


class Peer:
    """A probe. `scratch` is a directory for its files."""

    name = None
    package = None
    stop_signal = signal.SIGTERM
    # Size of its cache; set by the measurement, which knows the traffic.
    flows_max = None
    # Whether it exports to the collector; if not, `totals` reads what it wrote.
    exports = True
    is_probe = True

    def __init__(self, scratch, programs):
        self.scratch = scratch
        self.programs = programs

    def version(self):
        return run("dpkg-query", "-W", "-f", "${Package} ${Version}", self.package)

    def file_command(self, capture):
        raise NotImplementedError

    def file_stdin(self, capture):
        return None

    def live_command(self, interface, pattern, cores):
        raise NotImplementedError

    # What it prints once it captures.
    says = ""

    def is_capturing(self, process, network):
        return self.says in process.said() and network.has_packet_socket()

    def stop(self, process):
        """Ends it with all flows exported, and returns the cost."""
        return process.stop(self.stop_signal)

    def configuration(self):
        """Its configuration file, which the command line does not show."""
        return ""

    def totals(self):
        """Packets, octets and records in the files that it wrote."""
        raise NotImplementedError


class Xdprobe(Peer):
    name = "xdprobe"
    stop_signal = signal.SIGINT

    def version(self):
        return run(self.programs["xdprobe"], "--version").strip()

    def common(self):
        return [
            "--flows-per-queue",
            str(self.flows_max),
            "--active-timeout",
            f"{ACTIVE_S}s",
            "--idle-timeout",
            f"{IDLE_S}s",
            "--report",
            "json",
            COLLECTOR,
        ]

    def file_command(self, capture):
        return [self.programs["xdprobe"], "run", "-r", capture, *self.common()]

    def live_command(self, interface, pattern, cores):
        return [
            self.programs["xdprobe"],
            "run",
            "-i",
            interface,
            "--capture",
            "af-xdp",
            "--cores",
            str(cores[0]),
            *self.common(),
        ]

    def is_capturing(self, process, network):
        return re.search(r"^.*rx0/0: ", process.said(), re.M) is not None


class Softflowd(Peer):
    name = "softflowd"
    package = "softflowd"
    says = "Exporting flows from"

    def common(self):
        timeouts = [
            f"{name}={IDLE_S}" for name in ("general", "tcp", "tcp.rst", "tcp.fin", "udp", "icmp")
        ]
        timeouts.append(f"maxlife={ACTIVE_S}")
        return [
            "-d",
            "-v",
            "5",
            "-m",
            str(self.flows_max),
            "-n",
            COLLECTOR,
            "-c",
            f"{self.scratch}/control",
            "-p",
            f"{self.scratch}/pid",
            *(word for timeout in timeouts for word in ("-t", timeout)),
        ]

    def file_command(self, capture):
        return ["softflowd", *self.common(), "-r", capture]

    def live_command(self, interface, pattern, cores):
        return ["softflowd", *self.common(), "-B", str(BUFFER_OCTETS), "-i", interface]

    def stop(self, process):
        # In the foreground, signals end it without exporting its flows.
        run("softflowctl", "-c", f"{self.scratch}/control", "shutdown")
        return process.wait(120)


class Fprobe(Peer):
    name = "fprobe"
    package = "fprobe"
    says = "collector #1"
    # Length of the queue between its two threads. It reads a file faster than it accounts, so the
    # queue for files is long enough to lose nothing.
    file_queue = 5_000_000
    live_queue = 1_000_000

    def common(self, queue, pattern="ip"):
        # It expects IPv4 right after the link header, whose length -K sets for tagged frames.
        tagged = (
            ["-f", f"{pattern} and ip", "-K", "18"] if pattern in ("vlan", "mpls") else ["-f", "ip"]
        )
        return [
            "-l",
            "2",
            *tagged,
            "-e",
            str(ACTIVE_S),
            "-d",
            str(IDLE_S),
            "-b",
            "10000",
            "-q",
            str(queue),
            COLLECTOR,
        ]

    def file_command(self, capture):
        return ["fprobe", "-i", "-", *self.common(self.file_queue)]

    def file_stdin(self, capture):
        return capture

    def live_command(self, interface, pattern, cores):
        return [
            "fprobe",
            "-i",
            interface,
            "-B",
            str(BUFFER_OCTETS // 1024),
            *self.common(self.live_queue, pattern),
        ]


class Pmacctd(Peer):
    name = "pmacctd"
    package = "pmacct"
    says = "Exporting flows to"
    stop_signal = signal.SIGINT

    def configured(self, source):
        timeouts = ":".join(
            f"{name}={IDLE_S}" for name in ("tcp", "tcp.rst", "tcp.fin", "udp", "icmp", "general")
        )
        lines = [
            "daemonize: false",
            source,
            "plugins: nfprobe",
            "aggregate: src_host, dst_host, src_port, dst_port, proto, tos",
            f"nfprobe_receiver: {COLLECTOR}",
            "nfprobe_version: 5",
            f"nfprobe_timeouts: {timeouts}:maxlife={ACTIVE_S}:expint=5",
            f"nfprobe_maxflows: {self.flows_max}",
            # The pipe between its core process and its plugin, which drops what does not fit: room
            # for millions of packets.
            f"plugin_pipe_size: {8 * BUFFER_OCTETS}",
            "plugin_buffer_size: 65536",
        ]
        self.path = f"{self.scratch}/pmacctd.conf"
        with open(self.path, "w") as file:
            file.write("\n".join(lines) + "\n")
        return ["pmacctd", "-f", self.path]

    def configuration(self):
        with open(self.path) as file:
            return file.read().replace(os.path.dirname(self.scratch) + "/", "")

    def file_command(self, capture):
        return self.configured(f"pcap_savefile: {capture}")

    def live_command(self, interface, pattern, cores):
        return self.configured(f"pcap_interface: {interface}")


class Nfpcapd(Peer):
    name = "nfpcapd"
    package = "nfdump"
    says = "Startup nfpcapd"
    exports = False

    def common(self):
        self.store = f"{self.scratch}/store"
        os.makedirs(self.store, exist_ok=True)
        for name in os.listdir(self.store):
            os.remove(f"{self.store}/{name}")
        return [
            "-w",
            self.store,
            "-e",
            f"{ACTIVE_S},{IDLE_S}",
            "-B",
            str(self.flows_max),
            "-t",
            "3600",
        ]

    def file_command(self, capture):
        return ["nfpcapd", "-r", capture, *self.common()]

    def live_command(self, interface, pattern, cores):
        return ["nfpcapd", "-i", interface, "-b", str(BUFFER_OCTETS >> 20), *self.common()]

    def totals(self):
        if not os.listdir(self.store):
            return {"packets": 0, "octets": 0, "records": 0}
        said = run("nfdump", "-R", self.store, "-N", "-A", "proto", "inet")
        summary = re.search(
            r"^Summary: total flows: (\d+), total bytes: (\d+), total packets: (\d+)", said, re.M
        )
        return dict(zip(("records", "octets", "packets"), map(int, summary.groups())))


class Nobody(Peer):
    """No probe: what the traffic itself costs the machine, mostly in softirqs."""

    name = "nobody"
    exports = False
    is_probe = False

    def version(self):
        return ""

    def live_command(self, interface, pattern, cores):
        return ["sleep", "infinity"]

    def is_capturing(self, process, network):
        return True

    def totals(self):
        return {"packets": 0, "octets": 0, "records": 0}


ALL = {peer.name: peer for peer in (Xdprobe, Fprobe, Softflowd, Pmacctd, Nfpcapd, Nobody)}
