"""Which block of the model a node belongs to: from its name, which is that of the module it was traced from.

    encoders.0.conv1/Conv                     encoder.stem
    encoder.layer2.0.output.0.0/Conv          encoder.layer2
    refine4.adapt.0.0/Conv                    refine4.adapt      from tap to width
    refine4.adapt.0.1.conv1/Conv              refine4.rcu        the units before MRF and those after CRP
    refine1.crp/Add_2:0/q                     refine1.crp        quantising a tensor belongs to what made it
    image/q                                   frame
    logits/weight/dq                          classifier
    x_QuantizeLinear                          other              another's graph, or a node of no module

A profiler's name for a kernel may hold several nodes or words around them: the first node in it counts.
"""

import re

OTHER = "other"
FRAME, HEAD = "frame", "head"  # what runs before the network and after it
CLASSIFIER = "classifier"

_NODE = re.compile(
    r"(?<![\w./])(?:"
    r"encoders?(?:\.\d+)?\.(?P<stage>layer\d+|conv1|bn1|relu|maxpool)"
    r"|(?P<refine>refine\d)\.(?P<part>adapt\.\d+\.(?P<place>\d+)|adapt|rcus|mrf|crp)"
    r"|(?P<classifier>classifier(?=/)|logits(?=/))"
    r"|(?P<frame>image(?=/))"
    r")(?![^\W_])"
)


def block_of(node_name: str) -> str:
    """The block of a node of a graph that this toolkit traced, fused or quantised; "other" for any other name."""
    node = _NODE.search(node_name)
    if node is None:
        return OTHER
    if stage := node["stage"]:
        return f"encoder.{stage}" if stage.startswith("layer") else "encoder.stem"
    if refine := node["refine"]:
        part = node["part"]
        if part == "rcus" or node["place"] not in (None, "0"):
            return f"{refine}.rcu"
        return f"{refine}.{part.partition('.')[0]}"
    return CLASSIFIER if node["classifier"] else FRAME
