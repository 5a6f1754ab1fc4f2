#!/bin/sh
# Licensed under the Apache License, Version 2.0.
# Arranges the unpacked pyspark source package ($1) as a Spark home ($2).
set -eu
from=$1 to=$2
mkdir -p "$to/python/lib" "$to/bin" "$to/sbin"
mv "$from/deps/jars" "$to/jars"
cp "$from"/deps/bin/* "$to/bin/"; rm -f "$to"/bin/*.cmd "$to/bin/sparkR" "$to/bin/docker-image-tool.sh"
cp "$from"/deps/sbin/* "$to/sbin/"
cp -r "$from/deps/licenses" "$to/licenses"
cp -r "$from/pyspark" "$to/python/pyspark"
rm -rf "$to/python/pyspark/python" "$to/python/pyspark/__pycache__"

# Left out: Spark on Kubernetes, the Scala shell of Spark Connect, native libraries for other systems.
cd "$to/jars"
rm -rf connect-repl kubernetes-*.jar spark-kubernetes_*.jar vertx-*.jar zjsonpatch-*.jar \
       netty-*-osx-*.jar netty-*-windows-*.jar netty-*-riscv64.jar
# RocksDB brings its library for eight systems, 70 MB: keep Linux with glibc on x86-64 and ARM 64.
python3 - rocksdbjni-*.jar <<'P'
import re, sys, zipfile
src = sys.argv[1]
with zipfile.ZipFile(src) as a, zipfile.ZipFile(src + ".new", "w", zipfile.ZIP_DEFLATED) as b:
    for item in a.infolist():
        native = re.search(r"librocksdbjni|\.dll$|\.jnilib$|\.so$", item.filename)
        if not native or item.filename in ("librocksdbjni-linux64.so", "librocksdbjni-linux-aarch64.so"):
            b.writestr(item, a.read(item))
P
for jar in rocksdbjni-*.jar; do mv "$jar.new" "$jar"; done

# Python: what spark-submit puts first on PYTHONPATH are two zip files. With compiled modules in them the
# interpreter need not compile pyspark anew at every start (it cannot write into a zip file).
compile() { # directory holding the package, package, zip file
  python3 - "$@" <<'P'
import compileall, pathlib, py_compile, sys, zipfile
root, package, target = pathlib.Path(sys.argv[1]), sys.argv[2], sys.argv[3]
with zipfile.ZipFile(target, "w", zipfile.ZIP_STORED) as z:
    for path in sorted((root / package).rglob("*")):
        name = str(path.relative_to(root))
        if "__pycache__" in name or "/tests/" in name or path.is_dir() or path.suffix == ".pyc":
            continue
        z.write(path, name)
        if path.suffix == ".py":
            py_compile.compile(str(path), cfile="/tmp/one.pyc", dfile=f"{target}/{name}", doraise=True,
                               invalidation_mode=py_compile.PycInvalidationMode.UNCHECKED_HASH)
            z.write("/tmp/one.pyc", name + "c")
P
}
mkdir -p /tmp/py4j && cd /tmp/py4j && python3 -m zipfile -e "$(ls "$from"/../py4j-*.whl)" .
compile "$to/python" pyspark "$to/python/lib/pyspark.zip"
compile /tmp/py4j py4j "$to/python/lib/py4j-0.10.9.9-src.zip"

# One jar that names all others, in a fixed order: `jars/*` has the order of the directory, which nothing promises,
# and a class data archive is used only if the class path is the one it was made with.
python3 - "$to" <<'P'
import pathlib, sys, zipfile
home = pathlib.Path(sys.argv[1])
names = sorted(p.name for p in (home / "jars").glob("*.jar"))
names.sort(key=lambda n: not n.startswith("slf4j-api-"))       # Spark puts this one first
line = "Class-Path: " + " ".join("jars/" + n for n in names)
lines, first = [], True
while line:                                                    # manifest lines hold 72 bytes, the next begins with a blank
    cut = 70 if first else 69
    lines.append(("" if first else " ") + line[:cut]); line = line[cut:]; first = False
manifest = "Manifest-Version: 1.0\r\n" + "\r\n".join(lines) + "\r\n\r\n"
with zipfile.ZipFile(home / "classpath.jar", "w") as z:
    z.writestr(zipfile.ZipInfo("META-INF/MANIFEST.MF", (2025, 1, 1, 0, 0, 0)), manifest)
P
find "$to" -name __pycache__ -prune -exec rm -rf {} +
chown -R root:root "$to"
find "$to" -type d -exec chmod 0755 {} +
find "$to" -type f -exec chmod 0644 {} +
find "$to" -name '*.jar' -exec touch -d 2025-01-01T00:00:00Z {} +
