"""Comparisons with a real Prefect: its models, in this process, on databases of both engines.

They need the extra `peer`, and run only when named: `scripts/test-db-backends peer`.
"""

import atexit
import os
import shutil
import tempfile

# Prefect reads its settings when it is imported; nothing of the user's may be among them.
for _name in [name for name in os.environ if name.startswith("PREFECT_")]:
    if _name != "PREFECT_TEST_DATABASE_URL":
        del os.environ[_name]
_home = tempfile.mkdtemp(prefix="prefect-home-")
atexit.register(shutil.rmtree, _home, ignore_errors=True)
os.environ.update(
    {
        "PREFECT_HOME": _home,
        "PREFECT_LOGGING_LEVEL": "ERROR",
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "DO_NOT_TRACK": "1",
    }
)
