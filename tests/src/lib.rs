//! The integration tests live in `tests/farm`: one binary, one module for each promise. Nothing is here.
