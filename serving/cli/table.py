"""Tables on the terminal. A module of its own, since Rich takes long to import."""

import sys
from collections.abc import Iterable

from rich.console import Console
from rich.table import Table
from rich.text import Text

from serving.base.machine.terminal import records
from serving.base.text import printable

# Columns of a table in a file or a pipe. Narrower would fold long cells.
_PLAIN_WIDTH = 200
# Times the width of a terminal up to which a table is folded into it. More folds narrower columns,
# less shows more tables as blocks of lines.
_FOLDED = 2
# Characters of a table that none is wider than, whatever the terminal.
_MOST = 10_000


def print_table(columns: Iterable[str], rows: Iterable[Iterable[str]]) -> None:
    """A table; plain columns where stdout is no terminal."""
    columns, cells = list(columns), [list(map(printable, row)) for row in rows]
    console = Console(width=None if sys.stdout.isatty() else _PLAIN_WIDTH)
    table = Table(box=None if not sys.stdout.isatty() else Table().box, pad_edge=False)
    for column in columns:
        table.add_column(column, overflow="fold")
    for row in cells:
        # As Text, so that "[cpu]" in a cell is not read as markup. Cells may be a server's names.
        table.add_row(*map(Text, row))
    whole = console.options.update(max_width=_MOST)
    if console.measure(table, options=whole).maximum > _FOLDED * console.width:
        console.print(Text(records(columns, cells)))
    else:
        console.print(table)
