"""The paper's lemmas, theorems and corollaries as numbers on small tabular games (its Sec. 4 and appendix A).

Everything is exact: visitations and values are linear solves, discriminators are at their optimum in closed form.
Symbols: S states, K agents, A actions of each, J = A^K joint actions; pi [K, S, A]; rho [S] sums to 1.
"""
