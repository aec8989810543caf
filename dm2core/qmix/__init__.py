"""QMIX (Rashid et al. 2018) as the paper's baseline ran it: PyMARL's published learner and episode runner.

One battle, one update, and so on; all agents share their parameters. Importing the package needs no torch.
"""
