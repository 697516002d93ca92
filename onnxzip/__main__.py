"""`python -m onnxzip`."""

import sys

from onnxzip.cli import main

sys.exit(main())
