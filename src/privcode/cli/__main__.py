"""`python -m privcode.cli`."""

from privcode.cli import main

main()
