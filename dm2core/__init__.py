"""dm2core: independent multi-agent RL with per-agent imitation rewards (DM2, AAAI 2023), re-tested."""

__version__ = "0.1.0"

# Part of every cell's digest: raise it by hand whenever a change in this package can change numbers.
RESULTS_VERSION = 3
