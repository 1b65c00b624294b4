"""Code as it lies in repositories and folders, made into records with owners.

Promises:
- A record is a whole definition, or a gap in a window of one file. Its owner is named in a column.
- Nothing that a repository holds is run, and no link is followed out of it.
- Nothing is sent anywhere.

Does not: decide what may be used. Licences, duplicates and signs of secrets are shown to the owner.
"""

from privcode.data.collect.collecting import Collected, collect
from privcode.data.collect.options import Options

__all__ = ["Collected", "Options", "collect"]
