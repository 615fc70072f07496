"""The main job, end to end, on real processes: `make demo`."""
