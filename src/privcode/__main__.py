"""`python -m privcode`, and so `torchrun -m privcode`."""

from privcode.cli import main

main()
