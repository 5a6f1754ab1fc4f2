# Licensed under the Apache License, Version 2.0.
# Read by Spark's scripts before anything starts, in our image and in apache/spark:4.0.0. What a service's own environment says goes
# first: there stand the values that differ between labs and instances (topology/spark.toml).

# Name under which the master is reached.
SPARK_MASTER_HOST="${SPARK_MASTER_HOST:-spark-master}"
# What each worker offers to executors.
SPARK_WORKER_CORES="${SPARK_WORKER_CORES:-2}"
SPARK_WORKER_MEMORY="${SPARK_WORKER_MEMORY:-1g}"
