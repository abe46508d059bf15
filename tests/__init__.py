import pytest

pytest.register_assert_rewrite("prefect_db.testing")
