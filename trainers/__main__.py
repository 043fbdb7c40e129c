"""`python -m trainers ppo ...`: the commands, where no scripts are installed."""

import sys

from trainers.cli import ppo, spo

COMMANDS = {"ppo": ppo, "spo": spo}


def main(argv: list[str]) -> int:
    """Run the command that is named first."""
    if not argv or argv[0] not in COMMANDS:
        got = repr(argv[0]) if argv else "nothing"
        print(f"python -m trainers: got {got}; expected one of {', '.join(COMMANDS)}.", file=sys.stderr)
        return 2
    return COMMANDS[argv[0]](argv[1:])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
