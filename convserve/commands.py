"""The sub-commands of `convserve`."""

# By name: the module that holds the typer app of the sub-command, and its line in the help.
COMMANDS = {
    "init": ("training.cli.init", "look at a folder and write a recipe that works on it"),
    "build": ("training.cli.build", "train, compress, verify and publish a model from a recipe"),
    "adopt": ("training.cli.adopt", "variants and a gate for a model that is served already"),
    "runs": ("training.cli.runs", "list the runs of builds with accuracy, latency and state"),
    "report": ("training.cli.report", "put several runs side by side on one page"),
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
    "completion": ("convserve.completion", "let the shell complete commands, options and names"),
    "doctor": ("serving.cli.doctor", "which engines run here, and why the others do not"),
}
