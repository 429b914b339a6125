"""Command line entry: ``python -m tools.build_pictograms STEP --work build/pictograms``."""

from tools.build_pictograms.build import main

if __name__ == "__main__":
    raise SystemExit(main())
