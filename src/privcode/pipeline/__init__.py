"""One run: its directory, its stages in order, what is checked before it, what it has to show.

Promises: nothing outside this package knows the paths of a run.
Does not: compute; each stage calls the package that does.
"""
