"""What it costs to put one stage into dvc.lock: DVC's own writer against the fork server's.

    python benchmarks/bench_lock.py [STAGES ...]

The entries are invented, each with 20 dependencies, as many as a training has.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
import time
from datetime import UTC, datetime
from hashlib import md5
from pathlib import Path
from typing import Any

from dvc.utils.serialize import modify_yaml

from flows.forkserver import merge

ROOT = Path(__file__).resolve().parents[1]


def entry(number: int) -> dict[str, Any]:
    """What dvc.lock holds of a stage."""
    files = [f"isdh/module_{i}.py" for i in range(20)]
    return {
        "cmd": f"exec python -m flows.train data isdh 48 {number}",
        "deps": [
            {"path": path, "hash": "md5", "md5": md5(path.encode()).hexdigest(), "size": number}
            for path in files
        ],
        "outs": [{"path": f"models/{number}", "md5": md5(b"").hexdigest(), "size": 1}],
    }


def main() -> None:
    counts = [int(word) for word in sys.argv[1:]] or [36, 300, 972]
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "dvc.lock"
        for count in counts:
            path.unlink(missing_ok=True)
            merge(path, {f"train@{i}": entry(i) for i in range(count)})
            start = time.process_time()
            with modify_yaml(str(path)) as content:
                content["stages"]["train@0"] = entry(1)
            theirs, written = time.process_time() - start, path.read_bytes()
            start = time.process_time()
            merge(path, {"train@0": entry(1)})
            ours = time.process_time() - start
            assert path.read_bytes() == written
            row = {"stages": count, "bytes": len(written), "dvc_cpu_s": theirs, "merge_cpu_s": ours}
            rows.append({name: round(value, 3) for name, value in row.items()})
            print(rows[-1])
    now = datetime.now(UTC).strftime("%Y-%m-%d")
    result = {"date": now, "cores": os.cpu_count(), "rows": rows}
    target = ROOT / "benchmarks" / "results" / f"{now}-lock.json"
    target.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
