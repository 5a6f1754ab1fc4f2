#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# Asks the Kafka nodes of this container to stop (no ps here, so by /proc).
found=
for dir in /proc/[0-9]*; do
  tr '\0' '\n' <"$dir/cmdline" 2>/dev/null | grep -qxE 'kafka\.Kafka|lab\.Node' || continue
  kill -s "${SIGNAL:-TERM}" "${dir#/proc/}" && found=1
done
[ -n "$found" ] || { echo "nothing to stop: no node runs here" >&2; exit 1; }
