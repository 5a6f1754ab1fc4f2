# Of what `cargo test --no-fail-fast` has printed, a table of the suites, and below it which tests failed and what a suite said of
# itself as a whole. Its exit code is the one of the last line, which is `cargo's exit code: N`.

function minutes(seconds) {
  seconds += 0
  return seconds < 100 ? sprintf("%.0f s", seconds) : sprintf("%.0f min %02.0f s", int(seconds / 60), seconds % 60)
}

# A suite without a result has crashed or was killed.
function crashed() {
  if (running != "") row(running, "ended before it had a result  FAILED")
  running = ""
}

function row(name, what) {
  rows[++count] = sprintf("%-24s %s", name, what)
}

/^cargo's exit code: [0-9]+$/ { code = $4; next }
# `Running tests/spec/main.rs (target/debug/deps/spec-1a2b)`, `Running unittests src/lib.rs (…)`
$1 == "Running" && /\(.*\)$/ {
  crashed()
  suite = $NF
  sub(/^.*\//, "", suite)
  sub(/-[0-9a-f]+\)$/, "", suite)
  if ($2 == "unittests") suite = suite " (unit)"
  running = suite
}
$1 == "Doc-tests" { crashed(); suite = $2 " (docs)"; running = suite }

# `test result: ok. 22 passed; 1 failed; 0 ignored; 0 measured; 0 filtered out; finished in 83.86s`
/^test result: / && running != "" {
  passed = failed = ignored = seconds = 0
  for (i = 2; i <= NF; i++) {
    if ($i == "passed;") passed = $(i - 1)
    if ($i == "failed;") failed = $(i - 1)
    if ($i == "ignored;") ignored = $(i - 1)
    if ($i == "in") { seconds = $(i + 1); sub(/s$/, "", seconds) }
  }
  all_passed += passed; all_failed += failed; all_ignored += ignored; all_seconds += seconds
  if (passed + failed + ignored > 0)
    row(running, sprintf("%7d %7d %8d  %12s%s", passed, failed, ignored, minutes(seconds), failed ? "  FAILED" : ""))
  running = ""
}
/^test .* \.\.\. FAILED$/ && ++all_named <= 20 { named[all_named] = $2 }
/^error: could not compile/ { broken = 1 }
# Not cargo's own.
/^error: / && !/^error: (could not compile|test failed|doctest failed|[0-9]+ targets? failed)/ { said[++all_said] = $0 }

END {
  crashed()
  if (count > 0) {
    printf "\n%-24s %7s %7s %8s  %12s\n", "SUITE", "PASSED", "FAILED", "NOT RUN", "TOOK"
    for (i = 1; i <= count; i++) print rows[i]
    printf "%-24s %7d %7d %8d  %12s\n", "in all", all_passed, all_failed, all_ignored, minutes(all_seconds)
  }
  if (all_named > 0) {
    print "\nfailed" (all_named > 20 ? " (the first 20 of " all_named ")" : "") ":"
    for (i = 1; i <= all_named && i <= 20; i++) print "  " named[i]
  }
  if (all_said > 0) print ""
  for (i = 1; i <= all_said; i++) print said[i]
  if (broken) print "\nThe tests do not compile: see above."
  exit code == "" ? 1 : code
}
