"""`python -m prefect_db`: see `prefect_db.cli`."""

import sys

from prefect_db.cli import main

sys.exit(main())
