#!/bin/bash
# Licensed under the Apache License, Version 2.0.
# Starts the server; options of its JVM in ES_JAVA_OPTS, as in the public image.
set -eu
cd /usr/share/elasticsearch
arguments=$(mktemp)
java -Xshare:auto -XX:SharedArchiveFile=arguments.jsa -XX:TieredStopAtLevel=1 -XX:+UseSerialGC -Xmx64m \
  -Des.path.home="$PWD" -cp 'arguments.jar:lib/*' ServerArguments "$PWD" >"$arguments"
# The server ends when its standard input does: that is how its launcher would end it.
exec 0< <(cat "$arguments" && rm -f "$arguments" && exec sleep infinity)
# Native libraries are unpacked there.
export LIBFFI_TMPDIR=/tmp
# What the launcher gives (config/jvm.options of the distribution), but for the collector and the memory touched in advance.
# shellcheck disable=SC2086
exec java -Des.networkaddress.cache.ttl=60 -Des.networkaddress.cache.negative.ttl=10 -Djava.security.manager=allow -Xss1m \
  -Djava.awt.headless=true -Dfile.encoding=UTF-8 -Djna.nosys=true -Djna.tmpdir=/tmp -XX:-OmitStackTraceInFastThrow \
  -Dio.netty.noUnsafe=true -Dio.netty.noKeySetOptimization=true -Dio.netty.recycler.maxCapacityPerThread=0 \
  -Dlog4j.shutdownHookEnabled=false -Dlog4j2.disable.jmx=true -Dlog4j2.formatMsgNoLookups=true \
  -Djava.locale.providers=SPI,COMPAT -XX:+ExitOnOutOfMemoryError \
  -XX:+UseSerialGC -XX:TieredStopAtLevel=1 ${ES_ARCHIVE--XX:SharedArchiveFile=elasticsearch.jsa -Xshare:auto} ${ES_JAVA_OPTS:--Xms256m -Xmx256m} \
  -Des.path.home="$PWD" -Des.path.conf="$PWD/config" -Des.distribution.type=docker \
  --module-path lib --add-modules=jdk.net -m org.elasticsearch.server/org.elasticsearch.bootstrap.Elasticsearch
