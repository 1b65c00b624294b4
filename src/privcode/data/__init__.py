"""What comes in: private records with their units, and public prompts.

Promises: bad rows are refused by file, row and field before anything is spent.
Does not: train, or publish; what it counts is private.
"""
