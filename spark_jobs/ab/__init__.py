"""An A/B test from its exposure log: users (Spark), moments of arms, effects, the report. Nothing here knows how it is started."""
