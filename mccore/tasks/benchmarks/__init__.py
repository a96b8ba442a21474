"""Published benchmarks and instruction data, read from the hub; one file each."""
