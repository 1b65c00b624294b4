"""What comes in: private records with their units, and public prompts.

Promises:
- Bad rows are refused by file, row and field before anything is spent.

Does not: train, or publish. What it counts is private.
"""
