"""`convserve serve|models|predict|evaluate|rebuild|doctor`. The only place that exits."""

import typer

from serving.cli.doctor import doctor
from serving.cli.evaluate import evaluate
from serving.cli.models import models
from serving.cli.predict import predict
from serving.cli.rebuild import rebuild
from serving.cli.serve import serve

app = typer.Typer(add_completion=False, no_args_is_help=True, pretty_exceptions_enable=False)
for _command in (serve, models, predict, evaluate, rebuild, doctor):
    app.command()(_command)
