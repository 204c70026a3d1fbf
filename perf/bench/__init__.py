"""The comparison of ringwire with its peers and the ceiling; `perf/run` starts it."""
