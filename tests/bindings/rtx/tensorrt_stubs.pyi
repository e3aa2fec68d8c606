from tensorrt_rtx_stubs import TensorRt as TensorRt
