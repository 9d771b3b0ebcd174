"""Virtual environments for peers that are Python distributions. Knows pip only."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Venv:
    """One environment, and pip's arguments for what belongs into it."""

    folder: Path
    arguments: tuple[str, ...]

    @property
    def python(self) -> str:
        """Its interpreter."""
        return str(self.folder / "bin" / "python")

    def there(self) -> bool:
        """Tell whether it was installed to the end."""
        return (self.folder / ".installed").exists()

    def install(self) -> None:
        """Make it. Raises CalledProcessError."""
        if self.there():
            return
        pip = [self.python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        for argv in ([sys.executable, "-m", "venv", str(self.folder)], [*pip, *self.arguments]):
            subprocess.run(argv, check=True)  # noqa: S603 - our own arguments
        (self.folder / ".installed").touch()
