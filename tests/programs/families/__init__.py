"""One file per family of programs; each registers its cases when imported."""
