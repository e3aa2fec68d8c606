"""How long things take: contenders in turn, medians and intervals, with the rule that ended it."""

from refinenet_edge.bench.measure import Contender, Estimate, Stages, Timing, take_turns, timed

__all__ = ["Contender", "Estimate", "Stages", "Timing", "take_turns", "timed"]
