"""Where tests marked `gpu` put a model: on the GPU if there is one, else on the processor."""

import torch

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
