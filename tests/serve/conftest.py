from tests.support.served import served_base  # noqa: F401
from tests.support.small_run import one_thread  # noqa: F401
