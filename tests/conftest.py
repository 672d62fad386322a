"""Before any test: quiet TensorFlow, and tests import `toys` from beside them."""

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
