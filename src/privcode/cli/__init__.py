"""The `privcode` command: one module for each group of commands, facts to text.

Promises and what every command has in common are in `app`. A command imports what it needs when it
is called, so that `--help` is quick.
"""

from privcode.cli.app import app, main

__all__ = ["app", "main"]
