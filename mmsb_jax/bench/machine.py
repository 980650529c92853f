"""What figures depend on, and are told with."""

import os
import platform
from datetime import UTC, datetime
from typing import Any

import jax


def machine() -> dict[str, Any]:
    """The day, the processors, the versions, the backend."""
    return {
        "date": datetime.now(UTC).date().isoformat(),
        "cpus": os.cpu_count(),
        "processor": platform.machine(),
        "python": platform.python_version(),
        "jax": jax.__version__,
        "backend": jax.default_backend(),
    }
