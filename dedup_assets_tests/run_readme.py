"""Runs the steps of a page in sequence in one process: `run_readme.py STEPS.json`.

A step is ["bash", arguments of dedup-assets] or ["python", code]. Runs in environments without the test packages, so
it imports none. The demo is reduced to a few docstrings, because all of it takes a minute.
"""

import json
import sys
from pathlib import Path

from dedup_assets import cli, demo

DEMO_DOCSTRINGS, DEMO_SHARDS = 60, 2


def main() -> None:
    demo.write_demo_corpus.__defaults__ = (DEMO_DOCSTRINGS, DEMO_SHARDS)
    for language, step in json.loads(Path(sys.argv[1]).read_text()):
        print(f"== {step}", flush=True)
        if language == "python":
            exec(compile(step, "README.md", "exec"), {"__name__": "__main__"})
            continue
        sys.argv[1:] = step
        try:
            cli.run()
        except SystemExit as end:
            if end.code:
                sys.exit(f"status {end.code}: {step}")
    print("== all done")


if __name__ == "__main__":
    main()
