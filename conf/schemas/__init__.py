"""The tables, by the part of the day that makes them; conf.tables puts them together."""
