"""Compiled float32 twins of the learner's hot loops: one pass per block of rows that stays in the cache.

Same quantities as nets.py, ppo.py, discriminator.py and rollout.py, to rounding; `compute: torch` in the
configuration chooses those instead.
"""
