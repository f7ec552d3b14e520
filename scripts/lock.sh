#!/bin/sh
# Refresh uv.lock and the two hash-pinned files that plain pip installs from.
set -eu
cd "$(dirname "$0")/.."
uv lock
uv export -q --frozen --all-extras --no-default-groups --group build --no-emit-project --no-header -o requirements/run.txt >/dev/null
uv export -q --frozen --all-extras --group dev --group build --no-emit-project --no-header -o requirements/test.txt >/dev/null
