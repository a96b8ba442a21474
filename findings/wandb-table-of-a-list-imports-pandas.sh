#!/usr/bin/env bash
# wandb 0.31.0: wandb.Table(columns=..., data=rows) imports pandas where it is installed, only to ask whether a list of lists
# is a DataFrame. An empty table filled by add_data holds the same rows without it. With pandas 3.1.1 the import costs about
# 40 MB and half a second to a second: in a process that only records a run, more than all the rest of wandb's client.
# Seen with Python 3.11 on Linux. Ends with 0 while that is so.
set -euo pipefail
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
python3 -m venv "$dir/venv"
"$dir/venv/bin/pip" install --quiet --disable-pip-version-check wandb==0.31.0 pandas==3.1.1 psutil==7.2.2
cd "$dir"
cat > try.py << 'PYTHON'
import sys
import time

import psutil
import wandb

rows = [["base", 1], ["base", 2]]


def memory():
    return psutil.Process().memory_full_info().uss / 1e6


filled = wandb.Table(columns=["stage", "step"])
for row in rows:
    filled.add_data(*row)
first = "pandas" in sys.modules
before, began = memory(), time.perf_counter()
given = wandb.Table(columns=["stage", "step"], data=rows)
print(f"filled by add_data: pandas imported: {first}")
print(f"given as data: pandas imported: {'pandas' in sys.modules}, "
      f"{memory() - before:.0f} MB and {time.perf_counter() - began:.2f} s more")
print(f"same rows: {given.data == filled.data}")
sys.exit(0 if not first and "pandas" in sys.modules and given.data == filled.data else 1)
PYTHON
HOME=$dir "$dir/venv/bin/python" try.py 2> "$dir/err" || { tail -5 "$dir/err"; exit 1; }
