"""MLflow: the records of a sweep as runs, exported by a process of its own while the sweep goes on."""
