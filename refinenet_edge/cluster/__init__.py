"""Beyond one machine: the same bundle on a Ray cluster, and in Triton Inference Server.

    work.py        text -> frames with names, in pieces          storage.py   folders here or behind a URL
    pool.py        pieces -> results, in this process or on Ray  bundles.py   a bundle on its way to the workers
    batch.py       bundle + frames -> a folder of labels
    evaluate.py    samples -> confusion matrices, which add up   calibrate.py   frames -> histograms, which add up
    triton.py      bundle -> a model repository                  triton_model.py   what runs there

No scheduler, queue or server of ours: Ray and Triton are, and neither is needed to import this.
"""
