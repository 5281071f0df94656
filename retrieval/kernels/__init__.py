"""Compiled loops of the search: plain functions over arrays, each with a slow twin in the tests."""
