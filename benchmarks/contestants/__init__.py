"""Who is measured: each does the operations of `base.Contestant` in its own way."""
