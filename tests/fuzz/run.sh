#!/usr/bin/env bash
# Fuzzes each target from its seeds, one after the other, and fails where one finds something.
#
#     tests/fuzz/run.sh [SECONDS [TARGET...]]
#
# What was found to lead further is kept in corpus/, what fails in artifacts/. It needs
# cargo-fuzz and a nightly Rust, or RUSTC_BOOTSTRAP=1.
set -euo pipefail
cd "$(dirname "$0")"

seconds=${1:-600}
shift || true
targets=("$@")
[ ${#targets[@]} -gt 0 ] || mapfile -t targets < <(cargo fuzz list --fuzz-dir .)
[ ${#targets[@]} -gt 0 ] || { echo 'no fuzz targets' >&2; exit 1; }

for target in "${targets[@]}"; do
    mkdir -p "corpus/$target"
    cargo fuzz run --fuzz-dir . "$target" "corpus/$target" "seeds/$target" -- \
        -max_total_time="$seconds" -max_len=4096 -dict="$target.dict"
done
