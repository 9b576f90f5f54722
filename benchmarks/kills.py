"""Generate jobs on a real S3 server, killed at seeded moments: one JSON line per round.

    PYTHONPATH=tests python benchmarks/kills.py --rounds 10 --output kills.jsonl

Kills in turn one actor with the model, both of them, the process of the command and the S3 server
(tests/killing.py says how), runs the same command again where the first one ended, and compares every object with those
of an undisturbed run. Exit status 1 where anything differs.
"""

import argparse
import hashlib
import json
import os
import sys
import tempfile
from pathlib import Path

import ray
from crossroads import write_windows
from killing import VICTIMS, run, survive
from object_store import running

from sdiff import verify

JOB = "name: killed\ncount: 32\nscenarios_per_unit: 4\nbatch: 4\nseed: 3\n"


def digests(contents: dict[str, bytes]) -> dict[str, str]:
    """SHA-256 by object."""
    return {name: hashlib.sha256(data).hexdigest() for name, data in contents.items()}


def main() -> int:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--rounds", type=int, default=10, help="kills of each kind")
    options.add_argument("--victim", choices=VICTIMS, action="append", help="these only")
    options.add_argument("--first-seed", type=int, default=0)
    options.add_argument("--output", type=Path, required=True, help="results are appended here")
    given = options.parse_args()
    bad = 0
    with tempfile.TemporaryDirectory() as folder, running(Path(folder) / "s3") as store:
        os.environ |= store.environment()
        ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, _temp_dir=f"/tmp/ray-sdiff-{os.getpid()}")
        windows = write_windows(Path(folder) / "crossing")
        job_file = Path(folder) / "job.yaml"
        job_file.write_text(JOB)
        bucket = store.make_bucket("kills")
        run(str(job_file), windows, f"{bucket}/undisturbed")
        expected = digests(store.contents(f"{bucket}/undisturbed"))
        for seed in range(given.first_seed, given.first_seed + given.rounds):
            for victim in given.victim or VICTIMS:
                output = f"{bucket}/{victim}-{seed}"
                outcome = survive(victim, seed, str(job_file), windows, output, store)
                found = digests(store.contents(output))
                result = {
                    **outcome.as_json(),
                    "objects": len(found),
                    "missing": sorted(set(expected) - set(found)),
                    "not expected": sorted(set(found) - set(expected)),
                    "other bytes": sorted(n for n in set(found) & set(expected) if found[n] != expected[n]),
                    "problems": [p.found for report in verify.verify(output) for p in report.problems],
                }
                bad += any(result[k] for k in ("missing", "not expected", "other bytes", "problems"))
                with given.output.open("a") as out:
                    print(json.dumps(result), file=out)
                print(json.dumps(result), flush=True)
        ray.shutdown()
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
