"""Settings that must stand before numpy is imported, and before a test starts a process."""

import os
import signal

# In the background of a script SIGINT is ignored, and so it would be in all that tests interrupt.
signal.signal(signal.SIGINT, signal.default_int_handler)
# The nets here are small: more BLAS threads cost more than they bring, the more so where another process keeps a core busy.
os.environ.setdefault("OMP_NUM_THREADS", "1")
