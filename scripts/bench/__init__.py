"""What scripts/bench-peers and scripts/bench-check stand on: probes as they are run (peers), the network that they are run in
(network), what a run costs (measure), what came of it (report)."""
