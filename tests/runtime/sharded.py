"""A layer of two in shards: the first by columns, the second by rows, as a class whose weights lie in a file."""

from typing import Any

import torch
from torch import Tensor, distributed, nn


class TwoLayers(nn.Module):
    """Without a `group` it is the whole. A row of 9 fails everywhere, one of -9 on the last rank only."""

    def __init__(self, width: int, group: Any = None) -> None:
        super().__init__()
        self.group = group
        self.count = group.size() if group else 1
        self.rank = group.rank() if group else 0
        self.up = nn.Linear(4, width // self.count, bias=False)
        self.down = nn.Linear(width // self.count, 3, bias=False)

    def shard(self, name: str, whole: Any) -> Tensor:
        rows, columns = whole.get_shape()
        if name == "up.weight":
            part: Tensor = whole[self.rank * rows // self.count : (self.rank + 1) * rows // self.count]
        else:
            part = whole[:, self.rank * columns // self.count : (self.rank + 1) * columns // self.count]
        return part

    def forward(self, x: Tensor) -> Tensor:
        if (x == 9).any():
            raise ValueError("a nine")
        if self.rank == 1 and (x == -9).any():
            raise ValueError("out of memory, say")
        y: Tensor = self.down(torch.relu(self.up(x)))
        if self.group:
            distributed.all_reduce(y, group=self.group)
        return y


def whole_numbers(module: TwoLayers) -> TwoLayers:
    """Weights whose sums are exact in whatever order they are added."""
    with torch.no_grad():
        for index, weight in enumerate(module.parameters()):
            weight.copy_((torch.arange(weight.numel()) * (3 + index) % 7 - 3).reshape(weight.shape))
    return module
