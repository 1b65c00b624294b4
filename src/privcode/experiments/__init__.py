"""Many runs: methods compared, settings tried, the demo, and how their results are shown.

Promises: every arm is a whole run.
Does not: do a stage itself.
"""
