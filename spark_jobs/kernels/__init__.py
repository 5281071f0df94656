"""Compiled functions over plain arrays (numba); each has a slow twin in the tests. They know neither Spark nor tables."""
