"""The command line: `pulse`, `pulse-inspect`, and `python -m pulse_codec`."""

import signal
import sys

from pulse_codec import _pulse


def _run(*words: str) -> int:
    # The program has its own ways with signals, which are those of any other program.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    arguments = ["pulse", *words, *sys.argv[1:]]
    return _pulse.main(arguments, [sys.executable, "-m", "pulse_codec"])


def main() -> int:
    """Runs `pulse` with the arguments of this process; gives back its exit status."""
    return _run()


def inspect() -> int:
    """Runs `pulse inspect` with the arguments of this process; gives back its exit status."""
    return _run("inspect")


if __name__ == "__main__":
    sys.exit(main())
