"""Statistics of a few runs: estimates, resampling of runs and expert teams, intervals, exact tests."""
