# shellcheck shell=bash
# What `nix run .#lab` runs. The program takes LAB_ROOT before the working directory, so it is set only where neither
# the user nor a checkout says which lab is meant. The flake sets LAB_PROGRAM and LAB_SOURCES, and `set -euo pipefail`.
if [ -z "${LAB_ROOT:-}" ]; then
  folder=$PWD
  while [ ! -e "$folder/lab.toml" ] && [ -n "$folder" ]; do folder=${folder%/*}; done
  if [ ! -e "$folder/lab.toml" ]; then
    echo "lab: no lab.toml here or above: using the one that this program came with ($LAB_SOURCES)" >&2
    export LAB_ROOT=$LAB_SOURCES
  fi
fi
exec "$LAB_PROGRAM" "$@"
