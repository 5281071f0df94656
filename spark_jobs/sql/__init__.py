"""The readable engine: sessions, co-occurrence and samples written in Spark SQL alone, to be read, and to check the compiled one by.

Same rows as the compiled engine, to the last bit; slower, and without a Python worker or compiled code on the executors.
"""
