"""Tables on the terminal. A module of its own, since Rich takes long to import."""

import sys
from collections.abc import Iterable

from rich.console import Console
from rich.table import Table
from rich.text import Text

from serving.base.text import printable

# Columns of a table in a file or a pipe. Narrower would fold long cells.
_PLAIN_WIDTH = 200


def print_table(columns: Iterable[str], rows: Iterable[Iterable[str]]) -> None:
    """A table; plain columns where stdout is no terminal."""
    console = Console(width=None if sys.stdout.isatty() else _PLAIN_WIDTH)
    table = Table(box=None if not sys.stdout.isatty() else Table().box, pad_edge=False)
    for column in columns:
        table.add_column(column, overflow="fold")
    for row in rows:
        # As Text, so that "[cpu]" in a cell is not read as markup. Cells may be a server's names.
        table.add_row(*(Text(printable(cell)) for cell in row))
    console.print(table)
