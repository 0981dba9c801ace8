"""`python -m tinyllama.cli` is `tinyllama`."""

from tinyllama.cli import main

main()
