"""Run the command line: `python -m danqing`."""

from danqing.cli.main import main

if __name__ == "__main__":
    main()
