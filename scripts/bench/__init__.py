"""The programs scripts/bench-peers (side_by_side), scripts/bench-check (promises) and
scripts/bench-engine (engine), and their parts: how each probe runs (peers), measurements over
capture files (capture_file) and on veth (live, network), the cost of a run (measure), and results
(report)."""
