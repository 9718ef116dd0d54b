"""What a prediction is worth: additive sums, metrics that are functions of them, and scores made of metrics."""

from emukit.metrics.competition import Competition, Metric, Score, SubmissionFormat, mean_score
from emukit.metrics.moments import Moments

__all__ = ["Competition", "Metric", "Moments", "Score", "SubmissionFormat", "mean_score"]
