"""`python -m emukit`."""

from emukit.cli import main

main()
