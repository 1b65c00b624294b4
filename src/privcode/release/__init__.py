"""What may leave: the bundle, its statements, the page and the card, and their verification.

Promises:
- Every statement of a bundle follows from the facts in it, or is named as the word of its maker.

Does not: read private records.
"""
