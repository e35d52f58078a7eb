"""`python -m convserve`: the command."""

from convserve.commands import main

if __name__ == "__main__":
    main()
