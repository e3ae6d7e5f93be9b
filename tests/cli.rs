//! What a person at a shell sees.
