"""Accuracy measures in numpy, for `convserve evaluate` and for the verify stage.

Intervals are 95 %. Images, not pixels or pairs, count as independent draws.
"""

from serving.base.evaluation.agreement import agreement, answer_distance, output_distance
from serving.base.evaluation.classes import (
    ClassReport,
    accuracy,
    accuracy_drop,
    class_reports,
    confusion_matrix,
    in_top_k,
)
from serving.base.evaluation.curves import Curve, counted_curve, detection_curve
from serving.base.evaluation.embeddings import (
    Ranking,
    Verification,
    identification,
    rank_gallery,
    verification,
)
from serving.base.evaluation.estimate import Estimate
from serving.base.evaluation.masks import (
    class_iou,
    foreground_iou,
    foreground_iou_drop,
    mean_iou,
    mean_iou_drop,
    overlap_iou,
    overlaps,
)

__all__ = [
    "ClassReport",
    "Curve",
    "Estimate",
    "Ranking",
    "Verification",
    "accuracy",
    "accuracy_drop",
    "agreement",
    "answer_distance",
    "class_iou",
    "class_reports",
    "confusion_matrix",
    "counted_curve",
    "detection_curve",
    "foreground_iou",
    "foreground_iou_drop",
    "identification",
    "in_top_k",
    "mean_iou",
    "mean_iou_drop",
    "output_distance",
    "overlap_iou",
    "overlaps",
    "rank_gallery",
    "verification",
]
