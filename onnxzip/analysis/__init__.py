"""analyse: which channels change together, which nodes correspond, what can be shared, in which order.

    spaces          expressions of channel spaces, unification
    coupling        axes -> spaces of one net (crosswise: weights that mix tokens run across its channels)
    correspondence  nets laid over each other (roles: what comes of it; likeness: what makes two nodes alike)
    steps           which weights are fitted together
    strands         how many channels are shared by whom (grouped: as many in all groups of a node)
    layout          the fused net before its weights are known (drafting: the sheet; laying: the rules; leading: whose params)
    plan            all of it (refusals: what stays unmerged)
    sizing          what of it follows the size of the input (following: without a word)
"""

from onnxzip.analysis.plan import Plan, analyse
from onnxzip.analysis.refusals import Refusal
from onnxzip.analysis.sizing import analyse_sized

__all__ = ["Plan", "Refusal", "analyse", "analyse_sized"]
