"""What scripts/bench-peers and scripts/bench-check are (side_by_side, promises) and stand on: probes as they are run (peers), over
files (capture_file) and on a wire (live, network), what a run costs (measure), what came of it (report).
"""
