"""Makes ``support`` importable from the tests below, whatever their directory."""
