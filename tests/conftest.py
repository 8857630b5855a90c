"""Where there is no GPU, Triton's kernels run in its interpreter; it has to be told before a kernel is defined."""

import os

import torch

if not torch.cuda.is_available():
    os.environ["TRITON_INTERPRET"] = "1"
