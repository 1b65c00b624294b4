"""Attacks on what a run releases: planted canaries, membership inference, a one-run bound.

Promises: an attack that succeeds shows a leak. Does not: prove safety; only the ledger's
accounting does.
"""
