"""What a prediction is worth: additive sums, and scores that are functions of them."""

from emukit.metrics.competition import Parts, Score, score_moments
from emukit.metrics.moments import Moments

__all__ = ["Moments", "Parts", "Score", "score_moments"]
