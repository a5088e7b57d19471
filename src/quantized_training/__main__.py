"""python -m quantized_training ...: the old name of the study's command line, which a clone of the repository has."""

import importlib
import sys

try:
    main = importlib.import_module("study.__main__").main
except ModuleNotFoundError as error:
    sys.exit(f"The experiments need a clone of the repository and its packages ({error}); this is the library alone.")
sys.exit(main())
