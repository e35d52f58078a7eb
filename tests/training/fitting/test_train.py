"""The training loop learns, and goes on after a kill as if nothing had happened."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import nn

from tests.support.hostile_pickle import plant
from training.data.samples import ArraySamples, Pair
from training.errors import Diverged, RecipeError
from training.fitting.train import Fitted, chosen_precision, fit
from training.recipes.data import Augment, Normalization
from training.recipes.train import Train

EPOCHS = 4


def colours(count: int) -> ArraySamples:
    """Noise that is red or blue on average: anything can learn which."""
    rng = np.random.default_rng(count)
    labels = np.arange(count) % 2
    images = rng.integers(0, 120, (count, 8, 8, 3), np.uint8)
    images[np.arange(count), :, :, 2 * labels] += 100
    return ArraySamples(images, labels.astype(np.int64))


class KilledAt(ArraySamples):
    """Stands for a kill: the n-th batch never comes."""

    def __init__(self, samples: ArraySamples, batches: int) -> None:
        super().__init__(samples.images, samples.targets)
        self.left = batches

    def batch(self, indices: Sequence[int] | NDArray[np.intp]) -> Pair:
        if self.left == 0:
            raise KeyboardInterrupt
        self.left -= 1
        return super().batch(indices)


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
        nn.Linear(8, 2),
    )  # fmt: skip


def dropping() -> nn.Module:
    """With dropout, whose draws a resumed run must repeat."""
    layers = network()
    return nn.Sequential(*list(layers)[:-1], nn.Dropout(0.2), list(layers)[-1])


# What holds a state of its own between steps.
EVERYTHING: dict[str, Any] = {
    "optimizer": {"name": "adam", "lr": 0.02, "backbone_lr_factor": 0.5},
    "accumulate": 3,
    "clip_norm": 1.0,
    "ema_decay": 0.9,
    "patience": 4,
    "freeze_backbone_epochs": 1,
    "sampler": {"name": "weighted"},
    "mixup_alpha": 0.2,
    "cutmix_alpha": 1.0,
    "keep": "best",
}


def run(
    folder: Path,
    train: ArraySamples,
    model: nn.Module | None = None,
    objective: nn.Module | None = None,
    changes: Augment | None = None,
    **keys: Any,
) -> Fitted:
    config = Train.model_validate(
        {
            "epochs": EPOCHS,
            "batch_size": 8,
            "optimizer": {"name": "sgd", "lr": 0.1},
            "schedule": {"name": "one_cycle"},
            "precision": "fp32",
            "keep": "last",
            **keys,
        }
    )
    return fit(
        model or network(),
        config,
        train,
        colours(16),
        task="classification",
        classes=2,
        ignore_index=None,
        normalization=Normalization(),
        changes=changes or Augment(shift=1, brightness=0.1),
        seed=5,
        folder=folder,
        title="test",
        objective=objective,
    )


def curve(fitted: Fitted) -> list[dict[str, Any]]:
    return [{k: v for k, v in row.items() if k != "seconds"} for row in fitted.history]


def test_training_learns_a_plain_difference(tmp_path: Path) -> None:
    fitted = run(tmp_path, colours(64))
    assert [row["epoch"] for row in fitted.history] == [1, 2, 3, 4]
    assert fitted.history[-1]["val_top1"] == 1.0
    assert fitted.history[-1]["loss"] < fitted.history[0]["loss"]
    assert not fitted.network.training


@pytest.mark.parametrize("keys", [{}, EVERYTHING])
def test_killed_training_resumes_on_the_same_curve(tmp_path: Path, keys: dict[str, Any]) -> None:
    unbroken = run(tmp_path / "unbroken", colours(64), dropping(), **keys)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "broken", KilledAt(colours(64), batches=20), dropping(), **keys)
    resumed = run(tmp_path / "broken", colours(64), dropping(), **keys)
    assert curve(resumed) == curve(unbroken)
    for left, right in zip(
        resumed.network.parameters(), unbroken.network.parameters(), strict=True
    ):
        assert torch.equal(left, right)


def test_a_checkpoint_that_would_run_code_is_passed_over(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    plant(tmp_path / "PWNED", tmp_path / "checkpoints" / "last.ckpt")
    fitted = run(tmp_path, colours(64), epochs=1)
    assert [row["epoch"] for row in fitted.history] == [1]
    assert "last.ckpt cannot be read; training begins anew" in caplog.text
    assert not (tmp_path / "PWNED").exists()


def test_finished_training_is_not_repeated(tmp_path: Path) -> None:
    first = run(tmp_path, colours(64))
    # A whole epoch would take eight batches; Lightning looks at a few before it stops.
    again = run(tmp_path, KilledAt(colours(64), batches=7))
    assert curve(again) == curve(first)


def test_best_weights_are_those_of_the_best_epoch(tmp_path: Path) -> None:
    run(tmp_path, colours(64), keep="best")
    saved = torch.load(
        tmp_path / "checkpoints" / "best.ckpt", map_location="cpu", weights_only=True
    )
    assert saved["epoch"] < EPOCHS


def test_precision_is_taken_as_said() -> None:
    assert chosen_precision("fp32") == "fp32"
    assert chosen_precision("bf16") == "bf16"
    assert chosen_precision("auto") in ("fp32", "bf16")


def test_accumulated_batches_make_the_step_of_one_large_batch(tmp_path: Path) -> None:
    def weights(folder: Path, **keys: Any) -> list[nn.Parameter]:
        layers = nn.Sequential(nn.Flatten(), nn.Linear(192, 2))
        nn.init.zeros_(layers[1].weight)
        nn.init.zeros_(layers[1].bias)
        plain = {"epochs": 1, "schedule": {"name": "constant"}, "changes": Augment()}
        return list(run(folder, colours(64), layers, **plain, **keys).network.parameters())

    large = weights(tmp_path / "large", batch_size=32)
    small = weights(tmp_path / "small", batch_size=8, accumulate=4)
    for left, right in zip(large, small, strict=True):
        assert torch.allclose(left, right, atol=1e-5)


def test_clipped_step_is_no_longer_than_its_norm(tmp_path: Path) -> None:
    layers = network()
    before = [p.detach().clone() for p in layers.parameters()]
    optimizer = {"name": "sgd", "lr": 1.0, "momentum": 0.0}
    fitted = run(
        tmp_path, colours(8), layers, epochs=1, clip_norm=1e-3, optimizer=optimizer,
        schedule={"name": "constant"},
    )  # fmt: skip
    moved = [(p - b).norm() for p, b in zip(fitted.network.parameters(), before, strict=True)]
    assert torch.stack(moved).norm().item() == pytest.approx(1e-3, rel=1e-2)


@pytest.mark.parametrize("keep", ["last", "best"])
def test_averaged_weights_are_what_is_measured_and_kept(tmp_path: Path, keep: str) -> None:
    fitted = run(tmp_path, colours(64), keep=keep, ema_decay=0.5)
    saved = torch.load(tmp_path / "checkpoints" / f"{keep}.ckpt", weights_only=True)
    mean = saved["state_dict"]["network.5.weight"]
    assert torch.equal(fitted.network.state_dict()["5.weight"], mean)
    assert not torch.equal(saved["current_model_state"]["network.5.weight"], mean)


def test_training_stops_when_its_score_no_longer_rises(tmp_path: Path) -> None:
    fitted = run(tmp_path, colours(64), epochs=30, patience=2)
    scores = [row["val_top1"] for row in fitted.history]
    assert len(scores) == scores.index(max(scores)) + 3 < 30
    # As after a kill between the last epoch and the end of the stage.
    again = run(tmp_path, colours(64), epochs=30, patience=2)
    assert curve(again) == curve(fitted)


class Watched(nn.Module):
    """A network that remembers the weights of its first layer at each answer."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = network()
        self.seen: list[torch.Tensor] = []

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        if self.training:
            first = self.layers[0].weight  # type: ignore[index]
            self.seen.append(first.detach().clone())
        answer: torch.Tensor = self.layers(images)
        return answer


def test_backbone_learns_after_the_epochs_in_which_it_is_frozen(tmp_path: Path) -> None:
    model = Watched()
    run(tmp_path, colours(64), model, freeze_backbone_epochs=2)
    assert len(model.seen) == 8 * EPOCHS
    assert all(torch.equal(weight, model.seen[0]) for weight in model.seen[:17])
    assert not torch.equal(model.seen[17], model.seen[0])


class TwoHeads(nn.Module):
    """Answers twice in training, as networks with auxiliary heads do."""

    def __init__(self) -> None:
        super().__init__()
        self.auxiliary = nn.Sequential(nn.Flatten(), nn.Linear(192, 2))
        self.main = network()

    def forward(self, images: torch.Tensor) -> Any:
        answer = self.main(images)
        return (answer, self.auxiliary(images)) if self.training else answer


@pytest.mark.parametrize(("weight", "learns"), [(0.4, True), (0.0, False)])
def test_auxiliary_head_learns_by_its_weight(tmp_path: Path, weight: float, learns: bool) -> None:
    model = TwoHeads()
    before = model.auxiliary[1].weight.detach().clone()
    fitted = run(tmp_path, colours(64), model, auxiliary_weight=weight)
    assert fitted.history[-1]["val_top1"] == 1.0
    assert torch.equal(model.auxiliary[1].weight, before) is not learns


class Taught(nn.Module):
    """As a distillation would: the targets are what a teacher says of the images."""

    def forward(
        self, outputs: torch.Tensor, targets: torch.Tensor, images: torch.Tensor
    ) -> torch.Tensor:
        assert images.shape[1:] == (3, 8, 8)
        says = (images[:, 0].mean(dim=(1, 2)) > images[:, 2].mean(dim=(1, 2))).long()
        return nn.functional.cross_entropy(outputs, says)


def test_objective_takes_the_place_of_the_loss(tmp_path: Path) -> None:
    swapped = run(tmp_path, colours(64), objective=Taught())
    # The teacher calls red what the labels call blue.
    assert swapped.history[-1]["val_top1"] == 0.0


def test_centres_of_classes_are_trained_and_saved(tmp_path: Path) -> None:
    run(tmp_path, colours(64), loss={"name": "cosface", "scale": 8.0})
    for name in ("last", "best"):
        saved = torch.load(tmp_path / "checkpoints" / f"{name}.ckpt", weights_only=True)
        assert saved["state_dict"]["objective.loss.weight"].shape == (2, 2)


def test_curves_are_left_for_tensorboard(tmp_path: Path) -> None:
    fitted = run(tmp_path, colours(64))
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    for name in ("loss", "val_loss", "lr"):
        written = [event.value for event in events.Scalars(name)]
        assert written == pytest.approx([row[name] for row in fitted.history])


def test_history_has_the_rates_that_epochs_began_with(tmp_path: Path) -> None:
    schedule = {"name": "multi_step", "milestones": [1], "gamma": 0.5}
    optimizer = {"name": "sgd", "lr": 0.1}
    fitted = run(tmp_path, colours(64), epochs=2, optimizer=optimizer, schedule=schedule)
    assert [row["lr"] for row in fitted.history] == pytest.approx([0.1, 0.05])


@pytest.mark.skipif(torch.cuda.is_available(), reason="has a GPU")
def test_half_precision_is_refused_without_a_gpu(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="precision: fp16 is for GPUs, and none is here"):
        run(tmp_path, colours(64), precision="fp16")


@pytest.mark.parametrize("native", [True, False])
def test_auto_takes_bf16_on_gpus_that_compute_in_it(
    native: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(
        torch.cuda, "is_bf16_supported", lambda including_emulation: native or including_emulation
    )
    assert chosen_precision("auto") == ("bf16" if native else "fp32")
    assert chosen_precision("fp16") == "fp16"


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        (
            {"loss": {"name": "cross_entropy", "class_weights": [1, 2, 3]}},
            "loss.class_weights: expected one for each of 2 classes, got 3",
        ),
        (
            {"sampler": {"name": "identities", "people": 4, "pictures": 2}},
            "sampler.people: 4 are wanted, there are 2",
        ),
    ],
)
def test_value_that_does_not_suit_the_data_is_refused(
    tmp_path: Path, keys: dict[str, Any], said: str
) -> None:
    with pytest.raises(RecipeError, match=said):
        run(tmp_path, colours(64), **keys)


@pytest.mark.parametrize("keys", [{}, {"ema_decay": 0.9}, {"clip_norm": 1.0, "batch_size": 64}])
def test_training_ends_at_the_first_epoch_whose_numbers_are_not_finite(
    tmp_path: Path, keys: dict[str, Any]
) -> None:
    rate = {"optimizer": {"name": "sgd", "lr": 1e30}, "schedule": {"name": "constant"}}
    with pytest.raises(Diverged, match=r"^test: epoch 1: .* rate is 1e\+30: try a lower one"):
        run(tmp_path, colours(64), **{**rate, **keys})
    assert not list(tmp_path.rglob("last.ckpt"))


def test_infinite_weight_is_found_though_scores_are_numbers(tmp_path: Path) -> None:
    broken = network()
    broken.register_buffer("unused", torch.tensor(float("inf")))
    with pytest.raises(Diverged, match="a weight of the network is not finite"):
        run(tmp_path, colours(32), broken)


@pytest.mark.parametrize("kept", [0, 1000])
def test_half_a_checkpoint_is_told_and_not_resumed(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, kept: int
) -> None:
    whole = run(tmp_path, colours(32))
    file = tmp_path / "checkpoints" / "last.ckpt"
    file.write_bytes(file.read_bytes()[:kept])
    again = run(tmp_path, colours(32))
    assert f"{file} cannot be read; training begins anew" in caplog.text
    assert [row["loss"] for row in again.history] == [row["loss"] for row in whole.history]


def test_images_are_small_in_the_first_epochs(tmp_path: Path) -> None:
    class Watching(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = network()
            self.seen: list[int] = []

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            if self.training:
                self.seen.append(images.shape[2])
            answer: torch.Tensor = self.inner(images)
            return answer

    watching = Watching()
    fitted = run(tmp_path, colours(64), watching, progressive={"start": 0.5, "until": 0.5})
    # Eight batches an epoch: 4 and 6 pixels, then whole.
    assert watching.seen == [4] * 8 + [6] * 8 + [8] * 16
    assert fitted.history[-1]["val_top1"] == 1.0


def test_batch_norms_take_the_statistics_of_images_as_they_are(tmp_path: Path) -> None:
    samples = colours(128)
    fitted = run(tmp_path, samples, epochs=1, batch_norm_images=128)
    images = torch.from_numpy(samples.images).float() / 255
    mean, std = (torch.tensor(v) for v in (Normalization().mean, Normalization().std))
    with torch.no_grad():
        answers = fitted.network[0](((images - mean) / std).permute(0, 3, 1, 2))
    assert torch.allclose(fitted.network[1].running_mean, answers.mean((0, 2, 3)), atol=1e-4)
