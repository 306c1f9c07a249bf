"""What is computed in the precision of its inputs, whatever autocast says; here, so that it brings no Fabric along."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch


def without_autocast(device: torch.device) -> AbstractContextManager[Any]:
    """No autocast; a device that has none ("meta", which has shapes alone) is left as it is."""
    available = torch.amp.is_autocast_available(device.type)
    return torch.autocast(device.type, enabled=False) if available else nullcontext()
