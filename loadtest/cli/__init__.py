"""`convserve loadtest run|search|report`. The only place that exits."""

from loadtest.cli.report import report
from loadtest.cli.run import run
from loadtest.cli.search import search
from serving.base.command import grouped

app = grouped(
    "loadtest", "Put a server under load and measure it.", run=run, search=search, report=report
)
