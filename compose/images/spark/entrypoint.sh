#!/usr/bin/env bash
# Licensed under the Apache License, Version 2.0.
# Runs the given command under tini. A root container steps down to the user spark.
set -eu
if [ "$(id -u)" = 0 ] && [ "${SPARK_KEEP_ROOT:-}" != 1 ]; then
  exec setpriv --reuid=185 --regid=185 --clear-groups -- /usr/bin/tini -s -- "$@"
fi
exec /usr/bin/tini -s -- "$@"
