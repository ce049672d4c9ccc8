"""The mathematics of proposing plans: what a plan is in numbers, what it may be worth, what it still costs.

Nothing here knows Optuna, SQL or torch; everything is a function of what is handed in.
"""
