"""``python -m photofound`` is the command line."""

from photofound.cli import main

if __name__ == "__main__":
    raise SystemExit(main())
