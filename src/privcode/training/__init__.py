"""How models learn: DP-SGD on private records, plain tuning, and the likelihood of records.

Promises: what a unit adds to a step depends on that unit and the model alone.
Does not: decide the guarantee. The privacy plan does.
"""
