"""Replaces the SE blocks of a hand-written PyTorch network by ours, trains it, and puts its own blocks back."""

import torch
from torch import nn
from torch.nn import functional as F

import se_torch


class ChannelAttention(nn.Module):
    """A block as tutorials have it."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.down, self.up = nn.Conv2d(channels, channels // 4, 1), nn.Conv2d(channels // 4, channels, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        gate = self.up(F.relu(self.down(F.adaptive_avg_pool2d(x, 1))))
        return x * (F.relu6(gate + 3) / 6)


def make_stage(inputs: int, outputs: int) -> nn.Sequential:
    """Make a convolution, batch norm, ReLU and a block."""
    layers = nn.Conv2d(inputs, outputs, 3, stride=2, padding=1), nn.BatchNorm2d(outputs), nn.ReLU()
    return nn.Sequential(*layers, ChannelAttention(outputs))


torch.manual_seed(0)
model = nn.Sequential(make_stage(3, 16), make_stage(16, 32), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 10))
images, labels = torch.randn(8, 3, 32, 32), torch.arange(8)
names = list(model.state_dict())

replacement = se_torch.replace(model, images)
print(replacement)
assert len(replacement.blocks) == 2 and not replacement.left

optimizer = torch.optim.SGD(model.parameters(), 0.1)  # after the replacement: some parameters are new
for _ in range(3):
    loss = F.cross_entropy(model(images), labels)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
trained = model.eval()(images)

model = se_torch.restore(replacement)
assert list(model.state_dict()) == names
difference = (model(images) - trained).abs().max().item()
print(f"their own blocks, with the trained weights, answer within {difference:.1e}")
assert difference < 1e-5
