"""Spark jobs: one file = one spark-submit job = one table or one small family of tables."""
