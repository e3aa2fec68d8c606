"""Node names -> blocks: of every model, fused and quantised, and of graphs that are not ours."""

from __future__ import annotations

import pytest

from refinenet_edge.bench.blocks import block_of


@pytest.mark.parametrize(
    ("node", "block"),
    [
        # rf50 .. rf_lw152
        ("encoders.0.conv1/Conv", "encoder.stem"),
        ("encoders.0.relu/Relu", "encoder.stem"),
        ("encoders.0.maxpool/MaxPool", "encoder.stem"),
        ("encoders.0.layer1.0.downsample.0/Conv", "encoder.layer1"),
        ("encoders.0.layer3.22/Add", "encoder.layer3"),
        ("encoders.0.layer4.2.relu/Relu_2", "encoder.layer4"),
        ("refine4.adapt.0.0/Conv", "refine4.adapt"),
        ("refine2.mrf.convs.1/Conv", "refine2.mrf"),
        ("refine2.mrf/Resize", "refine2.mrf"),
        ("refine1.crp.pool/MaxPool_3", "refine1.crp"),
        ("refine1.crp.activation/Relu", "refine1.crp"),
        # the units of rf50, rf101 and rf152
        ("refine4.adapt.0.1.conv2/Conv", "refine4.rcu"),
        ("refine4.adapt.0.2/Relu_1", "refine4.rcu"),
        ("refine4.adapt.0.2/Add", "refine4.rcu"),
        ("refine1.rcus.0.conv1/Conv", "refine1.rcu"),
        ("refine1.rcus.2/Add", "refine1.rcu"),
        # the second scale of a two-scale network
        ("encoders.1.layer2.0.conv1/Conv", "encoder.layer2"),
        ("refine4.adapt.1.0/Conv", "refine4.adapt"),
        # rf_lw_mbv2
        ("encoder.layer1.0/Conv", "encoder.layer1"),
        ("encoder.layer2.0.output.0.1/BatchNormalization", "encoder.layer2"),
        ("encoder.layer8.0.output.2.0/Conv", "encoder.layer8"),
        ("refine3.mrf.convs.0/Conv/Concat", "refine3.mrf"),
        ("refine1.crp/Add_2", "refine1.crp"),
        # the classifier, and what the fused graph makes of it
        ("classifier/Conv", "classifier"),
        ("classifier/Conv/tail", "classifier"),
        ("classifier/Conv/sum", "classifier"),
        # quantised
        ("refine1.crp/Add_2:0/q", "refine1.crp"),
        ("refine4.crp.convs.0/Conv:0/weight/dq", "refine4.crp"),
        ("encoder.layer3.1.output.2.0/Conv:0/dq", "encoder.layer3"),
        ("image/q", "frame"),
        ("logits/weight/dq", "classifier"),
        # a profiler's
        ("refine4.crp.convs.0/Conv + refine4.crp/Add", "refine4.crp"),
        ("PWN(refine2.mrf/Add, refine2.crp.activation/Clip)", "refine2.mrf"),
        ("Reformatting CopyNode for Input Tensor 0 to encoders.0.conv1/Conv", "encoder.stem"),
        ("encoder.layer2.0.output.0.0/Conv_nchwc", "encoder.layer2"),
    ],
)
def test_blocks_of_our_graphs(node: str, block: str) -> None:
    assert block_of(node) == block


@pytest.mark.parametrize(
    "node",
    [
        "",
        "Resize",
        "x_QuantizeLinear",
        "/backbone/layer1/layer1.0/conv1/Conv",
        "/classifier/classifier.4/Conv",
        "my.encoder.layer1.0/Conv",
        "encoder.layer.0.attention/MatMul",
        "encoder.layernorm/Add",
        "decoder.refine1.crp/Add",
        "refine1.crpx/Add",
        "refine12.crp/Add",
        "refine1/Add",
        "classifier_2/Conv",
        "imagenet/Conv",
        "logits",
    ],
)
def test_other_graphs_are_other(node: str) -> None:
    assert block_of(node) == "other"
