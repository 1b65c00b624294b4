"""Which synthetic samples are kept: those that run, and whose code does what the prompt asked.

Promises: model-written code runs only in the sandbox.
Does not: read private records.
"""
