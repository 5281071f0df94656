"""The sections of the settings, by the part of the day they concern; conf.settings puts them together."""
