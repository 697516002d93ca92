"""Settings that must stand before numpy is imported."""

import os

# The nets here are small: more BLAS threads cost more than they bring, the more so where another process keeps a core busy.
os.environ.setdefault("OMP_NUM_THREADS", "1")
