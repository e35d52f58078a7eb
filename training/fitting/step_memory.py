"""The memory that a network takes in training and in answering, measured on a few images.

On a CPU the bytes of all live tensors are followed through real steps; a GPU counts its own. Both
grow evenly with the images of a batch, so that two small batches tell what any batch takes.
Differences to the peak of a whole training: benchmarks/training/stage_memory.py.
"""

import functools
import weakref
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter

from serving.base.task import Task
from training.data.samples import ChosenSamples, Samples
from training.fitting.lightning_module import Learner
from training.fitting.objective import build_objective
from training.fitting.optimizer import build_optimizer
from training.fitting.train import autocast
from training.recipes.data import Augment, Normalization
from training.recipes.train import Train

# Images of the two batches. Larger ones tell more exactly and take longer; batch normalisation
# cannot learn from a single image.
_FEW, _MORE = 2, 4


@dataclass(frozen=True)
class BatchMemory:
    """Bytes that work on batches takes beside what the process has already.

    kept: held however large the batch is, such as gradients and the states of the optimiser.
    image: what each image of a batch adds.
    """

    kept: int
    image: int

    def of(self, images: int) -> int:
        """The most that a batch of so many images takes."""
        return self.kept + images * self.image

    def largest(self, free: int) -> int:
        """The largest batch that takes no more than `free` bytes; 0 where none does."""
        return max(0, free - self.kept) // max(1, self.image)


class _LiveBytes(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Bytes of the tensors that operations on the CPU made and that still live, and their peak.

    An operation's own scratch memory is not seen.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.live = 0
        self.peak = 0
        self._known: dict[int, weakref.ref[Any]] = {}

    def __torch_dispatch__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        made = func(*args, **(kwargs or {}))
        for value in tree_iter(made):
            if isinstance(value, Tensor):
                self._count(value.untyped_storage())
        return made

    def ignore(self, tensors: Any) -> None:
        """Leaves tensors out of the count that were there before: operations in place give them."""
        for value in tensors:
            self._known[id(value.untyped_storage())] = weakref.ref(value.untyped_storage())

    def _count(self, storage: torch.UntypedStorage) -> None:
        key, size = id(storage), storage.nbytes()
        if key in self._known:
            return

        def gone(_: object) -> None:
            del self._known[key]
            self.live -= size

        self._known[key] = weakref.ref(storage, gone)
        self.live += size
        self.peak = max(self.peak, self.live)


class _OnCpu:
    def __init__(self, known: Any) -> None:
        self._bytes = _LiveBytes()
        self._bytes.ignore(known)

    def __enter__(self) -> "_OnCpu":
        self._bytes.__enter__()  # type: ignore[no-untyped-call]
        return self

    def __exit__(self, *error: Any) -> None:
        self._bytes.__exit__(*error)  # type: ignore[no-untyped-call]

    def live(self) -> int:
        return self._bytes.live

    def peak(self, work: Callable[[], Any]) -> tuple[int, Any]:
        """The most bytes that live while the work is done, and its result."""
        self._bytes.peak = self._bytes.live
        result = work()
        return self._bytes.peak, result


class _OnGpu:
    def __init__(self) -> None:
        self._before = torch.cuda.memory_allocated()

    def __enter__(self) -> "_OnGpu":
        return self

    def __exit__(self, *error: Any) -> None:
        pass

    def live(self) -> int:
        return torch.cuda.memory_allocated() - self._before

    def peak(self, work: Callable[[], Any]) -> tuple[int, Any]:
        torch.cuda.reset_peak_memory_stats()
        result = work()
        return torch.cuda.max_memory_allocated() - self._before, result


def training_memory(
    network: nn.Module,
    config: Train,
    train: Samples,
    *,
    task: Task,
    classes: int,
    ignore_index: int | None,
    normalization: Normalization,
    changes: Augment,
) -> BatchMemory:
    """Trains `network` (it is changed) on a few images, as fit does, on the device that fit takes.
    Raises what fit raises for a network and a loss that do not suit each other."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    few = ChosenSamples(train, np.arange(min(_MORE, len(train))))
    objective = build_objective(network, config, few, classes, ignore_index)
    learner = Learner(
        network.train(), objective, config, task, classes, ignore_index, normalization, changes, 0,
        "",
    ).to(device)  # fmt: skip
    optimizer = build_optimizer(learner.network, config.optimizer, objective.parameters())

    def batch(images: int) -> tuple[Tensor, Tensor]:
        pixels, targets = few.batch(np.arange(images) % len(few))
        return torch.from_numpy(pixels).to(device), torch.from_numpy(targets).to(device)

    def forward(images: int) -> Tensor:
        with autocast(device, config.precision):
            return learner.loss_of(batch(images), 0)

    def backward(loss: Tensor) -> None:
        # After the answers, as Lightning does it: until then the last step's gradients are held.
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]

    parts = [*learner.parameters(), *learner.buffers()]
    gauge = _OnGpu() if device.type == "cuda" else _OnCpu(parts)
    with torch.random.fork_rng(), gauge:
        answered, loss = gauge.peak(lambda: forward(_FEW))
        backward(loss)
        optimizer.step()
        del loss
        kept = gauge.live()
        more, loss = gauge.peak(lambda: forward(_MORE))
        learnt, _ = gauge.peak(lambda: backward(loss))
    # The first step's answers had neither gradients nor states of the optimiser beside them.
    image = (more - kept - answered) / (_MORE - _FEW)
    fixed = max(0.0, answered - _FEW * image)
    image += max(0, learnt - more) / _MORE
    mean = sum(value.nbytes for value in parts) if config.ema_decay is not None else 0
    return BatchMemory(round(kept + fixed) + mean, round(image))


def answering_memory(run: Callable[[int], Any], weights: Iterable[Tensor]) -> BatchMemory:
    """The memory of `run`, which lets a network on the CPU answer so many images. `weights` are
    there before, and do not count."""
    gauge = _OnCpu(weights)
    with gauge:
        few, more = (gauge.peak(functools.partial(run, count))[0] for count in (1, _FEW))
    return BatchMemory(max(0, 2 * few - more), max(0, more - few))
