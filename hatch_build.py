"""What the build of a wheel does beside packing: it brings what the explorer's page computes with."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface


class PageRuntime(BuildHookInterface):  # type: ignore[type-arg]
    """Without npm the wheel is built all the same, and says so: all but the page works."""

    PLUGIN_NAME = "custom"

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        if version == "editable":
            return
        script = Path(self.root) / "scripts" / "page_runtime.py"
        if subprocess.run([sys.executable, script]).returncode:
            self.app.display_warning("this wheel has no explorer: vaekit explore and export --web will say so")
