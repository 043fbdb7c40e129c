import torch

torch.set_num_threads(1)  # as the trainers do: more threads slow small networks, and tests run side by side
