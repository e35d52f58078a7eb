"""Knowledge distillation: a small network learns from the answers of a large one, and the targets.

Hinton, Vinyals, Dean 2015, arXiv 1503.02531.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional


def soft_divergence(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """T² · KL(softmax(teacher / T) ‖ softmax(student / T)), mean over images or pixels, from logits
    [N, C] or [N, C, H, W]; T² keeps the gradient's size when T changes (§2). Logits of a single
    channel are those of a sigmoid, and stand for two classes."""
    if student.shape[1] == 1:
        student = torch.cat([student, torch.zeros_like(student)], dim=1)
        teacher = torch.cat([teacher, torch.zeros_like(teacher)], dim=1)
    divergence = functional.kl_div(
        functional.log_softmax(student.float() / temperature, dim=1),
        functional.log_softmax(teacher.float() / temperature, dim=1),
        reduction="none",
        log_target=True,
    )
    return temperature**2 * divergence.sum(dim=1).mean()


def cosine_distance(student: Tensor, teacher: Tensor) -> Tensor:
    """1 - cos, mean over embeddings [N, D] of the same images: half the squared distance of the
    served embeddings, which have length 1."""
    return (1 - functional.cosine_similarity(student.float(), teacher.float(), dim=1)).mean()


class Distillation(nn.Module):
    """The objective (1 - weight) · supervised + weight · distance to the teacher's answers.

    `supervised` is called as objectives are, with (answers, targets, images). Of a student with
    auxiliary answers the main one learns from the teacher. The teacher sees the student's images,
    float32 NCHW, stays in evaluation mode and learns nothing.
    """

    def __init__(
        self,
        supervised: nn.Module,
        teacher: nn.Module,
        temperature: float,
        weight: float,
        *,
        embedding: bool = False,
    ) -> None:
        super().__init__()
        self.supervised = supervised
        self.teacher = teacher.eval().requires_grad_(False)
        self.temperature = temperature
        self.weight = weight
        self.embedding = embedding

    def train(self, mode: bool = True) -> "Distillation":
        super().train(mode)
        self.teacher.eval()
        return self

    def forward(
        self, outputs: Tensor | tuple[Tensor, ...], targets: Tensor, images: Tensor
    ) -> Tensor:
        """A float32 scalar."""
        main = outputs[0] if isinstance(outputs, tuple) else outputs
        with torch.no_grad():
            taught = self.teacher(images)
        if self.embedding:
            distance = cosine_distance(main, taught)
        else:
            distance = soft_divergence(main, taught, self.temperature)
        alone: Tensor = self.supervised(outputs, targets, images)
        return (1 - self.weight) * alone + self.weight * distance
