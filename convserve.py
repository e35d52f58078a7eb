"""The umbrella command: finds the sub-command, and imports only the package of that one."""

import difflib
import importlib
import importlib.metadata
import os
import sys

# By name: the module that holds the typer app of the sub-command, and its line in the help.
COMMANDS = {
    "init": ("training.cli.init", "look at a folder and write a recipe that works on it"),
    "build": ("training.cli.build", "train, compress, verify and publish a model from a recipe"),
    "adopt": ("training.cli.adopt", "variants and a gate for a model that is served already"),
    "shards": ("training.cli.shards", "put labelled images into tar shards, for large sets"),
    "extract": ("training.cli.extract", "the test images of a recipe as folders, for evaluate"),
    "serve": ("serving.cli.serve", "answer gRPC calls with the models of a repository"),
    "models": ("serving.cli.models", "list models with their accuracy, latency and state"),
    "predict": ("serving.cli.predict", "labels, masks or embeddings of image files"),
    "evaluate": ("serving.cli.evaluate", "accuracy of a served model on a labelled folder"),
    "score": ("scoring.cli", "answers of a model to a folder or URL of images, as a table"),
    "rebuild": ("serving.cli.rebuild", "TensorRT plans for this machine's GPUs from a repository"),
    "loadtest": ("loadtest.cli", "put a server under load and measure it"),
    "keys": ("serving.cli.keys", "make, list and revoke API keys for callers of a server"),
    "policy": ("serving.cli.policy", "check the policy of a server, and ask who may do what"),
    "sign": ("serving.cli.signing", "sign versions of models with a private key"),
    "verify": ("serving.cli.signing", "say who has signed versions of models"),
    "doctor": ("serving.cli.doctor", "which engines run here, and why the others do not"),
}


def main() -> None:
    """Runs `convserve COMMAND ...`. Exit status: 0 done, 1 failed, 2 wrong usage."""
    # Processes that libraries start (multiprocessing, torch) would look for modules in the folder
    # in which this one was started; whoever filled it could put code there.
    os.environ["PYTHONSAFEPATH"] = "1"
    # gRPC's own lines beside ours: one for each handshake that fails, which strangers cause.
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    arguments = sys.argv[1:]
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print(_usage())  # noqa: T201
        sys.exit(0 if arguments else 2)
    name, *rest = arguments
    if name == "--version":
        print(f"convserve {importlib.metadata.version('convserve')}")  # noqa: T201
        return
    if name not in COMMANDS:
        nearest = difflib.get_close_matches(name, COMMANDS, n=1)
        hint = f"; did you mean {nearest[0]!r}?" if nearest else ""
        print(f"convserve: no command {name!r}{hint}\n\n{_usage()}", file=sys.stderr)  # noqa: T201
        sys.exit(2)
    module, _ = COMMANDS[name]
    try:
        importlib.import_module(module).app([name, *rest], prog_name="convserve")
    except ModuleNotFoundError as error:
        extra = {"training": "train", "scoring": "cpu,score"}.get(module.partition(".")[0], "cpu")
        print(  # noqa: T201
            f"convserve {name}: Python package {error.name!r} is not installed; "
            f"pip install 'convserve[{extra}]' brings it",
            file=sys.stderr,
        )
        sys.exit(1)


def _usage() -> str:
    width = max(map(len, COMMANDS))
    lines = [f"  {name:<{width}}  {text}" for name, (_, text) in COMMANDS.items()]
    return "\n".join(
        ["usage: convserve COMMAND ...", "", *lines, "", "convserve COMMAND --help says more."]
    )


if __name__ == "__main__":
    main()
