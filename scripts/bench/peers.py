"""The probes as they are run: the same timeouts (active 60 s, idle 15 s), NetFlow v5, no sampling, caches for a fifth more flows
than the traffic has (live: for 1.2 million), and the largest capture buffer that each allows.

Each peer gives a command for a capture file and one for an interface, says when it looks on, and by which signal it ends with
all flows exported.
"""

import os
import re
import signal

from .measure import run

# Folders and files are named without what is this machine's own.
shown = lambda command: [
    os.path.basename(word) if word.startswith("/") else word for word in command
]

ACTIVE_S, IDLE_S = 60, 15
BUFFER_OCTETS = 128 << 20
COLLECTOR = "127.0.0.1:2055"


class Peer:
    """A probe. `scratch` is a folder of its own."""

    name = None
    package = None
    stop_signal = signal.SIGTERM
    # What its cache is made for; whoever measures knows the traffic.
    flows_max = None
    # Whether what it exports comes to the collector; else `totals` reads it.
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

    # What it says once it looks on.
    says = ""

    def looks_on(self, process, network):
        return self.says in process.said() and network.has_packet_socket()

    def stop(self, process):
        """Ends it with all flows exported, and returns what it cost."""
        return process.stop(self.stop_signal)

    def configuration(self):
        """What its command line does not show."""
        return ""

    def totals(self):
        """Packets, octets and records of what it wrote itself."""
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

    def looks_on(self, process, network):
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
        # In the foreground it dies of signals, its flows unexported.
        run("softflowctl", "-c", f"{self.scratch}/control", "shutdown")
        return process.wait(120)


class Fprobe(Peer):
    name = "fprobe"
    package = "fprobe"
    says = "collector #1"
    # Packets between its two threads: as many as it takes to lose none of a file, which it reads faster than it accounts.
    file_queue = 5_000_000
    live_queue = 1_000_000

    def common(self, queue, pattern="ip"):
        # It looks for IPv4 where the link header ends, which has to be told to it for tagged frames.
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
            # Between its core process and its plugin, where it loses what does not fit: room for millions of packets.
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
    """Nobody looks on: what the machine spends on the traffic all the same, in softirqs above all."""

    name = "nobody"
    exports = False
    is_probe = False

    def version(self):
        return ""

    def live_command(self, interface, pattern, cores):
        return ["sleep", "infinity"]

    def looks_on(self, process, network):
        return True

    def totals(self):
        return {"packets": 0, "octets": 0, "records": 0}


ALL = {peer.name: peer for peer in (Xdprobe, Fprobe, Softflowd, Pmacctd, Nfpcapd, Nobody)}
