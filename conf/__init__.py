"""What every part agrees on before any job runs: tables, fields, settings, storage, random draws. Imports nothing else of ours."""
