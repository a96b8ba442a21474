"""The machine: paths, the settings file, files on disk, processes. Knows nothing of runs."""
