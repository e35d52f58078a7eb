"""Focal losses (Lin et al. 2017, arXiv 1708.02002), in which easy examples count little."""

from torch import Tensor
from torchvision.ops import sigmoid_focal_loss

from training.fitting.losses.targets import as_probabilities, counted_mean


def focal(
    logits: Tensor, targets: Tensor, *, gamma: float = 2.0, ignore_index: int | None = None
) -> Tensor:
    """-Σ_c q_c (1 - p_c)^γ log p_c with p the softmax of logits [N, C, ...], mean over images or
    pixels: eq. 4 for many classes. γ = 0 is cross-entropy."""
    truth, counted = as_probabilities(logits, targets, ignore_index)
    log_p = logits.float().log_softmax(dim=1)
    # Clamped: where 1 - p is 0, a power below 1 has an infinite gradient.
    losses = -truth * (1 - log_p.exp()).clamp(min=1e-8) ** gamma * log_p
    return counted_mean(losses.sum(dim=1, keepdim=True), counted)


def binary_focal(
    logits: Tensor,
    targets: Tensor,
    *,
    gamma: float = 2.0,
    alpha: float = 0.25,
    ignore_index: int | None = None,
) -> Tensor:
    """-α_t (1 - p_t)^γ log p_t with p the sigmoid of each of the logits [N, C, ...], mean over all
    that count: eq. 5. C may be 1, with targets 0 and 1."""
    truth, counted = as_probabilities(logits, targets, ignore_index)
    losses = sigmoid_focal_loss(logits.float(), truth, alpha=alpha, gamma=gamma, reduction="none")
    return counted_mean(losses, counted)
