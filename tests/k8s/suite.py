"""Runs the tests beside it, and says how it went as cargo does."""

import pathlib
import sys
import unittest

HERE = pathlib.Path(__file__).resolve().parent


def main():
    loader = unittest.TestLoader()
    loader.testNamePatterns = [f"*{name}*" for name in sys.argv[1:]] or None
    result = unittest.TextTestRunner(stream=sys.stdout, verbosity=2).run(loader.discover(str(HERE)))
    # A test may fail more than once, for each thing that it looks at.
    failed = len({getattr(test, "test_case", test) for test, _ in result.failures + result.errors})
    passed = result.testsRun - failed - len(result.skipped)
    # Nothing found is nothing shown.
    good = passed > 0 and failed == 0
    print(f"test result: {'ok' if good else 'FAILED'}. {passed} passed; {failed} failed")
    sys.exit(0 if good else 1)


if __name__ == "__main__":
    main()
