"""Maps on which a module is tried."""

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from se_spec import live


class Layout(NamedTuple):
    """The lengths of a map's spatial axes, the place of its channels, and whether this size, or squares, are needed."""

    size: tuple[int, ...]
    data_format: str = "channels_first"
    is_fixed: bool = False
    is_square: bool = False

    def enlarge(self) -> "Layout":
        """Return the layout of a map that is larger than windows of poolings, if there may be one."""
        if self.is_fixed:
            return self
        sizes = live.choose_large_sizes(len(self.size))
        return self._replace(size=sizes[:1] * len(sizes) if self.is_square else sizes)

    def draw(self, samples: int, channels: int, seed: int, dtype: torch.dtype) -> Tensor:
        """Draw a map without numbers near 0, by which its factors are divided; its channels are first."""
        generator = torch.Generator().manual_seed(seed)
        options: dict[str, Any] = {"generator": generator, "dtype": torch.float64}
        sign = torch.randint(0, 2, (samples, channels), generator=generator).mul(2).sub(1)
        values = torch.rand(samples, channels, *self.size, **options) * 1.5 + 0.5
        return (values * sign.reshape(*sign.shape, *(1 for _ in self.size))).to(dtype)

    def call(self, module: nn.Module, x: Tensor) -> Any:
        """Call the module on a map whose channels are first here."""
        return module(x.movedim(1, -1).contiguous() if self.data_format == "channels_last" else x)
