"""Attacks on what a run releases: planted canaries, membership inference, a one-run bound.

Promises:
- An attack that succeeds shows a leak.

Does not: prove safety. Only the ledger's accounting does.
"""
