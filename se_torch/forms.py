"""Our block in the forms that other models' modules have: the gate alone, or channels last."""

from typing import Any

from torch import Tensor

from se_spec import SESpec

from .block import SqueezeExcitation
from .fast.loops import cast


class AdaptedSqueezeExcitation(SqueezeExcitation):
    """A block that is called as the module in whose place it stands.

    Args:
        spec: which block.
        result: ``"map"`` returns the scaled map; ``"gate"`` returns the factors with spatial axes of length 1, and
            ``"vector"`` as (N, C), for a model that multiplies by itself.
        data_format: ``"channels_first"`` or ``"channels_last"``.
        options: those of ``SqueezeExcitation``.

    Raises:
        SpecError, InputError, ShapeError: as ``SqueezeExcitation``.

    >>> import torch
    >>> block = AdaptedSqueezeExcitation(SESpec(8, hidden=2), result="gate")
    >>> block(torch.ones(1, 8, 5, 3)).shape
    torch.Size([1, 8, 1, 1])
    """

    def __init__(
        self, spec: SESpec, *, result: str = "map", data_format: str = "channels_first", **options: Any
    ) -> None:
        super().__init__(spec, **options)
        self.result, self.data_format = result, data_format

    def forward(self, x: Tensor) -> Tensor:
        is_last = self.data_format == "channels_last"
        x = x.movedim(-1, 1) if is_last else x
        y = super().forward(x) if self.result == "map" else self._compute_factors(x)
        return y.movedim(1, -1) if is_last and y.ndim > 2 else y

    def _compute_factors(self, x: Tensor) -> Tensor:
        s = self._gain * self.excitation(x) + float(self._residual)
        s = s if self.result == "vector" else s.reshape(*s.shape, *(1 for _ in x.shape[2:]))
        return cast(s, x.dtype)

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, result={self.result!r}, data_format={self.data_format!r}"
