"""Many cells of one map trained at once by one process: the agent axis of every network is (cell, agent).

For a GPU, where one cell's products are too small to fill it. The formulas are those of dm2.py and what it calls,
written for a device: networks see the rows of all cells in one product, and nothing waits for the device within a
loop but the actions that the simulator needs.
Letters: C cells, N agents of each, S = C * N slices (cell c's agent i is slice c * N + i), M rows, B battles,
G = L * B slots.
"""
