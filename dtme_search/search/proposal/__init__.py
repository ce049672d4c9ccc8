"""The mathematics of proposing plans: a plan in numbers, what it may be worth, what it still costs.

Nothing here depends on Optuna, SQL or torch; every result is a function of the arguments.
"""
