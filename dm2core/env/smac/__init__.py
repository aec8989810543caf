"""The real StarCraft II behind `BattleEnv`: SMAC's own class over pysc2, one game in each of several processes.

preflight.py says what is missing before anything starts, pool.py starts, watches and replaces the games, worker.py is
the process around one game, vector.py shows them as battles. Only worker.py imports `smac`, in its own process.
"""
