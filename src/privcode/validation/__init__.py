"""Which synthetic samples are kept: those that run, and that say what the prompt asked.

Promises: model-written code runs in the sandbox or not at all.
Does not: read private records.
"""
