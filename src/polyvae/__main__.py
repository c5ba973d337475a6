"""``python -m polyvae``: the command line."""

from polyvae.cli import main

if __name__ == "__main__":
    main()
